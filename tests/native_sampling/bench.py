"""A context, a sampler set and a loop: run sequences step by step and collect what they put out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from donabe import _core

Tokens = npt.NDArray[np.int32]


@dataclass
class Output:
    """What one sequence produced."""

    tokens: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    finish: int = 0
    stop_index: int = -1
    n_drafted: int = 0
    n_accepted: int = 0
    error: str = ""
    logprobs: list[tuple[int, float, list[tuple[int, float]]]] = field(default_factory=list)

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces)


class Bench:
    """Sequences are prefilled with tokens of their own, then stepped together until they finish."""

    def __init__(self, model: _core.Model, n_threads: int = 1, n_seq_max: int = 4, n_ctx: int = 512) -> None:
        self.model = model
        params = _core.ContextParams(
            n_ctx=n_ctx, n_batch=64, n_ubatch=64, n_seq_max=n_seq_max, n_threads=1, n_threads_batch=1
        )
        self.context = _core.Context(model, params)
        self.samplers = _core.SamplerSet(model, n_threads)
        self.batch = _core.Batch(64)
        self.outputs: dict[int, Output] = {}
        self.n_calls = 0
        self._next: dict[int, tuple[int, int]] = {}  # last token, its position

    def start(
        self, seq_id: int, prompt: Sequence[int], params: _core.SamplerParams, limits: _core.OutputLimits | None = None
    ) -> Output:
        self.samplers.bind(seq_id, _core.Sampler(self.model, params), limits or _core.OutputLimits())
        self.batch.clear()
        self.batch.add_tokens(seq_id, np.array(prompt, np.int32), 0, "last")
        self.outputs[seq_id] = Output()
        self._next[seq_id] = (-1, len(prompt) - 1)
        self._run()
        return self.outputs[seq_id]

    def step(self, drafts: dict[int, Sequence[int]] | None = None, **limits: Any) -> int:
        """One token for every unfinished sequence, or up to 1 + len(draft) for those with a draft; with limits for
        several steps as many as they allow. Returns how many steps it took."""
        self.batch.clear()
        running = [seq_id for seq_id, output in self.outputs.items() if output.finish == 0]
        plain = [seq_id for seq_id in running if not (drafts or {}).get(seq_id)]
        if plain:
            rows = [(seq_id, *self._next[seq_id]) for seq_id in plain]
            columns = [np.array(column, np.int32) for column in zip(*rows, strict=True)]
            self.batch.add_decode(*columns)
        for seq_id in set(running) - set(plain):
            token, position = self._next[seq_id]
            assert drafts is not None
            self.batch.add_draft(seq_id, np.array([token, *drafts[seq_id]], np.int32), position)
        return self._run(**limits)

    def run(self, n_steps: int = 10_000) -> None:
        for _ in range(n_steps):
            if all(output.finish for output in self.outputs.values()):
                return
            self.step()

    def clear(self) -> None:
        for seq_id in self.outputs:
            if seq_id in self.samplers.bound():
                self.samplers.unbind(seq_id)
            self.context.memory.seq_rm(seq_id)
        self.outputs = {}

    def _run(self, **limits: Any) -> int:
        result = self.context.decode_and_sample(self.batch, self.samplers, **limits)
        self.n_calls += 1
        at = 0
        for row, seq_id in enumerate(result.seq_ids.tolist()):
            output = self.outputs[seq_id]
            count = int(result.counts[row])
            output.tokens += result.tokens[at : at + count].tolist()
            at += count
            output.pieces.append(result.text[row])
            output.finish = int(result.finish[row])
            output.stop_index = int(result.stop_index[row])
            output.n_drafted += int(result.n_drafted[row])
            output.n_accepted += int(result.n_accepted[row])
            output.logprobs += result.logprobs.get(seq_id, [])
            output.error = result.errors.get(seq_id, "")
            if count:
                self._next[seq_id] = (output.tokens[-1], self._next[seq_id][1] + count)
        assert at == len(result.tokens)
        return result.n_steps
