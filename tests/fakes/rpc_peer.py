"""A peer that answers the first messages of ggml's RPC protocol as it was told to, on a loopback port."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HELLO_BYTES = 1 + 8 + 24
COUNT_BYTES = 1 + 8


def hello_reply(version: tuple[int, int, int]) -> bytes:
    """As ggml answers HELLO: length, version, padding, capabilities."""
    return struct.pack("<Q4B24x", 28, *version, 0)


def count_reply(n_devices: int) -> bytes:
    return struct.pack("<QI", 4, n_devices)


@contextmanager
def rpc_peer(*replies: bytes) -> Iterator[str]:
    """Gives `host:port`. Answers the messages of each connection with these, then closes it; without replies it reads
    and stays silent."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(10)
                for n_bytes, reply in zip((HELLO_BYTES, COUNT_BYTES), replies, strict=False):
                    if not _read(connection, n_bytes):
                        break
                    connection.sendall(reply)
                if not replies:
                    done.wait(30)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def _read(connection: socket.socket, n_bytes: int) -> bool:
    data = b""
    while len(data) < n_bytes:
        part = connection.recv(n_bytes - len(data))
        if not part:
            return False
        data += part
    return True
