"""Which tokens run next. `schedule(now)` makes the plan of one step; it reads no clock, computes and publishes nothing.

Decode first: every running sequence gets its next token, what is left of the step's budget goes to prompt chunks,
shared among the prefilling sequences. Admission takes only what fits; cached prefixes make room first, then the newest
sequence is preempted. Pool operations go through the prefix cache. Engine thread only.
"""

from __future__ import annotations

from donabe.engine.admission import WaitingQueue
from donabe.engine.budget import MIN_CHUNK, StepBudget
from donabe.engine.bursts import plan_burst
from donabe.engine.followers import MIN_FOLLOW_TOKENS, add_cuts, follow, is_following
from donabe.engine.fork_points import NOWHERE, ForkPoint
from donabe.engine.options import EngineOptions
from donabe.engine.plan import Chunk, Draft, Moved, Plan
from donabe.engine.prefill import PrefillTurns
from donabe.engine.prefix_cache import PrefixCache
from donabe.engine.sequence import Call, Sequence, State
from donabe.engine.speculation import Drafter, Speculation
from donabe.types import FinishReason

MAX_DEFERRED_STEPS = 8  # an admission waits so many steps for the time of a copy, then goes without it


class Scheduler:
    """The running and the waiting sequences."""

    def __init__(
        self,
        cache: PrefixCache,
        budget: StepBudget,
        options: EngineOptions,
        *,
        n_batch: int,
        n_ctx: int,
        speculation: Speculation,
    ) -> None:
        self._cache = cache
        self._budget = budget
        self._options = options
        self._n_batch = n_batch
        self._n_ctx = n_ctx  # of a sequence
        self._speculation = speculation
        self._n_arrived = 0
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []  # by priority, then oldest first
        self.n_preemptions = 0
        self._is_held = False  # the pool was full against the accounting: admit nobody until a sequence has ended
        self._turns = PrefillTurns()
        self._due: list[Sequence] = []  # stand at a cut whose checkpoint is to be taken before they go on
        self._n_deferred = 0  # steps in which nobody was admitted because a copy had no time

    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    def add(self, call: Call) -> None:
        self._n_arrived += 1
        call.order = self._n_arrived
        for sequence in call.sequences:
            self.waiting.add(sequence)

    # --- the plan ---

    def begin_step(self, now: float) -> None:
        """Give this step its time for copies, and make those that the last step has left."""
        n_streams = len(self._streams())
        self._cache.copies.begin_step(self._budget.copy_s(n_streams) if n_streams else None)
        due, self._due = self._due, []
        for sequence in due:
            if sequence.branch is not None and not self._cache.checkpoint(sequence.branch, now):
                self._due.append(sequence)
        self._cache.eviction.trim_idle(now)

    def schedule(self, now: float) -> Plan:
        plan = Plan()
        if self._cache.kind.needs_consecutive:
            self._close_gaps(plan)
        self._admit(plan, now)
        rows = self._decode_rows(plan, now)
        self._plan_decode(plan, rows)
        while True:
            self._plan_prefill(plan, len(rows), now)
            if rows or plan.chunks or not self.running or not self._yield_room(plan, now):
                break
        if len(plan.decode) == len(self.running) > 0 and not self._may_admit():
            plan_burst(plan, self._budget, self._speculation, self._cache, self._n_ctx, now)
        return plan

    def _streams(self) -> list[Sequence]:
        return [s for s in self.running if s.n_remaining == 1 and s not in self._due]

    def _decode_rows(self, plan: Plan, now: float) -> list[Sequence]:
        """Sequences with one token to compute, after making sure that each has a cell for it."""
        while True:
            rows = self._streams()[: self._n_batch]
            if self._cache.kind.needs_consecutive:
                rows.sort(key=lambda s: s.seq_id)  # in the batch, too
            if self._cache.eviction.make_room(len(rows), 0, now):
                return rows
            if not self._yield_room(plan, now):
                return []

    def _n_spare_rows(self, n_rows: int) -> int:
        """Guesses that fit beside n_rows plain ones. Beside prompts they get at most half of what the bound allows."""
        n_spare = min(self._n_batch, self._cache.n_free) - n_rows
        if not self._prefilling():
            return n_spare
        n_tokens = self._budget.prefill_tokens(n_rows, self._cache.copies.spent_s)
        return min(n_spare - MIN_CHUNK, (n_tokens - MIN_CHUNK) // 2)

    def _plan_decode(self, plan: Plan, rows: list[Sequence]) -> None:
        if not self._speculation.is_on:
            plan.decode = rows
            return
        n_spare = self._n_spare_rows(len(rows))
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
        """Chunks beside n_rows sequences that decode; the guesses among the plan's rows take as much time as they."""
        prefilling = self._prefilling()
        if not prefilling:
            return
        copies, budget, n_guesses = self._cache.copies, self._budget, plan.n_step_rows - n_rows
        n_tokens = max(budget.prefill_tokens(n_rows, copies.spent_s) - n_guesses, 0)
        wanted = min(n_tokens, sum(s.n_remaining for s in prefilling))
        self._cache.eviction.make_room(n_rows + n_guesses + wanted, 0, now)
        n_tokens = min(budget.prefill_tokens(n_rows, copies.spent_s) - n_guesses, n_tokens)
        n_tokens = min(n_tokens, self._cache.n_free - n_rows - n_guesses)
        if n_tokens <= 0:
            return
        for sequence, size in zip(prefilling, self._turns.share(prefilling, n_tokens), strict=True):
            if size > 0:
                plan.chunks.append(Chunk(sequence, size, sequence.n_computed + size == sequence.n_total))
        copies.spend(plan.n_prefill * budget.prefill_cost_s)

    def _prefilling(self) -> list[Sequence]:
        """Oldest first."""
        return [s for s in self.running if s.n_remaining > 1 and s not in self._due]

    def _close_gaps(self, plan: Plan) -> None:
        for sequence in sorted(self.running, key=lambda s: -s.seq_id):
            old_id = sequence.seq_id
            assert sequence.branch is not None
            if not self._cache.move_down(sequence.branch):
                return
            plan.moved.append(Moved(sequence, old_id, sequence.seq_id))

    # --- admission ---

    def _may_admit(self) -> bool:
        """Whether somebody waits who need not wait for the end of a running sequence."""
        if not len(self.waiting) or (self._is_held and self.running):
            return False
        return not self._is_full() or self.waiting.highest_priority() > min(s.priority for s in self.running)

    def _admit(self, plan: Plan, now: float) -> None:
        if not self._may_admit():
            return
        for sequence in self.waiting.ordered(self.running):
            if is_following(sequence):
                continue
            if self._is_full() and not self._lower(sequence):
                return
            points = self._points_for(sequence, now)
            if points is None:
                continue  # it waits for a running prefill or for a file; others may go first
            if self._is_full():
                self._displace(sequence, plan, now)
            if not self._admit_at(points, sequence, plan, now):
                return  # nobody overtakes the one whose turn it is

    def _is_full(self) -> bool:
        return len(self.running) >= self._options.n_parallel

    def _points_for(self, sequence: Sequence, now: float) -> list[ForkPoint] | None:
        """Where the sequence could start now; None when waiting promises a clearly longer prefix."""
        limit = sequence.n_total - 1  # the last token must be evaluated, it gives the first logits
        key, tokens = sequence.call.key, sequence.buffer.view()
        points = self._cache.find(key, tokens, limit)
        if follow(sequence, self.running, points[0].k if points else 0, limit, self._cache.kind):
            return None
        if sequence.saved is not None:
            return points
        return self._cache.find_on_disk(key, tokens, limit, points, token_s=self._budget.prefill_cost_s, now=now)

    def _admit_at(self, points: list[ForkPoint], sequence: Sequence, plan: Plan, now: float) -> bool:
        """Start the sequence at the best point that works. False when it does not fit, or not in this step."""
        for point in (*points, NOWHERE):
            if point.source is not None and point.source not in self._cache.tree.branches:
                continue  # evicted while an earlier point was tried
            is_resumed = self._resume(sequence, point, plan, now)
            if is_resumed is not False:
                return is_resumed or self._defer()
            has_time = self._has_time(point.n_bytes)
            has_room = self._make_room_for(sequence, point, now) if has_time else False
            has_time = self._has_time(point.n_bytes) if has_room else has_time  # making room may have taken it
            if has_time is None or has_room is None:
                return self._defer()
            if not has_time:
                continue  # without this prefix
            if not has_room:
                if self.running:
                    return self._displace(sequence, plan, now) and self._admit_again(sequence, plan, now)
                continue  # alone: the prompt has to fit, if need be without its cached prefix
            branch = self._cache.start(sequence.call.key, sequence.buffer, point, now)
            if branch is not None:
                sequence.branch = branch
                self._run(sequence, point.k, plan, now)
                return True
        return False

    def _admit_again(self, sequence: Sequence, plan: Plan, now: float) -> bool:
        points = self._points_for(sequence, now)
        return points is not None and self._admit_at(points, sequence, plan, now)

    def _has_time(self, n_bytes: int) -> bool | None:
        """Whether this step has time to copy so much into the pool. None: not this one, but a later one will."""
        copies = self._cache.copies
        if n_bytes <= copies.n_restorable_bytes():
            return True
        return None if self._can_wait() and n_bytes <= copies.n_restorable_bytes(alone=True) else False

    def _defer(self) -> bool:
        self._n_deferred += 1
        return False

    def _can_wait(self) -> bool:
        return self._n_deferred < MAX_DEFERRED_STEPS

    def _run(self, sequence: Sequence, n_computed: int, plan: Plan, now: float) -> None:
        self.waiting.remove(sequence)
        sequence.state = State.RUNNING
        sequence.n_computed = n_computed
        if sequence.first_run is None:
            sequence.first_run = now
            sequence.n_cached = n_computed
        sequence.following = None
        sequence.saved = None
        self._n_deferred = 0
        add_cuts(sequence, self._cache.kind)
        self.running.append(sequence)
        self.running.sort(key=lambda s: (-s.priority, s.age))
        plan.admitted.append(sequence)

    def _resume(self, sequence: Sequence, point: ForkPoint, plan: Plan, now: float) -> bool | None:
        """Put a preempted sequence's saved state back, unless the tree offers nearly as much for free. None: later."""
        saved = sequence.saved
        if saved is None or saved.blob is None or point.k + MIN_FOLLOW_TOKENS > saved.n_tokens:
            return False
        n_cells = saved.n_tokens + self._reserve(sequence, saved.n_tokens) + self._reserved()
        has_room = self._has_time(saved.nbytes) and self._cache.eviction.make_room(
            n_cells, 1, now, keep=point.source, can_wait=self._can_wait()
        )
        is_possible = has_room and self._has_time(saved.nbytes)  # making room may have taken the time
        if not is_possible:
            return is_possible
        branch = self._cache.restore(sequence.call.key, sequence.buffer, saved, now)
        if branch is None:
            return False
        sequence.branch = branch
        self._run(sequence, saved.n_tokens, plan, now)
        return True

    def _make_room_for(self, sequence: Sequence, point: ForkPoint, now: float) -> bool | None:
        cache, source = self._cache, point.source
        n_shared = point.k if source is not None else 0
        n_tokens = point.entry.state.n_tokens if point.entry is not None else 0  # restored whole, then cut
        n_ids = 1 if point.entry is None else 2
        n_cells = max(self._reserve(sequence, n_shared), n_tokens) + self._reserved()
        has_room = cache.eviction.make_room(n_cells, n_ids, now, keep=source, can_wait=self._can_wait())
        if has_room is not False or self.running:
            return has_room
        if source is not None and cache.kind.can_cut and source.n > point.k:
            cache.cut(source, point.k)
        return cache.eviction.make_room(max(sequence.n_total - n_shared, n_tokens), n_ids, now, keep=source)

    def _reserve(self, sequence: Sequence, n_computed: int) -> int:
        """Cells the sequence will need soon, beyond the n_computed it has."""
        n_output = min(self._options.headroom_tokens, max(sequence.n_output_max - sequence.n_output, 0))
        return sequence.n_total - n_computed + n_output

    def _reserved(self) -> int:
        return sum(self._reserve(s, s.n_computed) for s in self.running)

    # --- preemption ---

    def _lower(self, sequence: Sequence) -> list[Sequence]:
        return [s for s in self.running if s.priority < sequence.priority]

    def _displace(self, sequence: Sequence, plan: Plan, now: float) -> bool:
        """Preempt a running sequence of lower priority than this waiting one."""
        lower = self._lower(sequence)
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
            sequence.saved = self._cache.eviction.save(branch, now)
        self._park(sequence)
        self._cache.drop(branch)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        if sequence in self._due:
            self._due.remove(sequence)

    def _park(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.branch = None
        sequence.n_computed = 0
        sequence.state = State.WAITING
        self.waiting.add(sequence)

    def relieve(self, now: float) -> Plan:
        """The native pool was full although the accounting said otherwise: free something, whatever it takes."""
        plan = Plan()
        self._is_held = True
        if not self._cache.eviction.evict_one(now):
            self._yield_room(plan, now)
        return plan

    # --- results ---

    def advance(self, sequence: Sequence, n_tokens: int) -> None:
        """The sequence has computed n_tokens more. At a cut it stands still until its checkpoint is taken: the outputs
        of this step do not wait for that."""
        branch = sequence.branch
        assert branch is not None
        n_computed = sequence.n_computed = sequence.n_computed + n_tokens
        self._cache.tree.extend(branch, n_computed)
        if sequence.cuts and n_computed in sequence.cuts:
            sequence.cuts.remove(n_computed)
            self._due.append(sequence)

    def finish(self, sequence: Sequence, now: float, *, keep: bool = True) -> None:
        """The sequence is over: its cells go to the prefix cache, or are freed."""
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.RUNNING:
            self._leave(sequence)
            branch = sequence.branch
            assert branch is not None
            if keep and sequence.call.request.use_cache:
                self._cache.retire(branch, now)
            else:
                self._cache.drop(branch)
            self._cache.eviction.trim_idle(now)
        self._is_held = False
        sequence.state = State.FINISHED
        sequence.branch = None
        sequence.saved = None

    def abandon(self) -> None:
        """Forget everything without touching the pool: the context is broken or about to be closed."""
        self.running.clear()
        self.waiting.clear()
        self._due.clear()

    def shift(self, sequence: Sequence, n_ctx: int, now: float) -> None:
        """The sequence's context is full: drop the older half after n_keep and compute what is left again.

        Cells are never moved to other positions: they may be shared. Its sampler state must have been exported.
        """
        branch = sequence.branch
        assert branch is not None
        self._park(sequence)
        self._cache.retire(branch, now)
        sequence.drop_middle(n_ctx)
        sequence.n_preempted += 1
        sequence.drafter = Drafter() if sequence.drafter is not None else None
