"""The HTTP server around the app, and how it ends: the first signal lets answers end, the second ends everything.

After the first signal nothing new is accepted; answers have the shutdown timeout to finish, and those that have not are
ended in-band. Runners notice the end of the server's process by their sockets, so the second signal needs no cleaning.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from socket import socket
from ssl import SSLContext
from types import FrameType

import uvicorn
from fastapi import FastAPI

from donabe.server.draining import Draining
from donabe.server.http_protocol import BoundedHttpProtocol

logger = logging.getLogger("donabe.server")

DEFAULT_SHUTDOWN_TIMEOUT_S = 10.0
# From the in-band end of an answer until its connection has closed.
CLOSING_S = 5
# Clients keep connections open between the turns of a chat.
IDLE_CONNECTION_S = 120


class StoppingServer(uvicorn.Server):
    """Stops as the module says.

    Args:
        shutdown_timeout_s: How long answers may go on after the first signal; may be infinite.
    """

    def __init__(self, config: uvicorn.Config, draining: Draining, *, shutdown_timeout_s: float) -> None:
        super().__init__(config)
        self._draining = draining
        self._shutdown_timeout_s = shutdown_timeout_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # What an uncaught signal does. No clean-up could be trusted to be quick; the store survives any end.
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        timer = None
        if math.isfinite(self._shutdown_timeout_s):
            timer = asyncio.get_running_loop().call_later(self._shutdown_timeout_s, self._end_answers)
        try:
            await super().shutdown(sockets)
        finally:
            if timer is not None:
                timer.cancel()

    def _end_answers(self) -> None:
        n_ended = self._draining.end_all()
        if n_ended:
            logger.warning("ended %d answers that were still running after %g s", n_ended, self._shutdown_timeout_s)


def make_server(
    app: FastAPI, *, shutdown_timeout_s: float = DEFAULT_SHUTDOWN_TIMEOUT_S, tls: SSLContext | None = None
) -> StoppingServer:
    """The server of an app made by `create_app`, its own logging off: donabe logs requests itself."""
    is_bounded = math.isfinite(shutdown_timeout_s)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=math.ceil(shutdown_timeout_s) + CLOSING_S if is_bounded else None,
        http=BoundedHttpProtocol,
    )
    config.load()
    config.ssl = tls
    return StoppingServer(config, app.state.draining, shutdown_timeout_s=shutdown_timeout_s)
