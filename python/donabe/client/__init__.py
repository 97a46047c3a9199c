"""Talk to a donabe server from Python: `Client` (blocking) and `AsyncClient`.

Answers are the native API's JSON objects as dicts. Failures are typed: `ServerUnavailableError` when nobody answers,
`ResponseError` when the server refuses or fails, also in the middle of a stream.
"""

from __future__ import annotations

from donabe.client.aio import AsyncClient
from donabe.client.sync import Client

__all__ = ["AsyncClient", "Client"]
