"""How many replicas there are and what each of them may use. No Ray here."""

from __future__ import annotations

from dataclasses import dataclass

# A replica that knows the prompt is passed over for another when it has this many requests more.
MAX_IMBALANCE = 4


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """How models are replicated.

    Attributes:
        n_replicas: Copies of each model.
        cpus: CPUs of each; 0 shares those of the cluster evenly.
        gpus: GPUs of each; Ray hides all others from it. With 0 it computes on the CPU, unless the load options name a
            backend or devices.
        address: Of the Ray cluster; "" starts Ray on this machine, and stops it with the server.
        owner: Names the server in the cluster: what one of the same name left behind is deleted at start.
        max_queue: Requests that may wait in one replica.
        load_stall_s: How long loading may go on without one more replica being ready.
    """

    n_replicas: int
    cpus: int = 0
    gpus: int = 0
    address: str = ""
    owner: str = ""
    max_queue: int = 512
    load_stall_s: float = 300.0
