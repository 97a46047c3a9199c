"""The peers by the names that `--peer` takes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.load import BenchmarkError
from benchmarks.peers.base import Peer
from benchmarks.peers.llama_server import PATCHED, PRISTINE, LlamaServer
from benchmarks.peers.python_packages import LlamaCppPython, XLlamaCpp
from benchmarks.peers.running_server import RunningServer

PEERS: dict[str, Callable[[], Peer]] = {
    "llama-server": lambda: LlamaServer("llama-server", PATCHED),
    "pristine": lambda: LlamaServer("pristine", PRISTINE),
    "llama-cpp-python": LlamaCppPython,
    "xllamacpp": XLlamaCpp,
}


def peer_of(name: str, peer_model: str) -> Peer:
    """The peer of a name or URL.

    Raises:
        BenchmarkError: There is none.
    """
    if name.startswith(("http://", "https://")):
        return RunningServer(name, peer_model)
    if name not in PEERS:
        raise BenchmarkError(f"no peer {name}: give a URL or one of {', '.join(PEERS)}")
    return PEERS[name]()
