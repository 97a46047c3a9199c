"""Draft model: a small model with the same vocabulary says first what the large one will probably say.

Owns a context of its own, with a lane (a sequence id of that context) for each sequence that may run. Lanes mirror
nothing: a lane remembers which tokens it has computed, and before it guesses it is cut back to what still agrees with
its sequence and fed what is missing. So forks, evictions, preemptions and wrong guesses need no bookkeeping elsewhere.
How many tokens are guessed is the policy's choice (`speculation`); the large model's sampler decides about each.
Engine thread only. References: Leviathan et al. (2023), Chen et al. (2023), on speculative decoding and sampling.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.engine.budget import RowTimes
from donabe.engine.plan import Draft, Plan
from donabe.engine.sequence import Sequence, State
from donabe.engine.tokens import TokenBuffer, common_prefix
from donabe.errors import KvFullError, NativeError

if TYPE_CHECKING:
    from donabe._core import Batch, Context, Model
    from donabe.engine.radix import Key

log = logging.getLogger(__name__)

READY_TOKENS = 16  # a lane that misses no more than this guesses in the same step
CATCH_UP_S = 0.03  # a step may take so much longer because lanes are fed prompts
FIRST_CATCH_UP = 32  # tokens, before their cost is measured
MIN_FORK_TOKENS = 32  # a fork must save at least so many tokens more than the best free lane
N_SAMPLED_PIECES = 256  # tokens whose text is compared when vocabularies are
_NOTHING = np.empty(0, np.int32)
_SPECIAL = ("bos", "eos", "eot", "sep", "fim_pre", "fim_suf", "fim_mid")


class Lane:
    """A sequence of the draft context: tokens [0, n_known) of `buffer`, then its own guesses."""

    __slots__ = ("buffer", "guessed", "key", "n_known", "owner", "seq_id", "used")

    def __init__(self, seq_id: int) -> None:
        self.seq_id = seq_id
        self.key: Key | None = None
        self.buffer = TokenBuffer(_NOTHING)
        self.n_known = 0
        self.guessed = _NOTHING
        self.owner: Sequence | None = None
        self.used = 0  # when, in calls

    @property
    def n(self) -> int:
        return self.n_known + len(self.guessed)

    def n_common(self, buffer: TokenBuffer) -> int:
        """How many tokens in memory agree with the front of `buffer`, whose last token stays to be computed."""
        if buffer is self.buffer:
            n = self.n_known + common_prefix(self.guessed, buffer.view(self.n_known))
        else:
            n = common_prefix(np.concatenate((self.buffer.view(0, self.n_known), self.guessed)), buffer.view())
        return min(n, len(buffer) - 1)


class DraftModel:
    """Guesses for running sequences; see the module."""

    def __init__(self, native: Any, model: Model, context: Context) -> None:
        self.is_on = True
        self._context = context
        self._memory = context.memory
        self._n_positions = min(context.n_ctx, model.n_ctx_train or context.n_ctx)
        self._batch: Batch = native.Batch(context.n_batch)
        self._lanes = [Lane(seq_id) for seq_id in range(context.n_seq_max)]
        self._ready_tokens = max(2, min(READY_TOKENS, context.n_batch // (2 * len(self._lanes))))
        self._samplers = native.SamplerSet(model, 1)
        for lane in self._lanes:
            sampler = native.Sampler(model, native.SamplerParams(temperature=0.0), 0)
            self._samplers.bind(lane.seq_id, sampler, native.OutputLimits(ignore_eos=True))  # a lane never ends
        self._round_times = RowTimes()
        self._token_s = 0.0  # of a fed token; 0 = not measured
        self._n_calls = 0

    def round_s(self, n_sequences: int) -> float | None:
        """Time of one guess for each of so many sequences; None where nothing was measured."""
        return self._round_times(n_sequences)

    def n_room(self, sequence: Sequence) -> int:
        """Guesses the draft model's context allows."""
        return self._n_positions - sequence.n_total

    def memory_breakdown(self) -> list[tuple[str, int, int, int]]:
        return self._context.memory_breakdown()

    def complete(self, plan: Plan) -> float:
        """Turn plan.guessing into drafts, or into plain rows where there is no guess. Returns the native seconds."""
        wanted, plan.guessing = plan.guessing, []
        guesses, native_s = self._guess_safely(wanted)
        for sequence, _ in wanted:
            tokens = guesses.get(sequence)
            if tokens:
                known = int(sequence.buffer[sequence.n_total - 1])
                plan.drafts.append(Draft(sequence, np.array([known, *tokens], np.int32), is_model=True))
            else:
                plan.decode.append(sequence)
        return native_s

    def _guess_safely(self, wanted: list[tuple[Sequence, int]]) -> tuple[dict[Sequence, list[int]], float]:
        """Without guesses everything goes on as before: no failure in here is a request's."""
        if not self.is_on:
            return {}, 0.0
        try:
            return self._guess(wanted)
        except KvFullError:
            for lane in self._lanes:
                self._clear(lane)
        except NativeError as error:
            self.is_on = False
            log.warning("the draft model failed and is not used any more: %s", error)
        return {}, 0.0

    def _guess(self, wanted: list[tuple[Sequence, int]]) -> tuple[dict[Sequence, list[int]], float]:
        self._n_calls += 1
        lanes = [(lane, n) for sequence, n in wanted if (lane := self._lane_of(sequence)) is not None]
        new, native_s = self._feed(lanes)
        guesses: dict[int, list[int]] = {seq_id: [token] for seq_id, token in new.items()}
        while True:
            going = [(lane, made) for lane, n in lanes if (made := guesses.get(lane.seq_id)) and len(made) < n]
            if not going:
                break
            native_s += self._extend(going)
        owners = {lane.seq_id: lane.owner for lane, _ in lanes}
        return {owner: guesses[i] for i, owner in owners.items() if owner is not None and i in guesses}, native_s

    def _feed(self, lanes: list[tuple[Lane, int]]) -> tuple[dict[int, int], float]:
        """Give lanes the tokens they miss, the nearest ones first; a guess of each that has all of them now."""
        self._batch.clear()
        budget = self._catch_up_tokens()
        fed: list[tuple[Lane, int]] = []
        for lane, n_guesses in sorted(lanes, key=lambda item: len(item[0].buffer) - item[0].n):
            n_missing = len(lane.buffer) - lane.n
            n = n_missing if n_missing <= self._ready_tokens else min(n_missing, budget)
            if n <= 0 or not self._make_room(n + n_guesses + sum(k for _, k in fed)):
                continue
            tokens = lane.buffer.view(lane.n, lane.n + n)
            self._batch.add_tokens(lane.seq_id, tokens, lane.n, "last" if n == n_missing else "none")
            budget -= n
            fed.append((lane, n))
        if not fed:
            return {}, 0.0
        new, native_s = self._run()
        for lane, n in fed:
            lane.n_known += n
        n_fed = sum(n for _, n in fed)
        if n_fed > 2 * len(fed):
            self._token_s += (0.5 if self._token_s else 1.0) * (native_s / n_fed - self._token_s)
        else:
            self._round_times.observe(len(fed), native_s)
        return new, native_s

    def _extend(self, going: list[tuple[Lane, list[int]]]) -> float:
        """One more guess after the last of each."""
        self._batch.clear()
        self._batch.add_decode(
            np.array([lane.seq_id for lane, _ in going], np.int32),
            np.array([made[-1] for _, made in going], np.int32),
            np.array([lane.n for lane, _ in going], np.int32),
        )
        new, native_s = self._run()
        for lane, made in going:
            lane.guessed = np.append(lane.guessed, np.int32(made[-1]))
            made.append(new[lane.seq_id])
        self._round_times.observe(len(going), native_s)
        return native_s

    def _run(self) -> tuple[dict[int, int], float]:
        result = self._context.decode_and_sample(self._batch, self._samplers)
        tokens = dict(zip(result.seq_ids.tolist(), result.tokens.tolist(), strict=True))
        return tokens, result.decode_s + result.sample_s

    def _catch_up_tokens(self) -> int:
        most = self._context.n_batch - self._ready_tokens * len(self._lanes)
        wanted = int(CATCH_UP_S / self._token_s) if self._token_s else FIRST_CATCH_UP
        return max(min(wanted, most), self._ready_tokens)

    # --- lanes ---

    def _lane_of(self, sequence: Sequence) -> Lane | None:
        """The sequence's lane, cut back to what agrees with it."""
        lane = next((lane for lane in self._lanes if lane.owner is sequence), None) or self._take_lane(sequence)
        if lane is None:
            return None
        lane.used = self._n_calls
        n = lane.n_common(sequence.buffer)
        if len(sequence.buffer) - n > self._ready_tokens:
            n = self._fork_to(lane, sequence, n)
        if n < lane.n and not self._memory.seq_rm(lane.seq_id, n, -1):
            self._memory.seq_rm(lane.seq_id)
            n = 0
        lane.buffer, lane.n_known, lane.guessed = sequence.buffer, n, _NOTHING
        return lane

    def _take_lane(self, sequence: Sequence) -> Lane | None:
        """A free lane: the one that has begun with most of the same tokens, or the one not used for longest."""
        for lane in self._lanes:
            if lane.owner is not None and lane.owner.state is not State.RUNNING:
                lane.owner = None
        free = [lane for lane in self._lanes if lane.owner is None]
        if not free:
            return None
        key = sequence.call.key
        lane = max(free, key=lambda lane: (lane.n_common(sequence.buffer) if lane.key == key else 0, -lane.used))
        if lane.key != key:
            self._clear(lane)
        lane.owner, lane.key = sequence, key
        return lane

    def _fork_to(self, lane: Lane, sequence: Sequence, n: int) -> int:
        """Take over what another lane has computed of the same tokens, if that is clearly more than n."""
        others = [other for other in self._lanes if other.key == lane.key and other is not lane]
        common = [other.n_common(sequence.buffer) for other in others]
        best = max(common, default=0)
        if best < n + MIN_FORK_TOKENS:
            return n
        self._memory.seq_rm(lane.seq_id)
        is_forked = self._memory.fork(others[common.index(best)].seq_id, lane.seq_id, best)
        lane.buffer, lane.n_known, lane.guessed = sequence.buffer, best if is_forked else 0, _NOTHING
        return lane.n_known

    def _make_room(self, n_cells: int) -> bool:
        """Counts shared cells for every lane, so it errs on the safe side."""
        while sum(lane.n for lane in self._lanes) + n_cells > self._context.n_ctx:
            idle = [lane for lane in self._lanes if lane.n and lane.used < self._n_calls]
            if not idle:
                return False
            self._clear(min(idle, key=lambda lane: lane.used))
        return True

    def _clear(self, lane: Lane) -> None:
        self._memory.seq_rm(lane.seq_id)
        lane.n_known, lane.guessed, lane.owner = 0, _NOTHING, None


def why_unfit(model: Model, draft: Model) -> str | None:
    """Why `draft` can't guess for `model`, or None when it can: every token must mean the same to both."""
    if not draft.has_decoder or draft.has_encoder or draft.memory_kind not in ("dense", "iswa"):
        return f"its memory ({draft.memory_kind}) can't take guesses back"
    ours, theirs = model.vocab, draft.vocab
    for name in ("n_tokens", "kind", *_SPECIAL):
        if getattr(ours, name) != getattr(theirs, name):
            return f"its vocabulary differs: {name} is {getattr(theirs, name)}, not {getattr(ours, name)}"
    if ours.eog_tokens() != theirs.eog_tokens():
        return "its vocabulary differs in the tokens that end an answer"
    for token in range(0, ours.n_tokens, max(1, ours.n_tokens // N_SAMPLED_PIECES)):
        if ours.piece(token, special=True) != theirs.piece(token, special=True):
            return f"its vocabulary differs: token {token} has another text"
    return None
