"""Which tokens run next. `schedule(now)` makes the plan of one step; it reads no clock, computes and publishes nothing.

Decode first: every running sequence gets its next token, what is left of the step's budget goes to prompt chunks,
shared among the prefilling sequences. Admission takes only what fits; cached prefixes make room first, then the newest
sequence is preempted. Pool operations go through the prefix cache. Engine thread only.
"""

from __future__ import annotations

from donabe.engine.admission import WaitingQueue
from donabe.engine.budget import StepBudget
from donabe.engine.options import EngineOptions
from donabe.engine.plan import Chunk, Draft, Moved, Plan
from donabe.engine.prefix_cache import MIN_CHECKPOINT_TOKENS, NOWHERE, ForkPoint, PrefixCache
from donabe.engine.sequence import Call, Sequence, State
from donabe.engine.speculation import Drafter, Speculation
from donabe.engine.tokens import TokenBuffer, common_prefix
from donabe.types import FinishReason

MIN_FOLLOW_TOKENS = 32  # waiting for another's prefill must save at least so many prompt tokens
MIN_SHARE = 16  # smallest chunk a prefilling sequence gets when several share a step
CUT_SPACING = 256  # between two checkpoint positions of a prompt
CUT_EVERY = 4096  # checkpoints inside long messages


class Scheduler:
    """The running and the waiting sequences."""

    def __init__(
        self, cache: PrefixCache, budget: StepBudget, options: EngineOptions, *, n_batch: int, speculation: Speculation
    ) -> None:
        self._cache = cache
        self._budget = budget
        self._options = options
        self._n_batch = n_batch
        self._speculation = speculation
        self._n_arrived = 0
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []  # by priority, then oldest first
        self.n_preemptions = 0
        self._is_held = False  # the pool was full against the accounting: admit nobody until a sequence has ended

    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    def add(self, call: Call) -> None:
        self._n_arrived += 1
        call.order = self._n_arrived
        for sequence in call.sequences:
            self.waiting.add(sequence)

    # --- the plan ---

    def schedule(self, now: float) -> Plan:
        plan = Plan()
        if self._cache.kind.needs_consecutive:
            self._close_gaps(plan)
        self._admit(plan, now)
        rows = self._decode_rows(plan, now)
        while True:
            self._plan_prefill(plan, len(rows), now)
            if rows or plan.chunks or not self.running or not self._yield_room(plan, now):
                break
        self._plan_decode(plan, rows)
        return plan

    def _decode_rows(self, plan: Plan, now: float) -> list[Sequence]:
        """Sequences with one token to compute, after making sure that each has a cell for it."""
        while True:
            rows = [s for s in self.running if s.n_remaining == 1][: self._n_batch]
            if self._cache.kind.needs_consecutive:
                rows.sort(key=lambda s: s.seq_id)  # in the batch, too
            if self._cache.make_room(len(rows), 0, now):
                return rows
            if not self._yield_room(plan, now):
                return []

    def _plan_decode(self, plan: Plan, rows: list[Sequence]) -> None:
        if not self._speculation.is_on:
            plan.decode = rows
            return
        n_spare = min(self._n_batch - len(rows) - plan.n_prefill, self._cache.n_free - len(rows) - plan.n_prefill)
        n_rows = len(rows)
        plain: list[Sequence] = []
        for sequence in rows:
            guess = self._speculation.draft(sequence, n_rows, n_spare)
            if guess is None:
                plain.append(sequence)
            else:
                n_spare -= len(guess) - 1
                n_rows += len(guess) - 1
                plan.drafts.append(Draft(sequence, guess))
        if not plain or not self._speculation.has_model:
            plan.decode = plain
            return
        for sequence, n in zip(plain, self._speculation.model_lengths(plain, n_rows, n_spare), strict=True):
            if n:
                plan.guessing.append((sequence, n))
            else:
                plan.decode.append(sequence)

    def _plan_prefill(self, plan: Plan, n_rows: int, now: float) -> None:
        prefilling = [s for s in self.running if s.n_remaining > 1]
        if not prefilling:
            return
        budget = self._budget.prefill_tokens(n_rows)
        wanted = min(budget, sum(s.n_remaining for s in prefilling))
        self._cache.make_room(n_rows + wanted, 0, now)
        budget = min(budget, self._cache.n_free - n_rows)
        share = max(MIN_SHARE, budget // len(prefilling))
        sizes = []
        for sequence in prefilling:  # oldest first
            size = min(share, budget, sequence.next_cut() - sequence.n_computed)
            sizes.append(size)
            budget -= size
        for i, sequence in enumerate(prefilling):  # what short prompts left over goes to the oldest
            size = min(sizes[i] + budget, sequence.next_cut() - sequence.n_computed)
            budget -= size - sizes[i]
            if size > 0:
                plan.chunks.append(Chunk(sequence, size, sequence.n_computed + size == sequence.n_total))

    def _close_gaps(self, plan: Plan) -> None:
        for sequence in sorted(self.running, key=lambda s: -s.seq_id):
            old_id = sequence.seq_id
            assert sequence.branch is not None
            if not self._cache.move_down(sequence.branch):
                return
            plan.moved.append(Moved(sequence, old_id, sequence.seq_id))

    # --- admission ---

    def _admit(self, plan: Plan, now: float) -> None:
        if not len(self.waiting) or (self._is_held and self.running):
            return
        is_full = len(self.running) >= self._options.n_parallel
        if is_full and self.waiting.highest_priority() <= min(s.priority for s in self.running):
            return
        for sequence in self.waiting.ordered(self.running):
            if len(self.running) >= self._options.n_parallel and not self._displace(sequence, plan, now):
                return
            if self._is_following(sequence):
                continue
            if not self._admit_one(sequence, plan, now) and not self._is_following(sequence):
                return  # nobody overtakes the one whose turn it is

    def _admit_one(self, sequence: Sequence, plan: Plan, now: float) -> bool:
        limit = sequence.n_total - 1  # the last token must be evaluated, it gives the first logits
        points = self._cache.find(sequence.call.key, sequence.buffer.view(), limit)
        if self._follow(sequence, points[0].k if points else 0, limit):
            return False
        if sequence.saved is None:
            token_s, wait = self._budget.prefill_cost_s, not self.running
            key, tokens = sequence.call.key, sequence.buffer.view()
            found = self._cache.find_on_disk(key, tokens, limit, points, token_s=token_s, wait=wait, now=now)
            if found is None:
                return False  # a longer prefix is being read; steps go on meanwhile
            points = found
        points.append(NOWHERE)
        for point in points:
            if point.source is not None and point.source not in self._cache.tree.branches:
                continue  # evicted while an earlier point was tried
            if self._resume(sequence, point, plan, now):
                return True
            if not self._make_room_for(sequence, point, now):
                if self.running:
                    return self._displace(sequence, plan, now) and self._admit_one(sequence, plan, now)
                continue  # alone: the prompt has to fit, if need be without its cached prefix
            branch = self._cache.start(sequence.call.key, sequence.buffer, point, now)
            if branch is not None:
                sequence.branch = branch
                self._run(sequence, point.k, plan, now)
                return True
        return False

    def _run(self, sequence: Sequence, n_computed: int, plan: Plan, now: float) -> None:
        self.waiting.remove(sequence)
        sequence.state = State.RUNNING
        sequence.n_computed = n_computed
        if sequence.first_run is None:
            sequence.first_run = now
            sequence.n_cached = n_computed
        sequence.following = None
        sequence.saved = None
        self._add_cuts(sequence)
        self.running.append(sequence)
        self.running.sort(key=lambda s: (-s.priority, s.age))
        plan.admitted.append(sequence)

    def _resume(self, sequence: Sequence, point: ForkPoint, plan: Plan, now: float) -> bool:
        """Put a preempted sequence's saved state back, unless the tree offers nearly as much for free."""
        saved = sequence.saved
        if saved is None or saved.blob is None or point.k + MIN_FOLLOW_TOKENS > saved.n_tokens:
            return False
        n_cells = saved.n_tokens + self._reserve(sequence, saved.n_tokens) + self._reserved()
        if not self._cache.make_room(n_cells, 1, now, keep=point.source):
            return False
        branch = self._cache.restore(sequence.call.key, sequence.buffer, saved, now)
        if branch is None:
            return False
        sequence.branch = branch
        self._run(sequence, saved.n_tokens, plan, now)
        return True

    def _make_room_for(self, sequence: Sequence, point: ForkPoint, now: float) -> bool:
        cache, source = self._cache, point.source
        n_shared = point.k if source is not None else 0
        n_tokens = point.entry.state.n_tokens if point.entry is not None else 0  # restored whole, then cut
        n_ids = 1 if point.entry is None else 2
        n_cells = max(self._reserve(sequence, n_shared), n_tokens) + self._reserved()
        if cache.make_room(n_cells, n_ids, now, keep=source):
            return True
        if self.running:
            return False
        if source is not None and cache.kind.can_cut and source.n > point.k:
            cache.cut(source, point.k)
        return cache.make_room(max(sequence.n_total - n_shared, n_tokens), n_ids, now, keep=source)

    def _reserve(self, sequence: Sequence, n_computed: int) -> int:
        """Cells the sequence will need soon, beyond the n_computed it has."""
        n_output = min(self._options.headroom_tokens, max(sequence.n_output_max - sequence.n_output, 0))
        return sequence.n_total - n_computed + n_output

    def _reserved(self) -> int:
        return sum(self._reserve(s, s.n_computed) for s in self.running)

    # --- leaders and followers ---

    def _is_following(self, sequence: Sequence) -> bool:
        """Still waiting for another sequence's prefill to reach their common prefix."""
        if sequence.following is None:
            return False
        leader, position = sequence.following
        if leader.state is State.RUNNING and leader.n_computed < position <= leader.n_total:
            return True
        sequence.following = None
        return False

    def _follow(self, sequence: Sequence, k: int, limit: int) -> bool:
        """Wait for a running prefill that will cover clearly more of the prompt than what is in the pool now."""
        if not self._cache.kind.shares:
            return False
        tokens = sequence.buffer.view(0, limit)
        best: tuple[int, Sequence] | None = None
        for leader in self.running:
            if leader.n_remaining > 1 and leader.call.key == sequence.call.key:
                position = common_prefix(tokens, leader.buffer.view())
                if position >= k + MIN_FOLLOW_TOKENS and position > max(leader.n_computed, best[0] if best else 0):
                    best = (position, leader)
        if best is None:
            return False
        position, leader = best
        if self._cache.kind.wants_checkpoints:
            leader.add_cut(position)
        sequence.following = (leader, position)
        return True

    def _add_cuts(self, sequence: Sequence) -> None:
        """Where chunks of this prompt must end because a later fork may need the state there."""
        if not self._cache.kind.wants_checkpoints:
            return
        end = sequence.n_total - 1
        if end < MIN_FOLLOW_TOKENS or sequence.n_output:
            return
        sequence.add_cut(end)
        boundaries = [b for b in sequence.call.request.boundaries if MIN_CHECKPOINT_TOKENS <= b < end]
        for position in sorted({*boundaries, *range(CUT_EVERY, end, CUT_EVERY)}, reverse=True):
            if end - position >= CUT_SPACING:
                sequence.add_cut(position)
                end = position
        if boundaries:
            sequence.add_cut(boundaries[0])

    # --- preemption ---

    def _displace(self, sequence: Sequence, plan: Plan, now: float) -> bool:
        """Preempt a running sequence of lower priority than this waiting one."""
        lower = [s for s in self.running if s.priority < sequence.priority]
        if not lower:
            return False
        self._preempt(max(lower, key=lambda s: (-s.priority, s.age)), plan, now)
        return True

    def _yield_room(self, plan: Plan, now: float) -> bool:
        """Preempt the newest sequence of the lowest priority; a lone one ends instead. False when nothing runs."""
        if not self.running:
            return False
        if len(self.running) == 1:
            sequence = self.running[0]
            plan.ended.append((sequence, sequence.seq_id, FinishReason.LENGTH))
            if sequence in plan.admitted:
                plan.admitted.remove(sequence)
            self.finish(sequence, now)
            return True
        self._preempt(max(self.running, key=lambda s: (-s.priority, s.age)), plan, now)
        return True

    def _preempt(self, sequence: Sequence, plan: Plan, now: float) -> None:
        branch = sequence.branch
        assert branch is not None
        self.n_preemptions += 1
        sequence.n_preempted += 1
        if sequence in plan.admitted:
            plan.admitted.remove(sequence)
        else:
            plan.preempted.append((sequence, branch.seq_id))
        if branch.n_exclusive * 2 >= branch.n >= MIN_FOLLOW_TOKENS or not self._cache.kind.counts_cells:
            sequence.saved = self._cache.save(branch, now)
        self._park(sequence)
        self._cache.drop(branch)

    def _park(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.branch = None
        sequence.n_computed = 0
        sequence.state = State.WAITING
        self.waiting.add(sequence)

    def relieve(self, now: float) -> Plan:
        """The native pool was full although the accounting said otherwise: free something, whatever it takes."""
        plan = Plan()
        self._is_held = True
        if not self._cache.evict_one(now):
            self._yield_room(plan, now)
        return plan

    # --- results ---

    def advance(self, sequence: Sequence, n_tokens: int, now: float) -> None:
        """The sequence has computed n_tokens more."""
        branch = sequence.branch
        assert branch is not None
        n_computed = sequence.n_computed = sequence.n_computed + n_tokens
        self._cache.tree.extend(branch, n_computed)
        if sequence.cuts and n_computed in sequence.cuts:
            sequence.cuts.remove(n_computed)
            self._cache.checkpoint(branch, now)

    def finish(self, sequence: Sequence, now: float, *, keep: bool = True) -> None:
        """The sequence is over: its cells go to the prefix cache, or are freed."""
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.RUNNING:
            self.running.remove(sequence)
            branch = sequence.branch
            assert branch is not None
            if keep and sequence.call.request.use_cache:
                self._cache.retire(branch, now)
            else:
                self._cache.drop(branch)
            if self._options.cache_cells is not None:
                self._cache.trim_idle(self._options.cache_cells, now)
        self._is_held = False
        sequence.state = State.FINISHED
        sequence.branch = None
        sequence.saved = None

    def abandon(self) -> None:
        """Forget everything without touching the pool: the context is broken or about to be closed."""
        self.running.clear()
        self.waiting.clear()

    def shift(self, sequence: Sequence, n_ctx: int, now: float) -> None:
        """The sequence's context is full: drop the older half after n_keep and compute what is left again.

        Cells are never moved to other positions: they may be shared. Its sampler state must have been exported.
        """
        request = sequence.call.request
        n_keep = request.n_keep if request.n_keep >= 0 else sequence.n_prompt
        n_keep = min(n_keep, n_ctx * 3 // 4, sequence.n_total - 2)
        n_drop = max((sequence.n_total - n_keep) // 2, 1)
        tokens = sequence.buffer.view()
        shortened = TokenBuffer(tokens[:n_keep])
        shortened.extend(tokens[n_keep + n_drop :].tolist())
        branch = sequence.branch
        assert branch is not None
        self._park(sequence)
        self._cache.retire(branch, now)
        sequence.buffer = shortened
        sequence.cuts.clear()
        sequence.n_shifted += n_drop
        sequence.n_preempted += 1
        sequence.drafter = Drafter() if sequence.drafter is not None else None
