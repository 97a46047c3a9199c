"""One token stream of a request, as counters: `n_computed` catches up with `n_total`. There are no phases.

A sequence whose n_computed is one short of n_total is decoding; one that is further behind is prefilling, be it a fresh
prompt, the rest after a prefix hit, or everything again after a preemption. Engine thread only.

    0 .......... n_cached ........ n_computed ......... n_total
    shared from the prefix cache   computed by itself   known, not computed; the last token is always among them
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from donabe.engine.radix import Branch, Key
from donabe.engine.ram_tier import Saved
from donabe.engine.request import EngineRequest
from donabe.engine.tokens import TokenBuffer
from donabe.types import Usage

if TYPE_CHECKING:
    from donabe._core import Sampler, SequenceOutputState
    from donabe.engine.speculation import Drafter


class State(enum.Enum):
    WAITING = "waiting"  # never run, or preempted
    RUNNING = "running"
    FINISHED = "finished"


class Call:
    """A request in flight and its n sequences."""

    __slots__ = ("key", "n_live", "order", "request", "sequences", "submitted")

    def __init__(self, request: EngineRequest, key: Key, samplers: list[Sampler], submitted: float) -> None:
        self.request = request
        self.key = key
        self.submitted = submitted
        self.order = 0  # of arrival at the scheduler: smaller is older
        self.sequences = [Sequence(self, i, sampler) for i, sampler in enumerate(samplers)]
        self.n_live = len(self.sequences)


class Sequence:
    """Tokens, counters, and what holds its place in the pool and in the sampler set."""

    __slots__ = (
        "branch",
        "buffer",
        "call",
        "cuts",
        "drafter",
        "first_run",
        "first_token",
        "following",
        "guesser",
        "index",
        "n_accepted",
        "n_cached",
        "n_computed",
        "n_drafted",
        "n_output",
        "n_output_max",
        "n_preempted",
        "n_prompt",
        "n_shifted",
        "output_state",
        "prefilled_at",
        "sampler",
        "saved",
        "state",
    )

    def __init__(self, call: Call, index: int, sampler: Sampler) -> None:
        self.call = call
        self.index = index
        self.sampler: Sampler | None = sampler  # until bound to the sampler set
        self.state = State.WAITING
        self.buffer = TokenBuffer(call.request.tokens)
        self.n_prompt = len(call.request.tokens)  # of the caller's prompt
        self.n_computed = 0
        self.n_cached = 0
        self.n_output = 0
        self.n_output_max = 1 << 30
        self.n_shifted = 0  # tokens dropped by context shifts
        self.n_preempted = 0
        self.prefilled_at = 0  # its last prompt chunk's number among all
        self.n_drafted = 0
        self.n_accepted = 0
        self.cuts: list[int] = []  # ascending positions at which a chunk must end
        self.branch: Branch[Saved] | None = None
        self.following: tuple[Sequence, int] | None = None  # wait until that sequence has computed that many tokens
        self.output_state: SequenceOutputState | None = None  # while preempted
        self.saved: Saved | None = None  # while preempted: state of its computed tokens
        self.drafter: Drafter | None = None  # of prompt lookup
        self.guesser: Drafter | None = None  # of the draft model
        self.first_run: float | None = None
        self.first_token: float | None = None

    @property
    def n_total(self) -> int:
        return self.buffer.n

    @property
    def n_remaining(self) -> int:
        """Known tokens not computed yet; at least 1 while it runs."""
        return self.buffer.n - self.n_computed

    @property
    def seq_id(self) -> int:
        assert self.branch is not None, "not in the pool"
        return self.branch.seq_id

    @property
    def age(self) -> tuple[int, int]:
        """Sorts by arrival, oldest first."""
        return self.call.order, self.index

    @property
    def priority(self) -> int:
        return self.call.request.priority

    def add_cut(self, position: int) -> None:
        """Make a chunk end at this position, where a state can then be forked or saved."""
        if self.n_computed < position < self.n_total and position not in self.cuts:
            self.cuts.append(position)
            self.cuts.sort()

    def next_cut(self) -> int:
        """The next position a chunk must not go beyond."""
        return next((cut for cut in self.cuts if cut > self.n_computed), self.n_total)

    def drop_middle(self, n_ctx: int) -> None:
        """Forget the older half after n_keep, in a buffer of its own: a branch of the pool may hold the old one."""
        request = self.call.request
        n_keep = request.n_keep if request.n_keep >= 0 else self.n_prompt
        n_keep = min(n_keep, n_ctx * 3 // 4, self.n_total - 2)
        n_drop = max((self.n_total - n_keep) // 2, 1)
        tokens = self.buffer.view()
        self.buffer = TokenBuffer(tokens[:n_keep])
        self.buffer.extend(tokens[n_keep + n_drop :].tolist())
        self.cuts.clear()
        self.n_shifted += n_drop

    def usage(self, now: float) -> Usage:
        submitted = self.call.submitted
        started = self.first_run if self.first_run is not None else now
        first_token = self.first_token if self.first_token is not None else now
        return Usage(
            n_prompt_tokens=self.n_prompt,
            n_cached_tokens=self.n_cached,
            n_output_tokens=self.n_output,
            n_draft_tokens=self.n_drafted,
            n_draft_accepted=self.n_accepted,
            n_truncated_tokens=self.n_shifted,
            queue_s=started - submitted,
            prompt_s=max(first_token - started, 0.0),
            output_s=now - first_token,
            total_s=now - submitted,
        )
