"""`donabe serve`: build the app, listen, run until a signal. Runs in the server process's main thread."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal

from donabe.errors import SettingsError
from donabe.server.contracts import ServerSettings
from donabe.server.guards import is_loopback
from donabe.server.keys import KEY_FILE, KeyFile, KeyRing
from donabe.server.listening import open_socket
from donabe.server.log_lines import JsonLines, TextLines
from donabe.server.tls import tls_context

if TYPE_CHECKING:
    from donabe.server.app import Collaborators

logger = logging.getLogger("donabe.server")


def serve(settings: ServerSettings, collaborators: Collaborators | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then let answers end and stop. A second signal ends the process at once.

    Args:
        collaborators: What the app is built over instead of the settings' store, registry and runner processes.

    Raises:
        SettingsError: The address can't be listened on (a taken port is named with its holder), or lets everybody in,
            or the certificate can't be used.
    """
    configure_logging(settings.logging_level, settings.log_format)
    refuse_open_door(settings)
    tls = tls_context(settings.tls_cert, settings.tls_key)
    listener = open_socket(settings.host, settings.port)
    try:
        # heavy; a taken port is reported without them
        from donabe.server.app import create_app
        from donabe.server.stopping import make_server

        app = create_app(settings, collaborators)
        server = make_server(app, shutdown_timeout_s=settings.shutdown_timeout_s, tls=tls)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        logger.info("listening on %s://%s:%d", "http" if tls is None else "https", shown, port)
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


def configure_logging(level: int, log_format: Literal["text", "json"] = "text") -> None:
    """One line per event on standard error, unless the embedding program has set up logging itself."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
        root.addHandler(handler)
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("donabe").setLevel(level)
    for noisy in ("uvicorn.error", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
