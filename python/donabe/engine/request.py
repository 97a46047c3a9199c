"""What goes into the engine and what comes out: one request, and the output of one sequence in one call of the native
side, which is one step or a burst of them.

Both are plain values. A request is tokens and numbers only: templates, tokenising and grammar compilation happened in
the runner's intake threads. Outputs carry bytes as the native module produced them; parsing them is the runner's job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from donabe.errors import DonabeError
from donabe.types import FinishReason, Usage

if TYPE_CHECKING:
    from donabe._core import Sampler

Int32Array = npt.NDArray[np.int32]
Logprobs = list[tuple[int, float, list[tuple[int, float]]]]  # per token: (token, logprob, [(token, logprob), ...])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineRequest:
    """One API call: a prompt and `n` completions of it.

    Attributes:
        request_id: Unique among the requests in flight.
        tokens: int32 (n_prompt_tokens,), n_prompt_tokens >= 1; not modified, and must not be by the caller.
        sampler: A ready native sampler (its grammar is compiled already), or None to build one of `sampler_params`.
        sampler_params: Keyword arguments of `_core.SamplerParams`; ignored when `sampler` is given.
        seed: Completion i samples with seed + i; None = random.
        max_tokens: Output tokens of each completion; None = until the model stops or the context is full.
        stop: Stop strings, UTF-8.
        context_shift: When the context is full, drop the middle (after `n_keep` tokens) and go on, instead of `length`.
        n_keep: Prompt tokens kept at the front by a context shift; -1 = the whole prompt.
        caller: Fairness group. Waiting requests of different callers take turns.
        cache_salt: Cached prefixes are shared only between equal salts.
        priority: Larger runs first, and may preempt smaller.
        boundaries: Prompt positions at which messages begin: where a cached prefix is likely to be forked.
        use_cache: False: neither read nor leave anything in the prefix cache.
        output_interval_s: Outputs need not come more often than this, so steps may follow each other without the
            engine's Python in between; 0 = after every step.
    """

    request_id: str
    tokens: Int32Array
    sampler: Sampler | None = None
    sampler_params: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[bytes, ...] = ()
    ignore_eos: bool = False
    context_shift: bool = False
    n_keep: int = 0
    n: int = 1
    caller: str = ""
    cache_salt: str = ""
    priority: int = 0
    boundaries: tuple[int, ...] = ()
    use_cache: bool = True
    output_interval_s: float = 0.0


class SequenceOutput(msgspec.Struct, kw_only=True, gc=False):
    """What one completion of a request produced in one step or burst.

    `finish_reason` is set on the last output of a completion, together with `usage`; `last` on the last output of the
    request: exactly one output of each request has it. With `error` (finish_reason ERROR) the whole request failed.
    """

    request_id: str
    index: int = 0  # which of the request's n completions
    text: bytes = b""  # whole UTF-8 characters, stop string removed
    tokens: list[int] = []  # an end-of-generation token is included, as the last one
    logprobs: Logprobs | None = None  # one entry a token, when the sampler was asked for them
    finish_reason: FinishReason | None = None
    stop_index: int = -1  # which stop string matched
    usage: Usage | None = None
    last: bool = False
    error: DonabeError | None = None
