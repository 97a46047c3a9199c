"""`donabe serve`: build the app, listen, run until a signal. Runs in the server process's main thread."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from donabe.errors import SettingsError
from donabe.server.contracts import ServerSettings
from donabe.server.guards import is_loopback
from donabe.server.keys import KEY_FILE, KeyFile, KeyRing
from donabe.server.listening import open_socket

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

logger = logging.getLogger("donabe.server")

# Answers that are being written when a stop signal comes may go on this long.
DRAIN_S = 30
# Clients keep connections open between the turns of a chat.
IDLE_CONNECTION_S = 120
MAX_HEADER_BYTES = 64 * 1024


def serve(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM, then drain and stop.

    Raises:
        SettingsError: The address can't be listened on (a taken port is named with its holder), or lets everybody in.
    """
    configure_logging(settings.logging_level)
    refuse_open_door(settings)
    listener = open_socket(settings.host, settings.port)
    try:
        from donabe.server.app import create_app  # heavy; a taken port is reported without it

        server = make_server(create_app(settings))
        host, port = listener.getsockname()[:2]
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()


def refuse_open_door(settings: ServerSettings) -> None:
    """Other machines may call only with keys, unless the user says he wants it so.

    Raises:
        SettingsError: The address is reachable from elsewhere and no key is asked for.
    """
    keys = KeyRing(settings.api_keys, KeyFile(settings.home / KEY_FILE), required=settings.require_api_key)
    if is_loopback(settings.host) or settings.insecure_no_auth or keys.is_required:
        return
    raise SettingsError(
        f"refusing to listen on {settings.host or 'all interfaces'} without API keys: everybody who can reach it"
        " could use and change your models",
        setting="host",
        hint="make one with `donabe key create NAME`, or pass --insecure-no-auth if the network is trusted",
    )


def make_server(app: FastAPI) -> uvicorn.Server:
    """The HTTP server around the app, its own logging off: donabe logs requests itself."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=IDLE_CONNECTION_S,
            timeout_graceful_shutdown=DRAIN_S,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
    )


def configure_logging(level: int) -> None:
    """One line per event on standard error, unless the embedding program has set up logging itself."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        root.addHandler(handler)
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("donabe").setLevel(level)
    for noisy in ("uvicorn.error", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
