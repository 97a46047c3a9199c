"""All workloads, in the order in which they run. docs/benchmarks.md says what each of them means."""

from __future__ import annotations

from benchmarks import cold_start, concurrent_requests, conversations, procedures
from benchmarks.peers.base import Setup
from benchmarks.workload import LONG, Procedure, Workload

ALL: tuple[Workload | Procedure, ...] = (
    Workload("W1", concurrent_requests.w1_one_stream),
    Workload("W2", concurrent_requests.w2_eight_streams),
    Workload("W3", concurrent_requests.w3_shared_prompt),
    Workload("W4", concurrent_requests.w4_long_arrival),
    Workload("n8", concurrent_requests.n8_one_prompt),
    Workload("tree", conversations.tree_of_prompts),
    Workload("turns", conversations.long_chat),
    Workload("memory", concurrent_requests.memory_in_use),
    Workload("agent", conversations.agent_loop, LONG),
    Workload("plain", concurrent_requests.w1_plain, Setup(guesses=False)),
    Workload("embed", concurrent_requests.embed_texts, Setup(is_embedding=True)),
    Procedure("restart", procedures.restart),
    Procedure("http", procedures.http_overhead),
    Procedure("cold", cold_start.cold_start),
    Procedure("resident", cold_start.resident),
)

WORKLOADS = {workload.name: workload for workload in ALL}
