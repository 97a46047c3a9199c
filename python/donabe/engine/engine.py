"""The engine: schedule -> decode_and_sample -> update, once per step or burst of steps, over one native context.

Owns the requests in flight, the batch and the sampler set's bindings. Knows tokens and bytes, no text formats, no
models' names, no processes. `submit`, `cancel`, `status`, `has_work`, `wake` and `wait_for_work` from any thread, the
rest from the engine thread. The only long call is decode_and_sample, which releases the GIL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.engine.api import Publish
from donabe.engine.budget import RowTimes, StepBudget
from donabe.engine.compaction import compactor_for
from donabe.engine.copies import Copies
from donabe.engine.disk_tier import DiskTier
from donabe.engine.draft_model import DraftModel
from donabe.engine.inbox import Inbox
from donabe.engine.intake import build_call
from donabe.engine.kinds import memory_kind
from donabe.engine.lanes import Lanes
from donabe.engine.options import EngineOptions
from donabe.engine.plan import Draft, Plan
from donabe.engine.prefix_cache import PrefixCache
from donabe.engine.ram_tier import RamTier
from donabe.engine.request import EngineRequest, SequenceOutput
from donabe.engine.scheduler import Scheduler
from donabe.engine.sequence import Call, Sequence, State
from donabe.engine.speculation import N_GRAM, Speculation
from donabe.engine.stats import Counters
from donabe.errors import (
    ComputeError,
    DonabeError,
    KvFullError,
    NativeError,
)
from donabe.types import FinishReason, RunnerStatus

if TYPE_CHECKING:
    from donabe._core import Context, Model, SamplerSet, StepResult

_REASONS = (None, FinishReason.STOP, FinishReason.STOP, FinishReason.LENGTH, FinishReason.ERROR)  # StepResult.finish


@dataclass(frozen=True, slots=True)
class ContextSizes:
    """Of a loaded model's contexts. `cache_bytes` are attention, windows and states; the draft model's are apart."""

    n_batch: int
    n_ubatch: int
    flash_attention: bool
    attention_bytes: int
    cache_bytes: int
    draft_cache_bytes: int
    n_draft_max: int


class Engine:
    """Generation over one context; implements `donabe.engine.api.EngineApi`."""

    def __init__(  # noqa: PLR0913 - collaborators; everything that is a number is in `options`
        self,
        model: Model,
        context: Context,
        samplers: SamplerSet,
        options: EngineOptions,
        publish: Publish,
        *,
        clock: Callable[[], float] = time.monotonic,
        native: Any = None,
        disk: DiskTier | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        if native is None:
            from donabe import _core as native
        kind = memory_kind(model.memory_kind, model.n_swa)
        self._native = native
        self._model = model
        self._context = context
        self._samplers = samplers
        self._options = options
        self._publish = publish
        self._clock = clock
        self._batch = native.Batch(context.n_batch)
        self._n_ctx = min(options.n_ctx_per_request or context.n_ctx, context.n_ctx)
        self._ram = RamTier(options.cache_ram_bytes)
        copies = Copies(context.memory, clock, bytes_per_cell=context.kv_bytes_per_cell, has_cells=kind.counts_cells)
        self._cache = PrefixCache(
            kind,
            copies,
            n_cells=context.n_ctx,
            n_seq_max=context.n_seq_max,
            ram=self._ram,
            keep_idle=options.prefix_cache,
            idle_bytes=options.cache_pool_bytes,
            disk=disk if options.prefix_cache else None,
        )
        self._budget = StepBudget(context.n_batch, options.max_step_latency_s, options.max_prefill_step_s)
        self._row_times = RowTimes()
        self._draft = draft
        self._speculation = Speculation(
            options.n_draft_max if kind.can_draft else 0, self._row_times, draft, self._n_ctx
        )
        self._scheduler = Scheduler(
            self._cache,
            self._budget,
            options,
            n_batch=context.n_batch,
            n_ctx=self._n_ctx,
            speculation=self._speculation,
        )
        self._counters = Counters()
        self._compactor = compactor_for(self._cache, context.memory)
        self._lanes = Lanes(samplers, native, context.n_seq_max)
        self._n_cells_cached = 0
        self._ram_bytes = 0
        self._cache_changed = False
        self._calls: dict[str, Call] = {}
        self._outputs: list[SequenceOutput] = []
        self._inbox = Inbox(options.n_waiting_max, context.request_yield)

    # --- any thread ---

    @property
    def n_ctx_per_request(self) -> int:
        return self._n_ctx

    def submit(self, request: EngineRequest) -> None:
        call = build_call(self._native, self._model, request, self._n_ctx, self._options.adapters_key, self._clock())
        self._inbox.submit(call, self._scheduler.waiting.n_calls)

    def cancel(self, request_id: str) -> None:
        self._inbox.cancel(request_id)

    def has_work(self) -> bool:
        return len(self._inbox) > 0 or self._scheduler.has_work()

    def wake(self) -> None:
        self._inbox.ring()

    def wait_for_work(self, timeout_s: float | None = None) -> bool:
        if not self.has_work():
            self._inbox.wait(timeout_s)
        self._inbox.silence()
        return self.has_work()

    def status(self) -> RunnerStatus:
        counters, cache = self._counters, self._cache
        return RunnerStatus(
            n_waiting=len(self._scheduler.waiting),
            n_running=len(self._scheduler.running),
            n_cells=self._context.n_ctx,
            n_cells_used=cache.tree.n_cells,
            n_cells_cached=self._n_cells_cached,
            kv_bytes_per_cell=self._context.kv_bytes_per_cell,
            cache_ram_bytes=self._ram_bytes,
            cache_disk_bytes=cache.disk.tier.used_bytes if cache.disk is not None else 0,
            n_steps=counters.n_steps,
            n_graphs_reused=self._context.n_graphs_reused,
            n_prompt_tokens=counters.n_prompt_tokens,
            n_cached_tokens=counters.n_cached_tokens,
            n_output_tokens=counters.n_output_tokens,
            n_draft_tokens=counters.n_draft_tokens,
            n_draft_accepted=counters.n_draft_accepted,
            n_preemptions=self._scheduler.n_preemptions,
            n_forks=cache.n_forks,
            step_s=counters.step_s,
            python_s=counters.python_s,
        )

    def memory_breakdown(self) -> list[tuple[str, int, int, int]]:
        """What the contexts have reserved, as `_core.Context.memory_breakdown`; only before the engine thread runs."""
        drafting = self._draft.memory_breakdown() if self._draft is not None else []
        return self._context.memory_breakdown() + drafting

    def sizes(self) -> ContextSizes:
        """What the contexts came to; only before the engine thread runs."""
        context, draft = self._context, self._draft
        return ContextSizes(
            n_batch=context.n_batch,
            n_ubatch=context.n_ubatch,
            flash_attention=context.flash_attention,
            attention_bytes=context.n_ctx * context.kv_bytes_per_cell,
            cache_bytes=sum(row[2] for row in context.memory_breakdown()),
            draft_cache_bytes=sum(row[2] for row in draft.memory_breakdown()) if draft is not None else 0,
            n_draft_max=self._options.n_draft_max,
        )

    # --- engine thread ---

    def step(self) -> bool:
        started = self._clock()
        self._context.clear_yield()  # before the inbox is read: what comes later ends the burst
        self._scheduler.begin_step(started)
        self._drain_inbox(started)
        plan = self._scheduler.schedule(started)
        self._follow_plan(plan, started)
        if plan.is_empty:
            self._flush()
            if self._cache.disk is not None:
                self._cache.disk.wait()
            return False
        draft_s = self._draft.complete(plan) if self._draft is not None else 0.0
        self._fill_batch(plan)
        try:
            result = self._context.decode_and_sample(
                self._batch,
                self._samplers,
                n_steps=plan.n_steps,
                max_s=plan.max_s,
                n_repeat=N_GRAM if plan.watched else 0,
                histories=[(s.seq_id, s.buffer.view()) for s in plan.watched],
            )
        except KvFullError:
            now = self._clock()
            self._follow_plan(self._scheduler.relieve(now), now)
            self._flush()
            return False
        except NativeError as error:
            self.fail_all(error)
            raise
        now = self._clock()
        self._update(plan, result, now)
        self._count(plan, result, started, draft_s)
        self._flush()
        return True

    def idle(self) -> None:
        if self.has_work() or self._inbox.is_closed:
            return
        if self._compactor is not None:
            self._compactor.run(self._clock())
        self._cache.store_idle(self._clock())

    def close(self) -> None:
        self._cache.close_disk()

    def fail_all(self, error: DonabeError) -> None:
        """Neither the native context nor the engine's own state is trusted any more: requests only get their answer."""
        for call in self._inbox.close(error):
            self._calls[call.request.request_id] = call
        for call in list(self._calls.values()):
            self._outputs.append(
                SequenceOutput(
                    request_id=call.request.request_id, finish_reason=FinishReason.ERROR, last=True, error=error
                )
            )
            self._forget(call)
        self._scheduler.abandon()
        self._flush()

    def _drain_inbox(self, now: float) -> None:
        while (item := self._inbox.take()) is not None:
            if isinstance(item, Call):
                self._accept(item, now)
            elif item in self._calls:
                self._end_call(self._calls[item], FinishReason.ABORT, now)

    def _accept(self, call: Call, now: float) -> None:
        self._calls[call.request.request_id] = call
        self._scheduler.add(call)
        if call.sequences[0].n_output_max == 0:
            self._end_call(call, FinishReason.LENGTH, now)

    def _follow_plan(self, plan: Plan, now: float) -> None:
        """Let the sampler set follow what the scheduler did to the pool."""
        if plan.moved:
            self._lanes.move(plan.moved)
        for sequence, seq_id in plan.preempted:
            self._lanes.export(sequence, seq_id)
        for sequence, seq_id, reason in plan.ended:
            output = SequenceOutput(request_id=sequence.call.request.request_id, index=sequence.index)
            output.text = self._lanes.unbind(seq_id)
            self._end_sequence(sequence, output, reason, now)
        for sequence in plan.admitted:
            self._lanes.bind(sequence)
        self._cache_changed |= bool(plan.preempted or plan.ended or plan.admitted)

    def _fill_batch(self, plan: Plan) -> None:
        batch = self._batch
        batch.clear()
        rows = plan.decode
        if rows:
            batch.add_decode(
                np.array([s.seq_id for s in rows], np.int32),
                np.array([s.buffer[s.n_computed] for s in rows], np.int32),
                np.array([s.n_computed for s in rows], np.int32),
            )
        for draft in plan.drafts:
            batch.add_draft(draft.sequence.seq_id, draft.tokens, draft.sequence.n_computed)
        for chunk in plan.chunks:
            sequence, start = chunk.sequence, chunk.sequence.n_computed
            tokens = sequence.buffer.view(start, start + chunk.n_tokens)
            batch.add_tokens(sequence.seq_id, tokens, start, "last" if chunk.is_last else "none")

    def _update(self, plan: Plan, result: StepResult, now: float) -> None:
        """Move the counters, then hand out what was sampled."""
        scheduler = self._scheduler
        for sequence in plan.decode:
            scheduler.advance(sequence, result.n_steps)
        for chunk in plan.chunks:
            scheduler.advance(chunk.sequence, chunk.n_tokens)
        drafted = {draft.sequence.seq_id: draft for draft in plan.drafts}
        tokens, counts, finish = result.tokens.tolist(), result.counts.tolist(), result.finish.tolist()
        texts, stops, logprobs = result.text, result.stop_index.tolist(), result.logprobs
        start = 0
        for i, seq_id in enumerate(result.seq_ids.tolist()):
            sequence = self._lanes.sequences[seq_id]
            new = tokens[start : start + counts[i]]
            start += counts[i]
            if sequence is None:
                continue  # its request failed with a sibling earlier in this loop
            if seq_id in drafted:
                self._learn(drafted[seq_id], len(new))
            sequence.buffer.extend(new)
            sequence.n_output += len(new)
            if sequence.first_token is None:
                sequence.first_token = now
            self._counters.n_output_tokens += len(new)
            output = SequenceOutput(
                request_id=sequence.call.request.request_id, index=sequence.index, text=texts[i], tokens=new
            )
            if logprobs:
                output.logprobs = logprobs.get(seq_id)
            if finish[i]:
                self._finish(sequence, output, finish[i], stops[i], result, now)
                continue
            self._outputs.append(output)
            if sequence.n_total >= self._n_ctx:
                self._shift(sequence, now)

    def _learn(self, draft: Draft, n_new: int) -> None:
        """n_new - 1 guesses were right; as many rows plus the known token's are computed and stay in memory."""
        sequence, n_drafted = draft.sequence, len(draft.tokens) - 1
        self._scheduler.advance(sequence, n_new)
        sequence.n_drafted += n_drafted
        sequence.n_accepted += n_new - 1
        self._counters.n_draft_tokens += n_drafted
        self._counters.n_draft_accepted += n_new - 1
        self._speculation.observe(sequence, n_drafted, n_new - 1, is_model=draft.is_model)

    def _shift(self, sequence: Sequence, now: float) -> None:
        self._lanes.export(sequence, sequence.seq_id)
        self._scheduler.shift(sequence, self._n_ctx, now)
        self._cache_changed = True

    def _finish(
        self, sequence: Sequence, output: SequenceOutput, code: int, stop_index: int, result: StepResult, now: float
    ) -> None:
        seq_id = sequence.seq_id
        reason = _REASONS[code]
        if reason is FinishReason.ERROR or reason is None:
            message = result.errors.get(seq_id, "sampling failed")
            self._end_call(sequence.call, FinishReason.ERROR, now, ComputeError(message))
            return
        self._lanes.unbind(seq_id)
        output.stop_index = stop_index
        self._scheduler.finish(sequence, now)
        self._end_sequence(sequence, output, reason, now)

    # --- endings ---

    def _end_sequence(self, sequence: Sequence, output: SequenceOutput, reason: FinishReason, now: float) -> None:
        """The last output of a sequence that the scheduler has let go."""
        call = sequence.call
        output.finish_reason = reason
        output.usage = sequence.usage(now)
        call.n_live -= 1
        output.last = call.n_live == 0
        if output.last:
            self._forget(call)
        self._outputs.append(output)
        self._cache_changed = True

    def _end_call(self, call: Call, reason: FinishReason, now: float, error: DonabeError | None = None) -> None:
        """End every live sequence of a request now: cancelled, failed, or nothing to generate."""
        live = [s for s in call.sequences if s.state is not State.FINISHED]
        for sequence in live:
            output = SequenceOutput(request_id=call.request.request_id, index=sequence.index)
            if sequence.state is State.RUNNING:
                text = self._lanes.unbind(sequence.seq_id)
                output.text = text if reason is FinishReason.LENGTH else b""
            self._scheduler.finish(sequence, now, keep=error is None)
            if error is not None and sequence is not live[-1]:
                call.n_live -= 1  # one output tells of the error
                continue
            output.error = error
            self._end_sequence(sequence, output, reason, now)

    def _forget(self, call: Call) -> None:
        del self._calls[call.request.request_id]
        self._inbox.forget(call.request.request_id)

    def _flush(self) -> None:
        if self._cache_changed:
            self._cache_changed = False
            self._n_cells_cached = self._cache.n_idle
            self._ram_bytes = self._ram.used_bytes
        if self._outputs:
            outputs, self._outputs = self._outputs, []
            self._publish(outputs)

    def _count(self, plan: Plan, result: StepResult, started: float, draft_s: float) -> None:
        """`draft_s`: the draft model's part of the step, which rows cost no more for."""
        counters = self._counters
        native_s = result.decode_s + result.sample_s
        self._budget.observe(plan.n_rows, plan.n_prefill, (native_s + draft_s) / result.n_steps)
        counters.n_steps += result.n_steps
        counters.n_prompt_tokens += plan.n_prefill
        counters.n_cached_tokens += sum(s.n_cached for s in plan.admitted if not s.n_preempted)
        step_s = self._clock() - started
        counters.step_s += step_s
        if not plan.chunks:
            self._row_times.observe(plan.n_rows, (step_s - draft_s) / result.n_steps, result.n_steps)
        counters.python_s += max(step_s - native_s - draft_s, 0.0)

    def check(self) -> None:
        """Assert that requests, lanes, tree and native memory agree; for tests and debugging."""
        self._cache.check()
        running = {s.seq_id: s for s in self._scheduler.running}
        bound = {i: s for i, s in enumerate(self._lanes.sequences) if s is not None}
        assert running == bound, "running sequences and bound samplers differ"
        assert sorted(self._samplers.bound()) == sorted(bound)
        for seq_id, sequence in running.items():
            branch = sequence.branch
            assert branch is not None and not branch.is_idle and branch.n == sequence.n_computed, seq_id
        live = {id(s) for call in self._calls.values() for s in call.sequences if s.state is not State.FINISHED}
        assert live >= {id(s) for s in running.values()}
