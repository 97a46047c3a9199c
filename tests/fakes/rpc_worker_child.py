"""Stands for `donabe.devices.rpc_worker` behind the front of a worker: lends a device that does not exist, and answers
the connection it is handed with HELLO until the peer leaves. A peer that sends `!` makes it abort."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

from tests.fakes.rpc_peer import hello_reply


def main() -> None:
    request = json.loads(sys.stdin.readline())
    if "connection" not in request:
        answer = {"devices": ["FAKE0 (none)"], "protocol": "7.0.0"}
        if request["devices"] == ["ABSENT"]:
            answer = {"error": "there is no device ABSENT", "hint": "devices here: FAKE0"}
        print(json.dumps(answer))
        return
    threading.Thread(target=lambda: sys.stdin.read() or os._exit(0), daemon=True).start()
    with socket.socket(fileno=request["connection"]) as connection:
        while data := connection.recv(64):
            if data == b"!":
                os.abort()
            connection.sendall(hello_reply((7, 0, 0)))


if __name__ == "__main__":
    main()
