"""The copies of a model, seen from the server: `ReplicaRunner` implements `ModelRunner` over a Ray Serve handle.

A replica that dies takes its own requests with it: each of them ends with one error. Ray starts another in its place.
When none is left for long, or the deployment is gone, the runner counts as dead and the pool makes a new one. All
methods belong to one asyncio loop. Imports Ray.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from donabe.errors import DonabeError, RunnerDiedError, RunnerError
from donabe.replicas.affinity import prefix_keys
from donabe.runner import messages
from donabe.runner.failures import error_from, failed_from, is_terminal
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    ModelInfo,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
    RunnerStatus,
)

STATUS_TIMEOUT_S = 5.0
_ID = 1  # of every message: Ray tells the answers of requests apart
_SAME_EVERYWHERE = {"kv_bytes_per_cell"}  # counters that are not summed over replicas


@dataclasses.dataclass(frozen=True)
class Deployment:
    """What the runner needs of the cluster.

    Attributes:
        handle: Ray's `DeploymentHandle`.
        count_running: How many replicas run now.
        delete: Takes the deployment down.
    """

    handle: Any
    count_running: Callable[[], Awaitable[int]]
    delete: Callable[[], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a request waits while no replica runs, and how often that is looked at."""

    look_every_s: float = 2.0
    none_running_s: float = 60.0


class ReplicaRunner:
    """A deployed model. `infos` are those of its replicas."""

    def __init__(self, deployment: Deployment, infos: Sequence[ModelInfo], patience: Patience | None = None) -> None:
        self._deployment = deployment
        self._patience = patience or Patience()
        self._stream_handle = deployment.handle.options(method_name="stream", stream=True)
        self._call_handle = deployment.handle.options(method_name="call")
        self._info = together(infos)
        self._is_lost = False
        self._is_closed = False

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def alive(self) -> bool:
        return not self._is_closed and not self._is_lost

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        return self._stream(request)

    def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        return self._stream(request)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        return (await self._call(messages.Start(id=_ID, request=request))).result(EmbedResult)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        return (await self._call(messages.Start(id=_ID, request=request))).result(RerankResult)

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        return (await self._call(messages.Start(id=_ID, request=request))).result(ClassifyResult)

    async def render(self, request: ChatRequest) -> RenderedPrompt:
        return (await self._call(messages.Render(id=_ID, request=request))).result(RenderedPrompt)

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        message = messages.Tokenize(id=_ID, text=text, add_special=add_special, parse_special=parse_special)
        return (await self._call(message)).result(list[int])

    async def detokenize(self, tokens: list[int]) -> str:
        return (await self._call(messages.Detokenize(id=_ID, tokens=tuple(tokens)))).result(str)

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        return (await self._call(messages.Pieces(id=_ID, tokens=tuple(tokens)))).result(list[bytes])

    async def status(self) -> RunnerStatus:
        return summed(await self.statuses())

    async def statuses(self) -> list[RunnerStatus]:
        """Of each replica that answers, in no particular order."""
        message = messages.encode_body(messages.Status(id=_ID))
        with_errors = await self._ask(
            self._deployment.handle.broadcast("call", message).results_async(
                timeout_s=STATUS_TIMEOUT_S, return_exceptions=True
            )
        )
        bodies = [body for body in with_errors if isinstance(body, bytes)]
        if not bodies:
            raise RunnerError("no replica answers")
        return [_reply(body).result(RunnerStatus) for body in bodies]

    async def close(self) -> None:
        """Take the replicas down; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._deployment.delete()

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _stream(self, request: GenerateRequest | ChatRequest) -> AsyncIterator[Event]:
        try:
            self._check_alive()
            message = messages.encode_body(messages.Start(id=_ID, request=request))
        except DonabeError as error:
            yield failed_from(error)
            return
        answer = self._stream_handle.remote(message, prefix_keys=prefix_keys(request))
        is_ended = False
        try:
            body: bytes | None = await self._ask(self._patiently(_next(answer)))
            while body is not None:
                frame = messages.child_message_decoder.decode(body)
                assert isinstance(frame, messages.Events)
                for _, event in frame.items:
                    is_ended = is_terminal(event)
                    yield event
                    if is_ended:
                        return
                body = await self._ask(_next(answer))
            raise RunnerDiedError("a replica ended its answer too early")
        except DonabeError as error:
            is_ended = True
            yield failed_from(error)
        finally:
            if not is_ended:
                answer.cancel()

    async def _call(self, message: messages.Ask) -> messages.Reply:
        self._check_alive()
        answer = self._call_handle.remote(messages.encode_body(message))
        try:
            return _reply(await self._ask(self._patiently(answer)))
        except asyncio.CancelledError:
            answer.cancel()
            raise

    async def _patiently(self, answer: Awaitable[Any]) -> Any:
        """What `answer` gives. While a request waits for a replica Ray itself would wait for ever.

        Raises:
            RunnerDiedError: No replica has been running for too long.
        """
        task = asyncio.create_task(_awaited(answer))
        none_running_s = 0.0
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._patience.look_every_s)
                if task.done():
                    break
                is_served = await self._deployment.count_running() > 0
                none_running_s = 0.0 if is_served else none_running_s + self._patience.look_every_s
                if none_running_s >= self._patience.none_running_s:
                    self._is_lost = True
                    raise RunnerDiedError(f"no replica of the model has been running for {none_running_s:g} s")
            return task.result()
        finally:
            task.cancel()
            task.add_done_callback(_retrieve)

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        """Awaits it; Ray's errors as ours."""
        try:
            return await answer
        except RayError as error:
            raise RunnerDiedError(
                f"the replica that worked on this ended unexpectedly: {type(error).__name__}",
                exit_reason=type(error).__name__,
                hint="try again: another one takes its place",
            ) from error
        except DeploymentUnavailableError as error:  # it was deleted or has failed for good
            self._is_lost = True
            raise RunnerDiedError(f"the replicas of the model are gone: {error}") from error
        except RayServeException as error:
            raise RunnerError(f"the request did not reach a replica: {error}") from error
        except TimeoutError as error:
            raise RunnerError("the replicas did not answer in time") from error

    def _check_alive(self) -> None:
        if self._is_closed:
            raise RunnerError("the model is being unloaded")
        if self._is_lost:
            raise RunnerDiedError("the replicas of the model are gone")


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Mark the error as seen: nobody waits for a call that was given up."""
    if not task.cancelled():
        task.exception()


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


async def _next(answer: Any) -> bytes | None:
    """The next frame of a stream, None after the last."""
    try:
        body: bytes = await answer.__anext__()
    except StopAsyncIteration:
        return None
    return body


def _reply(body: bytes) -> messages.Reply:
    message = messages.child_message_decoder.decode(body)
    if isinstance(message, messages.ErrorReply):
        raise error_from(message.error)
    assert isinstance(message, messages.Reply)
    return message


def together(infos: Sequence[ModelInfo]) -> ModelInfo:
    """What the replicas are as one runner: memory and requests at once are theirs together."""
    return msgspec.structs.replace(
        infos[0],
        n_ctx=sum(info.n_ctx for info in infos),
        n_parallel=sum(info.n_parallel for info in infos),
        size_bytes=sum(info.size_bytes for info in infos),
        size_vram_bytes=sum(info.size_vram_bytes for info in infos),
        device_bytes=_summed_bytes([info.device_bytes for info in infos]),
        cache_bytes=_summed_bytes([info.cache_bytes for info in infos]),
        notes=tuple(dict.fromkeys(note for info in infos for note in info.notes)),
    )


def _summed_bytes(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(part.get(name, 0) for part in parts) for part in parts for name in part}


def summed(statuses: Sequence[RunnerStatus]) -> RunnerStatus:
    """Counters of all replicas together."""
    totals = {
        name: max(values) if name in _SAME_EVERYWHERE else sum(values)
        for name in RunnerStatus.__struct_fields__
        for values in [[getattr(status, name) for status in statuses]]
    }
    return RunnerStatus(**totals)
