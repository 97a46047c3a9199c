"""The child's end of the socket pair: frames read by one thread, written by several."""

from __future__ import annotations

import socket
import threading

from donabe.runner import messages
from donabe.runner.messages import ChildMessage, ParentMessage


class Channel:
    """Blocking frames over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def receive(self) -> ParentMessage | None:
        """The next message; None when the parent closed the connection."""
        header = self._read(messages.HEADER_BYTES)
        body = self._read(messages.frame_body_bytes(header)) if header is not None else None
        return None if body is None else messages.parent_message_decoder.decode(body)

    def send(self, message: ChildMessage) -> None:
        frame = messages.encode_frame(message)
        with self._lock:
            try:
                self._sock.sendall(frame)
            except OSError:  # the parent is gone; the reading thread sees it too and ends the process
                return

    def _read(self, n_bytes: int) -> bytes | None:
        data = bytearray(n_bytes)
        view = memoryview(data)
        n_read = 0
        while n_read < n_bytes:
            try:
                n = self._sock.recv_into(view[n_read:])
            except OSError:
                return None
            if n == 0:
                return None
            n_read += n
        return bytes(data)
