"""Use cases of inference: resolve the name, check what the model can do, lease a runner, hand out its event stream.

Options are merged here (defaults < stored parameters < request) and become load options, sampling and output options.
Knows nothing of HTTP or of dialects; runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from donabe.errors import CapabilityError, InvalidRequestError, RemoteModelError
from donabe.pool.pool import Lease, ModelPool
from donabe.service.calls import ChatCall, EmbedCall, GenerateCall, ModelCall, OutputCall, RerankCall, Think
from donabe.service.contracts import ModelStore
from donabe.service.echo import with_echo
from donabe.service.forced_tools import as_tool_calls, with_forced_tools
from donabe.service.models import CLOUD_DISABLED
from donabe.service.parameters import Options, merge_options
from donabe.store.names import split_where
from donabe.types import (
    ChatRequest,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    LoadOptions,
    Message,
    ModelSpec,
    OutputOptions,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
)

# A context-shifting generation never ends by itself; the reference system bounds it the same way.
MAX_SHIFTED_CONTEXTS = 10
VISION_N_CTX_MIN = 2048


@dataclass(frozen=True, kw_only=True)
class LoadDefaults:
    """Load options of the server's settings; a request's own win."""

    context_length: int = 0  # 0 = automatic
    num_parallel: int = 0  # 0 = automatic
    flash_attention: bool | None = None
    kv_cache_type: str | None = None
    backend: str | None = None
    devices: tuple[str, ...] = ()
    gpu_layers: int | None = None  # -1 all
    cpu_moe: int | None = None  # -1 all
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    max_step_latency_s: float | None = None
    auto_tune: Literal["off", "cached", "on"] = "cached"


@dataclass(kw_only=True)
class Reply:
    """A running answer. Iterate `events`, then call `aclose` in any case: it stops the work and frees the runner.

    Attributes:
        events: The runner's own iterator; ends with exactly one terminal event.
        load_s: Time the request waited for its model.
        started_at: `time.monotonic()` when the use case began.
    """

    spec: ModelSpec
    events: AsyncIterator[Event]
    load_s: float
    started_at: float
    warnings: tuple[str, ...]
    lease: Lease = field(repr=False)

    async def aclose(self) -> None:
        try:
            close = getattr(self.events, "aclose", None)
            if close is not None:
                await close()
        finally:
            self.lease.release()


@dataclass(frozen=True, kw_only=True)
class EmbedReply:
    """Embeddings with their times. `result` is None when there was nothing to embed and the model was only loaded."""

    result: EmbedResult | None
    load_s: float
    total_s: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Prepared:
    """A call with its model resolved and its options merged."""

    spec: ModelSpec
    options: Options
    load: LoadOptions
    started_at: float
    warnings: tuple[str, ...]


class Inference:
    """Generate, chat, embed and rerank over the resident models."""

    def __init__(self, store: ModelStore, pool: ModelPool, *, defaults: LoadDefaults | None = None) -> None:
        self._store = store
        self._pool = pool
        self._defaults = defaults or LoadDefaults()

    async def resolve(self, name: str) -> ModelSpec:
        """The installed model of that name.

        Raises:
            InvalidNameError, ModelNotFoundError: As the store says.
            RemoteModelError: The name asks for a hosted model.
        """
        base, where = split_where(name)
        if where == "cloud":
            raise RemoteModelError(CLOUD_DISABLED, hint="donabe runs local models only; leave out the cloud suffix")
        return await asyncio.to_thread(self._store.resolve, base)

    # --- text --------------------------------------------------------------------------------------------------------

    async def generate(self, call: GenerateCall) -> Reply:
        """Start answering a prompt."""
        prepared = await self._prepare(call, needs="completion", verb="generate")
        _check_output(call, prepared.spec)
        if call.suffix and "insert" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "insert")
        _check_images(call.model, prepared.spec, call.images)
        lease = await self._lease(call, prepared)
        try:
            events = await self._generate_events(call, prepared, lease)
        except BaseException:
            lease.release()
            raise
        return _reply(prepared, lease, events)

    async def chat(self, call: ChatCall) -> Reply:
        """Start answering a conversation."""
        prepared = await self._prepare(call, needs="completion", verb="chat")
        _check_output(call, prepared.spec)
        if call.think and "thinking" not in prepared.spec.capabilities:
            prepared = replace(prepared, warnings=(*prepared.warnings, "this model can't think: thinking is left out"))
        has_tools = bool(call.tools) and call.tool_choice.mode != "none"
        if has_tools and not call.force_tools and "tools" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "tools")
        for message in call.messages:
            _check_images(call.model, prepared.spec, message.images)
        lease = await self._lease(call, prepared)
        try:
            request = _chat_request(call, prepared, lease)
            if has_tools and "tools" not in prepared.spec.capabilities:
                events = as_tool_calls(lease.runner.chat(with_forced_tools(request)))
            else:
                events = lease.runner.chat(request)
        except BaseException:
            lease.release()
            raise
        return _reply(prepared, lease, events)

    async def render(self, call: GenerateCall | ChatCall) -> tuple[ModelSpec, RenderedPrompt]:
        """The prompt a call would run, without running it."""
        prepared = await self._prepare(call, needs="completion", verb="generate")
        lease = await self._lease(call, prepared)
        try:
            if isinstance(call, GenerateCall):
                if call.raw and isinstance(call.prompt, str):
                    return prepared.spec, RenderedPrompt(prompt=call.prompt, tokens=())
                request = _prompt_as_chat(call, prepared, lease)
            else:
                request = _chat_request(call, prepared, lease)
            return prepared.spec, await lease.runner.render(request)
        finally:
            lease.release()

    async def _generate_events(self, call: GenerateCall, prepared: _Prepared, lease: Lease) -> AsyncIterator[Event]:
        runner = lease.runner
        if call.raw or call.suffix:
            return runner.generate(_generate_request(call, prepared, lease, call.prompt))
        chat = _prompt_as_chat(call, prepared, lease)
        if not call.context:
            events = runner.chat(chat)
            return with_echo(events, str(call.prompt), call.n) if call.echo else events
        n_vocab = runner.info.n_vocab
        if any(not 0 <= token < n_vocab for token in call.context):
            raise InvalidRequestError(f"context holds token ids outside 0..{n_vocab - 1}", field="context")
        rendered = (await runner.render(chat)).tokens
        if rendered[:1] == call.context[:1]:  # the beginning-of-sequence token is there already
            rendered = rendered[1:]
        request = _generate_request(call, prepared, lease, (*call.context, *rendered))
        return runner.generate(msgspec.structs.replace(request, add_special=False))

    # --- vectors and scores ------------------------------------------------------------------------------------------

    async def embed(self, call: EmbedCall) -> EmbedReply:
        """Embed all inputs; with none, only load the model."""
        prepared = await self._prepare(call, embedding=True)
        lease = await self._lease(call, prepared)
        try:
            result = None
            if call.inputs:
                request = EmbedRequest(
                    inputs=call.inputs,
                    truncate=call.truncate,
                    normalize=call.normalize,
                    dimensions=call.dimensions,
                    scheduling=call.scheduling,
                )
                result = await lease.runner.embed(request)
        finally:
            lease.release()
        total_s = time.monotonic() - prepared.started_at
        return EmbedReply(result=result, load_s=lease.load_s, total_s=total_s, warnings=prepared.warnings)

    async def rerank(self, call: RerankCall) -> RerankResult:
        """Score every document."""
        prepared = await self._prepare(call, embedding=True, pooling="rank")
        if "rerank" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "rerank")
        lease = await self._lease(call, prepared)
        try:
            request = RerankRequest(query=call.query, documents=call.documents, scheduling=call.scheduling)
            return await lease.runner.rerank(request)
        finally:
            lease.release()

    async def tokenize(
        self, call: ModelCall, text: str, *, add_special: bool, parse_special: bool
    ) -> tuple[list[int], int]:
        """The text's tokens, and how many one request may hold."""
        prepared = await self._prepare(call)
        lease = await self._lease(call, prepared)
        try:
            tokens = await lease.runner.tokenize(text, add_special=add_special, parse_special=parse_special)
            return tokens, lease.runner.info.n_ctx_per_request
        finally:
            lease.release()

    async def detokenize(self, call: ModelCall, tokens: list[int]) -> str:
        prepared = await self._prepare(call)
        lease = await self._lease(call, prepared)
        try:
            n_vocab = lease.runner.info.n_vocab
            if any(not 0 <= token < n_vocab for token in tokens):
                raise InvalidRequestError(f"tokens must be ids between 0 and {n_vocab - 1}", field="tokens")
            return await lease.runner.detokenize(tokens)
        finally:
            lease.release()

    # --- loading -----------------------------------------------------------------------------------------------------

    async def load(self, call: GenerateCall | ChatCall) -> tuple[str, ...]:
        """Make the model resident, checking what a request like this needs of it. Returns warnings."""
        verb = "generate" if isinstance(call, GenerateCall) else "chat"
        prepared = await self._prepare(call, needs="completion", verb=verb)
        _check_output(call, prepared.spec)
        if isinstance(call, GenerateCall) and call.suffix and "insert" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "insert")
        if isinstance(call, ChatCall) and call.tools and "tools" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "tools")
        (await self._lease(call, prepared)).release()
        return prepared.warnings

    async def unload(self, name: str) -> None:
        """Let the model go as soon as it is idle; fine when it is not loaded."""
        self._pool.unload(await self.resolve(name))

    # --- shared ------------------------------------------------------------------------------------------------------

    async def _prepare(
        self,
        call: ModelCall,
        *,
        needs: str = "",
        verb: str = "",
        embedding: bool = False,
        pooling: str | None = None,
    ) -> _Prepared:
        started_at = time.monotonic()
        spec = await self.resolve(call.model)
        if needs and spec.capabilities and needs not in spec.capabilities:
            raise CapabilityError(f'"{call.model}" does not support {verb}', capability=needs)
        options = merge_options(spec.parameters, call.options, defaults=call.default_options)
        load, warnings = self._load_options(spec, options.load)
        if embedding:
            load = msgspec.structs.replace(load, embedding=True, pooling=pooling)
        return _Prepared(spec, options, load, started_at, warnings)

    def _load_options(self, spec: ModelSpec, asked: LoadOptions) -> tuple[LoadOptions, tuple[str, ...]]:
        defaults = self._defaults
        warnings: list[str] = []
        n_ctx = asked.n_ctx_per_request or defaults.context_length or None
        if n_ctx is not None:
            if "vision" in spec.capabilities:
                n_ctx = max(n_ctx, VISION_N_CTX_MIN)
            n_trained = spec.details.context_length
            if 0 < n_trained < n_ctx:
                if asked.n_ctx_per_request:
                    warnings.append(f"num_ctx {n_ctx} lowered to {n_trained}, the context the model was trained for")
                n_ctx = n_trained
        changes: dict[str, Any] = {
            "n_ctx_per_request": n_ctx,
            "n_parallel": defaults.num_parallel or None,
            "flash_attention": defaults.flash_attention,
            "type_k": defaults.kv_cache_type,
            "type_v": defaults.kv_cache_type,
            "backend": defaults.backend,
            "devices": defaults.devices,
            "n_gpu_layers": defaults.gpu_layers if asked.n_gpu_layers is None else asked.n_gpu_layers,
            "n_cpu_moe": defaults.cpu_moe,
            "main_gpu": defaults.main_gpu if asked.main_gpu is None else asked.main_gpu,
            "tensor_split": defaults.tensor_split,
            "max_step_latency_s": defaults.max_step_latency_s,
            "auto_tune": defaults.auto_tune,
        }
        return msgspec.structs.replace(asked, **changes), tuple(warnings)

    async def _lease(self, call: ModelCall, prepared: _Prepared) -> Lease:
        return await self._pool.lease(prepared.spec, prepared.load, keep_alive_s=call.keep_alive_s)


def full_name(short: str) -> str:
    """`host/namespace/model:tag` of a short display name, as capability errors spell it."""
    slashes = short.count("/")
    if slashes == 0:
        return f"registry.ollama.ai/library/{short}"
    return f"registry.ollama.ai/{short}" if slashes == 1 else short


def _missing(spec: ModelSpec, capability: str) -> CapabilityError:
    return CapabilityError(f"{full_name(spec.name)} does not support {capability}", capability=capability)


def _check_output(call: OutputCall, spec: ModelSpec) -> None:
    if call.think and not call.ignore_unsupported_thinking and "thinking" not in spec.capabilities:
        raise CapabilityError(f'"{call.model}" does not support thinking', capability="thinking")


def _check_images(name: str, spec: ModelSpec, images: tuple[bytes, ...]) -> None:
    if images and "vision" not in spec.capabilities and "audio" not in spec.capabilities:
        raise CapabilityError(
            f'"{name}" does not support images', capability="vision", hint="send text only, or use a vision model"
        )


def _think(call: OutputCall, spec: ModelSpec) -> Think:
    """What the template is told: thinking is on by default where the model can."""
    if "thinking" not in spec.capabilities:
        return None if call.think is None or call.ignore_unsupported_thinking else call.think
    return True if call.think is None else call.think


def _output_options(call: OutputCall, prepared: _Prepared, lease: Lease, *, return_context: bool) -> OutputOptions:
    spec, output = prepared.spec, prepared.options.output
    shift = call.context_shift
    if shift is None:
        shift = spec.details.family != "deepseek2"
    max_tokens = output.max_tokens
    if shift:
        bound = MAX_SHIFTED_CONTEXTS * max(1, lease.runner.info.n_ctx_per_request)
        max_tokens = bound if max_tokens is None else min(max_tokens, bound)
    return msgspec.structs.replace(
        output,
        max_tokens=max_tokens,
        context_shift=shift,
        logprobs=call.logprobs,
        top_logprobs=call.top_logprobs if call.logprobs else 0,
        return_context=return_context,
    )


def _generate_request(
    call: GenerateCall, prepared: _Prepared, lease: Lease, prompt: str | tuple[int, ...]
) -> GenerateRequest:
    return GenerateRequest(
        prompt=prompt,
        suffix=call.suffix,
        sampling=prepared.options.sampling,
        output=_output_options(call, prepared, lease, return_context=not call.raw),
        constraint=call.constraint,
        scheduling=call.scheduling,
        truncate=call.truncate and call.context_shift is not False,
        n_keep=prepared.options.n_keep,
        echo=call.echo,
        n=call.n,
        best_of=call.best_of,
    )


def _prompt_as_chat(call: GenerateCall, prepared: _Prepared, lease: Lease) -> ChatRequest:
    """A templated prompt is a conversation: system, the model's stored messages, then the prompt as the user's turn."""
    if not isinstance(call.prompt, str):
        raise InvalidRequestError("a prompt of token ids needs raw", field="prompt")
    spec = prepared.spec
    system = spec.system if call.system is None else call.system
    messages = [Message(role="system", content=system)] if system else []
    if not call.context:
        messages += spec.messages
    messages.append(Message(role="user", content=call.prompt, images=call.images))
    return ChatRequest(
        messages=tuple(messages),
        think=_think(call, spec),
        sampling=prepared.options.sampling,
        output=_output_options(call, prepared, lease, return_context=True),
        constraint=call.constraint,
        scheduling=call.scheduling,
        template=call.template,
        truncate=call.truncate and call.context_shift is not False,
        n_keep=prepared.options.n_keep,
        n=call.n,
        best_of=call.best_of,
    )


def _chat_request(call: ChatCall, prepared: _Prepared, lease: Lease) -> ChatRequest:
    spec = prepared.spec
    messages = (*spec.messages, *call.messages)
    if spec.system and not (call.messages and call.messages[0].role == "system"):
        messages = (Message(role="system", content=spec.system), *messages)
    has_tools = call.tool_choice.mode != "none"
    return ChatRequest(
        messages=messages,
        tools=call.tools if has_tools else (),
        tool_choice=call.tool_choice,
        think=_think(call, spec),
        sampling=prepared.options.sampling,
        output=_output_options(call, prepared, lease, return_context=False),
        constraint=call.constraint,
        scheduling=call.scheduling,
        template_kwargs=dict(call.template_kwargs),
        continue_final_message=call.continue_final_message,
        truncate=call.truncate,
        n_keep=prepared.options.n_keep,
        n=call.n,
        best_of=call.best_of,
    )


def _reply(prepared: _Prepared, lease: Lease, events: AsyncIterator[Event]) -> Reply:
    return Reply(
        spec=prepared.spec,
        events=events,
        load_s=lease.load_s,
        started_at=prepared.started_at,
        warnings=(*prepared.warnings, lease.note) if lease.note else prepared.warnings,
        lease=lease,
    )
