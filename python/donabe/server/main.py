"""`donabe serve`: build the app, listen, run until a signal. Runs in the server process's main thread."""

from __future__ import annotations

from donabe.server.contracts import ServerSettings


def serve(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM, then drain and stop.

    Raises:
        SettingsError: The address can't be listened on (taken port: the hint says by whom).
    """
    raise NotImplementedError
