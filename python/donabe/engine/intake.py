"""Checks a request and makes its samplers on the submitting thread: what is wrong shows there, as an exception."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from donabe.engine.request import EngineRequest
from donabe.engine.sequence import Call
from donabe.errors import ContextLengthError, InvalidRequestError

if TYPE_CHECKING:
    from donabe._core import Model, OutputLimits, Sampler

RANDOM_SEED = 0xFFFFFFFF
N_MAX = 128  # completions of one request
UNLIMITED_TOKENS = 1 << 30


def check_request(request: EngineRequest, n_ctx: int) -> None:
    """Raises InvalidRequestError or ContextLengthError."""
    n_prompt = len(request.tokens)
    if n_prompt == 0:
        raise InvalidRequestError("the prompt has no tokens", field="prompt", hint="send at least one character")
    if n_prompt >= n_ctx:
        raise ContextLengthError(
            f"the prompt has {n_prompt} tokens, the context holds {n_ctx} and needs one for the answer",
            n_prompt_tokens=n_prompt,
            n_ctx=n_ctx,
            hint="shorten the prompt, allow truncation, or load the model with a larger context",
        )
    if not 1 <= request.n <= N_MAX:
        raise InvalidRequestError(f"n must be between 1 and {N_MAX}, not {request.n}", field="n")
    if request.max_tokens is not None and request.max_tokens < 0:
        raise InvalidRequestError(f"max_tokens must not be negative, not {request.max_tokens}", field="max_tokens")
    if request.n_keep < -1:
        raise InvalidRequestError(f"n_keep must be -1 or more, not {request.n_keep}", field="n_keep")


def build_call(native: Any, model: Model, request: EngineRequest, n_ctx: int, key_name: str, now: float) -> Call:
    """A checked request with one sampler for each completion.

    Raises:
        InvalidRequestError, ContextLengthError: see check_request.
        GrammarError, InvalidArgumentError: from the native sampler.
    """
    check_request(request, n_ctx)
    # a salt of its own keeps the completions of a request together when it must share with nobody else
    salt = request.cache_salt if request.use_cache else f"\0{request.request_id}"
    call = Call(request, (key_name, salt), _samplers(native, model, request), now)
    for sequence in call.sequences:
        sequence.n_output_max = max_output_tokens(request, n_ctx)
    return call


def max_output_tokens(request: EngineRequest, n_ctx: int) -> int:
    asked = UNLIMITED_TOKENS if request.max_tokens is None else request.max_tokens
    return asked if request.context_shift else min(asked, n_ctx - len(request.tokens))


def output_limits(native: Any, request: EngineRequest, n_output_max: int) -> OutputLimits:
    """The context limit is part of n_output_max, so the native check of it stays off."""
    limits: OutputLimits = native.OutputLimits(
        max_tokens=-1 if n_output_max >= UNLIMITED_TOKENS else n_output_max,
        min_tokens=request.min_tokens,
        stop=request.stop,
        ignore_eos=request.ignore_eos,
    )
    return limits


def _samplers(native: Any, model: Model, request: EngineRequest) -> list[Sampler]:
    first = request.sampler
    if first is None:
        params = {"seed": RANDOM_SEED, **request.sampler_params}
        if request.seed is not None:
            params["seed"] = request.seed
        first = native.Sampler(model, native.SamplerParams(**params), model.n_ctx_train)
    first.accept_prompt(request.tokens)
    samplers = [first]
    for i in range(1, request.n):
        sampler = first.clone()
        seed = secrets.randbelow(RANDOM_SEED) if request.seed is None else (request.seed + i) % RANDOM_SEED
        sampler.set_seed(seed)
        samplers.append(sampler)
    return samplers
