"""A server on a loopback port in a thread of its own, for clients that want a real socket."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from donabe.server.listening import open_socket
from donabe.server.stopping import make_server


@contextmanager
def running(app: FastAPI, *, timeout_s: float = 10.0, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve the app; gives its base URL."""
    listener = open_socket("127.0.0.1", 0)
    server = make_server(app, tls=tls)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(sockets=[listener]),), daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout_s
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.005)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout_s)
        listener.close()
        loop.close()
        assert not thread.is_alive()
