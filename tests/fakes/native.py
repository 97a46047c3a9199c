"""A deterministic stand-in for `donabe._core`: same contract, same refusals, no llama.cpp.

The next token is a hash of everything the sequence can see in the fake memory (cells, sliding window, recurrent state),
so a prefix shared wrongly gives a wrong token. Steps take time on the fake clock, by a linear model.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from donabe.errors import InvalidArgumentError, InvalidBatchError, KvFullError, StateError

EOG = 2
N_VOCAB = 1000


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeModel:
    memory_kind: str = "dense"
    n_swa: int = 0
    n_ctx_train: int = 4096
    eog_every: int = 0  # about one token in so many ends the sequence; 0 = never
    copy_period: int = 0  # the next token repeats the one so far back, where the history is as it should be
    decode_s: float = 0.010  # a step's fixed cost
    token_s: float = 0.001  # and of each token in it
    copy_s: float = 0.0  # of each byte of a state that is saved or restored


class Cell:
    """One token's K and V. Owners are found by walking the sequences."""

    __slots__ = ("token",)

    def __init__(self, token: int) -> None:
        self.token = token


@dataclass
class _Seq:
    cells: dict[int, Cell] = field(default_factory=dict)  # position -> cell; may be shared with other sequences
    window: dict[int, int] = field(default_factory=dict)  # position -> token still in the sliding window cache
    state: int = 0  # recurrent: digest of all tokens seen
    n: int = 0


class StateBlob(bytes):
    """Its bytes are the content, so that it can be stored and read back."""

    nbytes: int
    partial: bool
    n_tokens: int
    content: _Seq

    @classmethod
    def of(cls, nbytes: int, partial: bool, n_tokens: int, content: _Seq) -> StateBlob:
        cells = [(p, c.token) for p, c in content.cells.items()]
        data = pickle.dumps((nbytes, cells, content.window, content.state, content.n))
        return cls.from_bytes(data, partial=partial, n_tokens=n_tokens)

    @classmethod
    def from_bytes(cls, data: bytes, *, partial: bool, n_tokens: int) -> StateBlob:
        blob = cls(data)
        blob.partial, blob.n_tokens = partial, n_tokens
        blob.nbytes, cells, window, state, n = pickle.loads(data)
        blob.content = _Seq({p: Cell(token) for p, token in cells}, window, state, n)
        return blob


class FakeMemory:
    """KV cells with owners, a sliding window or a recurrent state, as the kind has them."""

    def __init__(self, model: FakeModel, n_cells: int, n_seq_max: int, clock: FakeClock) -> None:
        self.kind = kind = model.memory_kind
        self.n_swa = model.n_swa
        self.copy_s = model.copy_s
        self.clock = clock
        self.n_copied_bytes = 0
        self.n_cells = n_cells
        self.n_seq_max = n_seq_max
        self.has_cells = kind not in ("recurrent", "none")
        self.has_window = kind in ("iswa", "hybrid_iswa")
        self.has_state = kind in ("recurrent", "hybrid", "hybrid_iswa")
        self.seqs: dict[int, _Seq] = {}
        self.n_forks = 0
        self.n_refused = 0
        self.bytes_per_token = 100

    def seq(self, seq_id: int) -> _Seq:
        if not 0 <= seq_id < self.n_seq_max:
            raise InvalidArgumentError(f"sequence id {seq_id} is out of range")
        return self.seqs.setdefault(seq_id, _Seq())

    def n_used(self) -> int:
        """Debug walk: distinct cells that a sequence refers to."""
        return len({id(cell) for seq in self.seqs.values() for cell in seq.cells.values()})

    def pos_min(self, seq_id: int) -> int:
        seq = self.seq(seq_id)
        if self.has_window:
            return min(seq.window, default=-1)
        return -1 if seq.n == 0 else (seq.n - 1 if self.kind == "recurrent" else 0)

    def pos_max(self, seq_id: int) -> int:
        return self.seq(seq_id).n - 1

    def clear(self, data: bool = False) -> None:
        self.seqs.clear()

    def seq_rm(self, seq_id: int, p0: int = -1, p1: int = -1) -> bool:
        seq = self.seq(seq_id)
        p0 = max(p0, 0)
        p1 = seq.n if p1 < 0 else p1
        if self.has_state and 0 < p0 < seq.n:
            return False
        if p0 == 0 and p1 >= seq.n:
            self.seqs[seq_id] = _Seq()
            return True
        for pos in range(p0, p1):
            seq.cells.pop(pos, None)
            seq.window.pop(pos, None)
        if p1 >= seq.n:
            seq.n = min(seq.n, p0)
        return True

    def seq_cp(self, src: int, dst: int, p0: int = -1, p1: int = -1) -> None:
        assert self.kind == "dense"
        source, target = self.seq(src), self.seq(dst)
        p0, p1 = max(p0, 0), source.n if p1 < 0 else p1
        if target.cells and max(target.cells) >= p0 and min(target.cells) < p1:
            raise InvalidArgumentError(f"sequence {dst} has positions in that range already")
        for pos in range(p0, p1):
            target.cells[pos] = source.cells[pos]
        target.n = max(target.n, p1)

    def fork(self, src: int, dst: int, n_tokens: int, checkpoint: StateBlob | None = None) -> bool:
        self.seqs[dst] = _Seq()
        source = self.seq(src)
        self.seq(dst)
        if checkpoint is not None and (not checkpoint.partial or checkpoint.n_tokens != n_tokens):
            checkpoint = None
        if not self._can_fork(source, n_tokens, checkpoint):
            self.n_refused += 1
            return False
        self.n_forks += 1
        if checkpoint is not None:
            self._copy(checkpoint)
        origin = checkpoint.content if checkpoint is not None else source
        target = _Seq(n=n_tokens)
        target.cells = {p: c for p, c in source.cells.items() if p < n_tokens}
        target.window = {p: t for p, t in origin.window.items() if p < n_tokens}
        target.state = origin.state
        self.seqs[dst] = target
        return True

    def _can_fork(self, source: _Seq, n: int, checkpoint: StateBlob | None) -> bool:
        if self.kind in ("opaque", "none") or n > source.n or n <= 0:
            return False
        if checkpoint is not None:
            return True
        if self.has_state and n != source.n:
            return False
        return not self.has_window or min(source.window, default=n) <= max(0, n - self.n_swa + 1)

    def get_state(self, seq_id: int, *, partial: bool = False) -> StateBlob:
        seq = self.seq(seq_id)
        copy = _Seq({}, dict(seq.window), seq.state, seq.n)
        if not partial:
            copy.cells = {p: Cell(c.token) for p, c in seq.cells.items()}
        nbytes = 64 + self.bytes_per_token * (len(copy.cells) + len(copy.window))
        return self._copy(StateBlob.of(nbytes, partial, seq.n, copy))

    def _copy(self, blob: StateBlob) -> StateBlob:
        self.clock.now += blob.nbytes * self.copy_s
        self.n_copied_bytes += blob.nbytes
        return blob

    def set_state(self, seq_id: int, blob: StateBlob) -> None:
        self.seqs[seq_id] = _Seq()
        self.seq(seq_id)
        if blob.partial and self.has_cells:
            raise StateError("a partial state alone")
        if self.has_cells and self.n_used() + len(blob.content.cells) > self.n_cells:
            raise KvFullError("no room for the state")
        content = self._copy(blob).content
        cells = {p: Cell(c.token) for p, c in content.cells.items()}
        self.seqs[seq_id] = _Seq(cells, dict(content.window), content.state, content.n)

    # --- used by the context ---

    def append(self, seq_id: int, token: int) -> None:
        seq = self.seq(seq_id)
        if self.has_cells:
            seq.cells[seq.n] = Cell(token)
        if self.has_window:
            seq.window[seq.n] = token
        seq.state = zlib.crc32(token.to_bytes(4, "little"), seq.state)
        seq.n += 1

    def recycle_windows(self) -> None:
        """What is masked for the next token is gone: the worst a ring buffer may do."""
        for seq in self.seqs.values():
            seq.window = {p: t for p, t in seq.window.items() if p > seq.n - self.n_swa}

    def visible(self, seq_id: int, n: int) -> tuple[list[int], int]:
        """Tokens at positions [0, n), and a digest of everything attention and state would use."""
        seq = self.seq(seq_id)
        tokens = [seq.cells[p].token if p in seq.cells else -1 for p in range(n)] if self.has_cells else []
        digest = zlib.crc32(np.array(tokens, np.int32).tobytes())
        if self.has_window:
            window = [seq.window.get(p, -1) for p in range(max(0, n - self.n_swa), n)]
            digest = zlib.crc32(np.array(window, np.int32).tobytes(), digest)
        if self.has_state:
            digest = zlib.crc32(seq.state.to_bytes(4, "little"), digest)
        return tokens, digest


class Batch:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        self.items: list[tuple[int, list[int], int, str]] = []  # (seq_id, tokens, pos0, outputs)

    @property
    def n_tokens(self) -> int:
        return sum(len(tokens) for _, tokens, _, _ in self.items)

    @property
    def n_outputs(self) -> int:
        return sum({"none": 0, "last": 1}.get(out, len(tokens)) for _, tokens, _, out in self.items)

    def _add(self, seq_id: int, tokens, pos0: int, outputs: str) -> None:
        if self.n_tokens + len(tokens) > self.capacity:
            raise InvalidBatchError("batch is full")
        if any(seq_id == item[0] for item in self.items):
            raise InvalidBatchError("sequence is in the batch")
        if len(tokens) == 0:
            raise InvalidBatchError("no tokens")
        self.items.append((int(seq_id), [int(t) for t in tokens], int(pos0), outputs))

    def add_tokens(self, seq_id, tokens, pos0, outputs="none") -> None:
        assert tokens.dtype == np.int32
        self._add(seq_id, tokens, pos0, outputs)

    def add_decode(self, seq_ids, tokens, positions) -> None:
        assert seq_ids.dtype == tokens.dtype == positions.dtype == np.int32
        for seq_id, token, position in zip(seq_ids, tokens, positions, strict=True):
            self._add(seq_id, [token], position, "last")

    def add_draft(self, seq_id, tokens, pos0) -> None:
        assert tokens.dtype == np.int32
        self._add(seq_id, tokens, pos0, "draft")


@dataclass
class SamplerParams:
    seed: int = 0xFFFFFFFF
    temperature: float = 0.0
    n_logprobs: int = -1
    grammar: str = ""


class Sampler:
    """Greedy: the hash decides. With a temperature: the hash, the seed and the number of draws so far."""

    def __init__(self, model: FakeModel, params: SamplerParams, n_ctx_train: int = 0) -> None:
        self.model = model
        self.params = params
        self.seed = params.seed
        self.n_draws = 0
        self.n_prompt = 0

    def accept_prompt(self, tokens) -> None:
        self.n_prompt += len(tokens)

    def clone(self) -> Sampler:
        twin = Sampler(self.model, self.params)
        twin.n_prompt, twin.n_draws, twin.seed = self.n_prompt, self.n_draws, self.seed
        return twin

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def choose(self, tokens: list[int], digest: int) -> int:
        self.n_draws += 1
        if self.params.temperature > 0:
            digest = zlib.crc32(f"{self.seed}/{self.n_draws}".encode(), digest)
        model = self.model
        if model.eog_every and digest % model.eog_every == 0:
            return EOG
        if model.copy_period and len(tokens) > model.copy_period and digest % 7:
            return tokens[-model.copy_period]
        return 10 + digest % (N_VOCAB - 10)


@dataclass
class OutputLimits:
    max_tokens: int = -1
    min_tokens: int = 0
    stop: tuple[bytes, ...] = ()
    ignore_eos: bool = False
    n_ctx: int = 0


@dataclass
class _Bound:
    sampler: Sampler
    limits: OutputLimits
    n: int = 0
    text: bytes = b""


class SamplerSet:
    def __init__(self, model: FakeModel, n_threads: int = 1) -> None:
        self.by_id: dict[int, _Bound] = {}
        self.fail_on: set[int] = set()  # sequence ids whose sampling fails

    def bind(self, seq_id: int, sampler: Sampler, limits: OutputLimits) -> None:
        if seq_id in self.by_id:
            raise InvalidArgumentError(f"sequence {seq_id} is bound already")
        self.by_id[seq_id] = _Bound(sampler, limits)

    def unbind(self, seq_id: int) -> bytes:
        del self.by_id[seq_id]
        return b""

    def export(self, seq_id: int) -> _Bound:
        return self.by_id.pop(seq_id)

    def restore(self, seq_id: int, state: _Bound) -> None:
        if seq_id in self.by_id:
            raise InvalidArgumentError(f"sequence {seq_id} is bound already")
        self.by_id[seq_id] = state

    def bound(self) -> list[int]:
        return list(self.by_id)

    def accept(self, bound: _Bound, token: int) -> tuple[int, bytes, int]:
        """(finish code, text, stop index) after one more token."""
        limits = bound.limits
        bound.n += 1
        if token == EOG and not limits.ignore_eos and bound.n > limits.min_tokens:
            return 1, b"", -1
        text = f" {token}".encode()
        bound.text += text
        for i, stop in enumerate(limits.stop):
            if stop in bound.text:
                return 2, b"", i
        if 0 <= limits.max_tokens <= bound.n:
            return 3, text, -1
        return 0, text, -1


class FakeContext:
    """Decodes into FakeMemory and samples; checks what the native module checks."""

    def __init__(
        self,
        model: FakeModel,
        *,
        n_ctx: int = 1024,
        n_batch: int = 64,
        n_seq_max: int = 8,
        n_outputs_max: int = 64,
        clock: FakeClock | None = None,
    ) -> None:
        self.model = model
        self.n_ctx = self.n_ctx_seq = n_ctx
        self.n_batch = self.n_ubatch = n_batch
        self.n_seq_max = n_seq_max
        self.n_outputs_max = n_outputs_max
        self.kv_bytes_per_cell = 100
        self.n_graphs_reused = 0
        self.clock = clock or FakeClock()
        self.memory = FakeMemory(model, n_ctx, n_seq_max, self.clock)
        self.n_evaluated = 0
        self.batches: list[list[tuple[int, int]]] = []  # (seq_id, n_tokens) of every step
        self.fail_next: list[Exception] = []
        self.is_yield_requested = False

    def request_yield(self) -> None:
        self.is_yield_requested = True

    def clear_yield(self) -> None:
        self.is_yield_requested = False

    def decode_and_sample(
        self,
        batch: Batch,
        samplers: SamplerSet,
        *,
        n_steps: int = 1,
        max_s: float = 0.0,
        n_repeat: int = 0,
        histories: Sequence[tuple[int, np.ndarray]] = (),
    ) -> SimpleNamespace:
        if self.fail_next:
            raise self.fail_next.pop(0)
        if n_steps > 1:
            for seq_id, tokens, _, outputs in batch.items:
                if len(tokens) != 1 or outputs != "last" or seq_id not in samplers.by_id:
                    raise InvalidBatchError("several steps need one output row for each sequence")
        started = self.clock.now
        known = {seq_id: tokens.tolist() for seq_id, tokens in histories}
        result = self._decode_once(batch, samplers)
        while (
            result.n_steps < n_steps and self._goes_on(result, started, max_s) and not _repeats(known, result, n_repeat)
        ):
            following = Batch(self.n_batch)
            for row, (seq_id, _, pos0, _) in zip(result.rows, batch.items, strict=True):
                following.items.append((seq_id, [row[1][-1]], pos0 + result.n_steps, "last"))
            try:
                result.append(self._decode_once(following, samplers))
            except KvFullError:
                break
        return result.build(self.clock.now - started)

    def _goes_on(self, result: _Result, started: float, max_s: float) -> bool:
        is_late = max_s > 0 and self.clock.now - started >= max_s
        return not (is_late or self.is_yield_requested or any(row[2] for row in result.rows))

    def _decode_once(self, batch: Batch, samplers: SamplerSet) -> _Result:
        self._check(batch)
        self.clock.now += self.model.decode_s + self.model.token_s * batch.n_tokens
        self.n_evaluated += batch.n_tokens
        self.batches.append([(seq_id, len(tokens)) for seq_id, tokens, _, _ in batch.items])
        result = _Result()
        for seq_id, tokens, _, outputs in batch.items:
            self._run(seq_id, tokens, outputs, samplers, result)
        if self.memory.has_window:
            self.memory.recycle_windows()
        return result

    def _check(self, batch: Batch) -> None:
        if not 0 < batch.n_tokens <= self.n_batch or batch.n_outputs > self.n_outputs_max:
            raise InvalidBatchError("too many tokens or outputs")
        for seq_id, _, pos0, _ in batch.items:
            if pos0 != self.memory.seq(seq_id).n:
                raise InvalidBatchError(f"sequence {seq_id} starts at {pos0}, not {self.memory.seq(seq_id).n}")
        if self.memory.has_cells and self.memory.n_used() + batch.n_tokens > self.n_ctx:
            raise KvFullError("no room for the batch")

    def _run(self, seq_id: int, tokens: list[int], outputs: str, samplers: SamplerSet, result: _Result) -> None:
        memory, bound = self.memory, samplers.by_id.get(seq_id)
        produced: list[int] = []
        code, text, stop_index = 0, b"", -1
        for i, token in enumerate(tokens):
            if outputs == "draft" and i and (code or produced[-1] != token):
                break  # this guess and all after it are wrong
            memory.append(seq_id, token)
            is_output = outputs == "draft" or (outputs == "last" and i == len(tokens) - 1)
            if not is_output or bound is None:
                continue
            if seq_id in samplers.fail_on:
                result.add(seq_id, [], 4, b"", -1, 0, 0)
                result.errors[seq_id] = "grammar refused every token"
                return
            chosen = bound.sampler.choose(*memory.visible(seq_id, memory.seq(seq_id).n))
            produced.append(chosen)
            code, new_text, stop_index = samplers.accept(bound, chosen)
            text += new_text
        if produced:
            n_drafted = len(tokens) - 1 if outputs == "draft" else 0
            result.add(seq_id, produced, code, text, stop_index, n_drafted, len(produced) - 1 if n_drafted else 0)


def _repeats(known: dict[int, list[int]], result: _Result, n: int) -> bool:
    """Take the newest tokens down; whether one of the sequences ends in n tokens that it had before."""
    is_found = False
    for row in result.rows:
        tokens = known.get(row[0])
        if tokens is not None:
            tokens.append(row[1][-1])
            tail = tokens[-n:]
            is_found |= any(tokens[i : i + n] == tail for i in range(len(tokens) - n))
    return is_found


class _Result:
    def __init__(self) -> None:
        self.rows: list[tuple] = []
        self.errors: dict[int, str] = {}
        self.n_steps = 1

    def add(self, *row) -> None:
        self.rows.append(row)

    def append(self, later: _Result) -> None:
        self.n_steps += later.n_steps
        self.errors |= later.errors
        for i, (old, new) in enumerate(zip(self.rows, later.rows, strict=True)):
            self.rows[i] = (old[0], old[1] + new[1], new[2], old[3] + new[3], *new[4:])

    def build(self, duration_s: float) -> SimpleNamespace:
        def ints(column: int, dtype=np.int32):
            return np.array([row[column] for row in self.rows], dtype)

        return SimpleNamespace(
            seq_ids=ints(0),
            counts=np.array([len(row[1]) for row in self.rows], np.int32),
            tokens=np.array([token for row in self.rows for token in row[1]], np.int32),
            finish=ints(2, np.uint8),
            text=[row[3] for row in self.rows],
            stop_index=ints(4),
            n_drafted=ints(5),
            n_accepted=ints(6),
            logprobs={},
            errors=self.errors,
            n_steps=self.n_steps,
            decode_s=duration_s,
            sample_s=0.0,
        )
