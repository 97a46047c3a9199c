"""Ray Serve's request router of the replicas: asks `affinity` where a request goes. Imports Ray.

Ray makes one for each handle and runs it on the handle's own loop, in the server's process.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from donabe.replicas.affinity import AffinityTable, split_keys


class PrefixAffinityRouter(RequestRouter):
    """Prefers the replica that has seen the longest beginning of the prompt, within a bounded imbalance."""

    def initialize_state(self, *, max_imbalance: int) -> None:
        """Called by Ray with the deployment's `request_router_kwargs`."""
        self._table = AffinityTable(max_imbalance=max_imbalance)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas in order of preference, each a rank of its own: Ray takes the first one that has room."""
        if pending_request is None:
            return [candidate_replicas]
        # All are offered each time; without this Ray would ask again at once, for ever, while all are full.
        pending_request.routing_context.should_backoff = True
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        self._table.set_replicas(by_id)
        keys = _keys(pending_request)
        ranked = self._table.rank(keys)
        if ranked:
            # Counted from here on, not from when it is sent: many requests may be chosen for before that.
            self._begin(pending_request, ranked[0], keys)
        return [[by_id[replica]] for replica in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Called by Ray when a replica has accepted: it may be another than the first choice."""
        self._table.move(pending_request.metadata.internal_request_id, replica_id.unique_id, _keys(pending_request))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Called by Ray once for each request that was sent, however it ended."""
        self._table.end(internal_request_id)

    def _begin(self, pending_request: PendingRequest, replica: str, keys: list[bytes]) -> None:
        request = pending_request.metadata.internal_request_id
        self._table.begin(request, replica, keys)

        def forget_if_cancelled(future: asyncio.Future[Any]) -> None:
            if future.cancelled():  # before it was sent: Ray will not say that it has ended
                self._table.end(request)

        pending_request.future.add_done_callback(forget_if_cancelled)


def _keys(pending_request: PendingRequest) -> list[bytes]:
    return split_keys(pending_request.kwargs.get("prefix_keys", b""))
