"""Use cases of inference: resolve the name, check what the model can do, lease a runner, hand out its event stream.

Options are merged here (defaults < stored parameters < request) and become load options, sampling and output options.
Knows nothing of HTTP or of dialects; runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from donabe.errors import CapabilityError, InvalidRequestError, RemoteModelError
from donabe.pool.pool import Lease, ModelPool
from donabe.service.calls import ChatCall, ClassifyCall, EmbedCall, GenerateCall, ModelCall, OutputCall, RerankCall
from donabe.service.contracts import ModelStore
from donabe.service.echo import with_echo
from donabe.service.forced_tools import as_tool_calls, with_forced_tools
from donabe.service.load_options import LoadDefaults, load_options
from donabe.service.models import CLOUD_DISABLED
from donabe.service.noted import Noted, Tokens
from donabe.service.parameters import BOUNDS, merge_options
from donabe.service.runner_requests import Prepared, chat_request, generate_request, prompt_as_chat
from donabe.store.names import split_where
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Event,
    LoadOptions,
    ModelSpec,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
)


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


class MakeWay(Protocol):
    """`IdleTuner.make_way`."""

    async def __call__(self, spec: ModelSpec, options: LoadOptions) -> None: ...


class Inference:
    """Generate, chat, embed, rerank and classify over the resident models.

    Args:
        stream_interval_s: Least time between two pieces of a streamed answer.
        make_way: Awaited before a model is leased; ends whatever uses the machine while it is idle.
    """

    def __init__(
        self,
        store: ModelStore,
        pool: ModelPool,
        *,
        defaults: LoadDefaults | None = None,
        stream_interval_s: float = 0.0,
        make_way: MakeWay | None = None,
    ) -> None:
        self._store = store
        self._pool = pool
        self._defaults = defaults or LoadDefaults()
        self._stream_interval_s = stream_interval_s
        self._make_way = make_way

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
        prepared = await self._prepare_generate(call)
        lease = await self._lease(call, prepared)
        try:
            events = await self._generate_events(call, prepared, lease)
        except BaseException:
            lease.release()
            raise
        return _reply(prepared, lease, events)

    async def chat(self, call: ChatCall) -> Reply:
        """Start answering a conversation."""
        prepared = await self._prepare_chat(call)
        lease = await self._lease(call, prepared)
        try:
            request = chat_request(call, prepared, lease.runner.info)
            if _is_forced(request, prepared.spec):
                events = as_tool_calls(lease.runner.chat(with_forced_tools(request)))
            else:
                events = lease.runner.chat(request)
        except BaseException:
            lease.release()
            raise
        return _reply(prepared, lease, events)

    async def render(self, call: GenerateCall | ChatCall) -> Noted[RenderedPrompt]:
        """The prompt a call would run, without running it."""
        if isinstance(call, ChatCall):
            prepared = await self._prepare_chat(call)
        else:
            prepared = await self._prepare_generate(call)
        async with self._leased(call, prepared) as lease:
            return Noted(value=await _rendered(call, prepared, lease), warnings=_warnings(prepared, lease))

    async def _prepare_generate(self, call: GenerateCall) -> Prepared:
        """What a prompt needs of its model is there."""
        prepared = await self._prepare(call, needs="completion", verb="generate")
        _check_output(call, prepared.spec)
        if call.suffix and "insert" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "insert")
        _check_images(call.model, prepared.spec, call.images)
        return prepared

    async def _prepare_chat(self, call: ChatCall) -> Prepared:
        """What a conversation needs of its model is there."""
        prepared = await self._prepare(call, needs="completion", verb="chat")
        _check_output(call, prepared.spec)
        if call.think and "thinking" not in prepared.spec.capabilities:
            prepared = replace(prepared, warnings=(*prepared.warnings, "this model can't think: thinking is left out"))
        has_tools = bool(call.tools) and call.tool_choice.mode != "none"
        if has_tools and not call.force_tools and "tools" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "tools")
        for message in call.messages:
            _check_images(call.model, prepared.spec, message.images)
        return prepared

    async def _generate_events(self, call: GenerateCall, prepared: Prepared, lease: Lease) -> AsyncIterator[Event]:
        runner = lease.runner
        if call.raw or call.suffix:
            return runner.generate(generate_request(call, prepared, lease.runner.info, call.prompt))
        chat = prompt_as_chat(call, prepared, lease.runner.info)
        if not call.context:
            events = runner.chat(chat)
            return with_echo(events, str(call.prompt), call.n) if call.echo else events
        n_vocab = runner.info.n_vocab
        if any(not 0 <= token < n_vocab for token in call.context):
            raise InvalidRequestError(f"context holds token ids outside 0..{n_vocab - 1}", field="context")
        rendered = (await runner.render(chat)).tokens
        if rendered[:1] == call.context[:1]:  # the beginning-of-sequence token is there already
            rendered = rendered[1:]
        request = generate_request(call, prepared, lease.runner.info, (*call.context, *rendered))
        return runner.generate(msgspec.structs.replace(request, add_special=False))

    # --- vectors and scores ------------------------------------------------------------------------------------------

    async def embed(self, call: EmbedCall) -> EmbedReply:
        """Embed all inputs; with none, only load the model."""
        prepared = await self._prepare(call, embedding=True)
        async with self._leased(call, prepared) as lease:
            result = None
            if call.inputs:
                _check_vectors(call, lease.runner.info.n_embd)
                request = EmbedRequest(
                    inputs=call.inputs,
                    truncate=call.truncate,
                    normalize=call.normalize,
                    dimensions=call.dimensions,
                    pooling=call.pooling,
                    scheduling=call.scheduling,
                )
                result = await lease.runner.embed(request)
        total_s = time.monotonic() - prepared.started_at
        return EmbedReply(result=result, load_s=lease.load_s, total_s=total_s, warnings=_warnings(prepared, lease))

    async def rerank(self, call: RerankCall) -> Noted[RerankResult]:
        """Score every document."""
        prepared = await self._prepare(call, embedding=True, pooling="rank")
        if "rerank" not in prepared.spec.capabilities:
            raise _missing(prepared.spec, "rerank")
        async with self._leased(call, prepared) as lease:
            request = RerankRequest(query=call.query, documents=call.documents, scheduling=call.scheduling)
            return Noted(value=await lease.runner.rerank(request), warnings=_warnings(prepared, lease))

    async def classify(self, call: ClassifyCall) -> Noted[ClassifyResult]:
        """The probability of each of the model's labels for every input."""
        prepared = await self._prepare(call, embedding=True, pooling="rank")
        if "rerank" not in prepared.spec.capabilities:  # what the store calls a classification head
            raise _missing(prepared.spec, "classification")
        async with self._leased(call, prepared) as lease:
            request = ClassifyRequest(inputs=call.inputs, truncate=call.truncate, scheduling=call.scheduling)
            return Noted(value=await lease.runner.classify(request), warnings=_warnings(prepared, lease))

    # --- tokens ------------------------------------------------------------------------------------------------------

    async def tokenize(
        self, call: ModelCall, text: str, *, add_special: bool, parse_special: bool, with_pieces: bool = False
    ) -> Noted[Tokens]:
        """The text's tokens, or those of the prompt when the call is a chat, which has its own text."""
        prepared = await (self._prepare_chat(call) if isinstance(call, ChatCall) else self._prepare(call))
        async with self._leased(call, prepared) as lease:
            runner = lease.runner
            if isinstance(call, ChatCall):
                ids = list((await _rendered(call, prepared, lease)).tokens)
            else:
                ids = await runner.tokenize(text, add_special=add_special, parse_special=parse_special)
            pieces = await runner.pieces(ids) if with_pieces else ()
            tokens = Tokens(ids=ids, n_ctx=runner.info.n_ctx_per_request, pieces=pieces)
            return Noted(value=tokens, warnings=_warnings(prepared, lease))

    async def detokenize(self, call: ModelCall, tokens: list[int]) -> Noted[str]:
        prepared = await self._prepare(call)
        async with self._leased(call, prepared) as lease:
            n_vocab = lease.runner.info.n_vocab
            if any(not 0 <= token < n_vocab for token in tokens):
                raise InvalidRequestError(f"tokens must be ids between 0 and {n_vocab - 1}", field="tokens")
            return Noted(value=await lease.runner.detokenize(tokens), warnings=_warnings(prepared, lease))

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
        lease = await self._lease(call, prepared)
        lease.release()
        return _warnings(prepared, lease)

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
    ) -> Prepared:
        started_at = time.monotonic()
        spec = await self.resolve(call.model)
        if needs and spec.capabilities and needs not in spec.capabilities:
            raise CapabilityError(f'"{call.model}" does not support {verb}', capability=needs)
        options = merge_options(spec.parameters, call.options, defaults=call.default_options)
        load, warnings = load_options(spec, options.load, self._defaults)
        if embedding:
            load = msgspec.structs.replace(load, embedding=True, pooling=pooling)
        return Prepared(spec, options, load, started_at, warnings, self._stream_interval_s)

    async def _lease(self, call: ModelCall, prepared: Prepared) -> Lease:
        if self._make_way is not None:
            await self._make_way(prepared.spec, prepared.load)
        return await self._pool.lease(prepared.spec, prepared.load, keep_alive_s=call.keep_alive_s)

    @asynccontextmanager
    async def _leased(self, call: ModelCall, prepared: Prepared) -> AsyncIterator[Lease]:
        lease = await self._lease(call, prepared)
        try:
            yield lease
        finally:
            lease.release()


async def _rendered(call: GenerateCall | ChatCall, prepared: Prepared, lease: Lease) -> RenderedPrompt:
    if isinstance(call, ChatCall):
        request = chat_request(call, prepared, lease.runner.info)
        if _is_forced(request, prepared.spec):
            request = with_forced_tools(request)
    elif call.raw and isinstance(call.prompt, str):
        return RenderedPrompt(prompt=call.prompt, tokens=())
    else:
        request = prompt_as_chat(call, prepared, lease.runner.info)
    return await lease.runner.render(request)


def full_name(short: str) -> str:
    """`host/namespace/model:tag` of a short display name, as capability errors spell it."""
    slashes = short.count("/")
    if slashes == 0:
        return f"registry.ollama.ai/library/{short}"
    return f"registry.ollama.ai/{short}" if slashes == 1 else short


def _missing(spec: ModelSpec, capability: str) -> CapabilityError:
    return CapabilityError(f"{full_name(spec.name)} does not support {capability}", capability=capability)


def _is_forced(request: ChatRequest, spec: ModelSpec) -> bool:
    """Whether its tools are told to a model that was never taught any."""
    return bool(request.tools) and "tools" not in spec.capabilities


def _check_output(call: OutputCall, spec: ModelSpec) -> None:
    if call.think and not call.ignore_unsupported_thinking and "thinking" not in spec.capabilities:
        raise CapabilityError(f'"{call.model}" does not support thinking', capability="thinking")


def _check_images(name: str, spec: ModelSpec, images: tuple[bytes, ...]) -> None:
    if images and "vision" not in spec.capabilities and "audio" not in spec.capabilities:
        raise CapabilityError(
            f'"{name}" does not support images', capability="vision", hint="send text only, or use a vision model"
        )


def _check_vectors(call: EmbedCall, n_embd: int) -> None:
    """Before they are computed. Of pooling none, whose vectors nobody has counted yet, the runner checks it again."""
    n_numbers = len(call.inputs) * (call.dimensions or n_embd)
    if n_numbers > (most := BOUNDS["embedding_numbers"].high):
        raise InvalidRequestError(
            f"the vectors of {len(call.inputs)} inputs are {n_numbers} numbers, more than the {most} of one answer",
            field="input",
            hint="send fewer inputs at once, or ask for fewer dimensions",
        )


def _reply(prepared: Prepared, lease: Lease, events: AsyncIterator[Event]) -> Reply:
    return Reply(
        spec=prepared.spec,
        events=events,
        load_s=lease.load_s,
        started_at=prepared.started_at,
        warnings=_warnings(prepared, lease),
        lease=lease,
    )


def _warnings(prepared: Prepared, lease: Lease) -> tuple[str, ...]:
    """With what was given up to load the model, or keeps it from being faster."""
    return (*prepared.warnings, *lease.notes)
