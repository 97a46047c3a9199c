"""The programs that are compared: one module per kind, all behind the `Peer` protocol."""

from benchmarks.peers.base import Peer, Setup
from benchmarks.peers.choose import PEERS, peer_of

__all__ = ["PEERS", "Peer", "Setup", "peer_of"]
