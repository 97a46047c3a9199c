"""A model in its own process, seen from the server: `RunnerProcess` implements `ModelRunner` over a socket pair.

Supervises the child: deadlines on start, load, step and stop, a liveness ping, and the reason when it ends. However the
child ends, every open stream gets exactly one `Failed` and every open call one exception. All methods belong to the
asyncio loop that called `start`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from donabe.errors import DonabeError, RunnerError, RunnerStartError
from donabe.runner import messages
from donabe.runner.admission import Admission
from donabe.runner.deadlines import Deadlines
from donabe.runner.endings import Ending
from donabe.runner.failures import error_from, failed_from, is_terminal
from donabe.runner.messages import ChildMessage, ParentMessage
from donabe.runner.process import CHILD_COMMAND, N_TAIL_LINES, ChildProcess
from donabe.runner.spare import SpareRunner
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Event,
    Failed,
    GenerateRequest,
    LoadOptions,
    ModelInfo,
    ModelSpec,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
    RunnerStatus,
)

logger = logging.getLogger("donabe.runner")

ProgressCallback = Callable[[float], None]

_ERROR_LEVEL = 4


class RunnerProcess:
    """A child process with a loaded model. Create with `start`."""

    def __init__(
        self,
        child: ChildProcess,
        deadlines: Deadlines,
        on_progress: ProgressCallback | None,
        workers: Sequence[str] = (),
    ) -> None:
        self._child = child
        self._workers = workers  # RPC workers that the model uses
        self._deadlines = deadlines
        self._on_progress = on_progress
        self._ids = itertools.count(1)
        self._streams: dict[int, asyncio.Queue[Event]] = {}
        self._calls: dict[int, asyncio.Future[messages.Reply]] = {}
        self._log_tail: deque[str] = deque(maxlen=N_TAIL_LINES)
        self._started = asyncio.Event()  # the child said anything at all
        self._planned: asyncio.Future[messages.Planned] | None = None
        self._ready: asyncio.Future[messages.Ready] = asyncio.get_running_loop().create_future()
        self._last_progress = time.monotonic()
        self._last_pong = time.monotonic()
        self._step_age_s = 0.0
        self._info: ModelInfo | None = None
        self._end: Failed | None = None  # why no more requests are taken
        self._exit_error: Failed | None = None
        self._kill_reason = ""
        self._closing = False
        self._receiver = asyncio.ensure_future(self._receive())
        self._pinger: asyncio.Future[None] | None = None

    @classmethod
    async def start(
        cls,
        spec: ModelSpec,
        options: LoadOptions,
        *,
        deadlines: Deadlines | None = None,
        on_progress: ProgressCallback | None = None,
        command: Sequence[str] = CHILD_COMMAND,
        spare: SpareRunner | None = None,
        admission: Admission | None = None,
    ) -> RunnerProcess:
        """Spawn a child and load the model in it. Cancelling this call kills the child.

        Args:
            on_progress: Called on the loop with the loaded fraction, 0..1.
            command: The program to run; `--fd N` is appended.
            spare: Gives a child that has been spawned already, when it has one.
            admission: Decides on the child's plan of the load; without one it loads as it is told.

        Raises:
            RunnerStartError: The process did not come up, ended, or stopped making progress.
            DonabeError: What the child reported about the model (LoadError, ModelFileError, ...).
        """
        child = spare.take() if spare is not None else None
        if child is None:
            child = await ChildProcess.spawn(command)
        runner = cls(child, deadlines or Deadlines(), on_progress, options.rpc)
        try:
            if admission is not None:
                options = await admission.settle(messages.Plan(spec=spec, options=options), runner._plan)
            runner._info = await runner._load(spec, options)
        except BaseException:
            await asyncio.shield(runner._dispose())
            raise
        runner._pinger = asyncio.ensure_future(runner._ping())
        return runner

    # --- ModelRunner -------------------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        assert self._info is not None  # set before start() returns
        return self._info

    @property
    def alive(self) -> bool:
        return self._end is None and not self._closing

    @property
    def pid(self) -> int:
        return self._child.pid

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        return self._stream(request)

    def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        return self._stream(request)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        id = next(self._ids)
        return (await self._call(messages.Start(id=id, request=request))).result(EmbedResult)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        id = next(self._ids)
        return (await self._call(messages.Start(id=id, request=request))).result(RerankResult)

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        id = next(self._ids)
        return (await self._call(messages.Start(id=id, request=request))).result(ClassifyResult)

    async def render(self, request: ChatRequest) -> RenderedPrompt:
        id = next(self._ids)
        return (await self._call(messages.Render(id=id, request=request))).result(RenderedPrompt)

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        id = next(self._ids)
        message = messages.Tokenize(id=id, text=text, add_special=add_special, parse_special=parse_special)
        return (await self._call(message)).result(list[int])

    async def detokenize(self, tokens: list[int]) -> str:
        id = next(self._ids)
        return (await self._call(messages.Detokenize(id=id, tokens=tuple(tokens)))).result(str)

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        id = next(self._ids)
        return (await self._call(messages.Pieces(id=id, tokens=tuple(tokens)))).result(list[bytes])

    async def status(self) -> RunnerStatus:
        return (await self._call(messages.Status(id=next(self._ids)))).result(RunnerStatus)

    async def close(self) -> None:
        """Stop the child: politely first, by SIGKILL after the stop deadline. Idempotent."""
        if self._closing:
            await self._child.wait(self._deadlines.stop_s + 1.0)
            return
        self._closing = True
        if self._end is None:
            self._send(messages.Shutdown())
            if not await self._child.wait(self._deadlines.stop_s):
                logger.warning("runner %d did not stop in %.0f s: killing it", self.pid, self._deadlines.stop_s)
        await self._dispose()

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _stream(self, request: GenerateRequest | ChatRequest) -> AsyncIterator[Event]:
        id = next(self._ids)
        queue: asyncio.Queue[Event] = asyncio.Queue()
        try:
            self._check_alive()
            self._streams[id] = queue
            self._send(messages.Start(id=id, request=request))
        except DonabeError as error:
            self._streams.pop(id, None)
            yield failed_from(error)
            return
        try:
            while True:
                event = await queue.get()
                if is_terminal(event):
                    self._streams.pop(id, None)
                    yield event
                    return
                yield event
        finally:
            if self._streams.pop(id, None) is not None:
                self._send(messages.Cancel(id=id))

    async def _call(self, message: messages.Ask) -> messages.Reply:
        self._check_alive()
        future: asyncio.Future[messages.Reply] = asyncio.get_running_loop().create_future()
        self._calls[message.id] = future
        try:
            self._send(message)
            return await future
        finally:
            if self._calls.pop(message.id, None) is not None and not future.done():
                self._send(messages.Cancel(id=message.id))

    def _check_alive(self) -> None:
        if self._end is not None:
            raise error_from(self._end)
        if self._closing:
            raise RunnerError("the model is being unloaded")

    def _send(self, message: ParentMessage) -> None:
        if self._end is None and not self._child.writer.is_closing():
            self._child.writer.write(messages.encode_frame(message))

    # --- loading and supervision -------------------------------------------------------------------------------------

    async def _plan(self, message: messages.Plan) -> messages.Planned:
        if self._end is not None:
            raise error_from(self._end)
        self._planned = asyncio.get_running_loop().create_future()
        self._send(message)
        await self._until_said(self._planned)
        return self._planned.result()

    async def _load(self, spec: ModelSpec, options: LoadOptions) -> ModelInfo:
        self._send(messages.Load(version=messages.PROTOCOL_VERSION, spec=spec, options=options))
        await self._until_said(self._ready)
        ready = self._ready.result()
        if ready.version != messages.PROTOCOL_VERSION:
            raise RunnerStartError(
                f"the runner speaks protocol {ready.version}, this donabe {messages.PROTOCOL_VERSION}",
                hint="restart donabe: it was updated while running",
            )
        return ready.info

    async def _until_said(self, answer: asyncio.Future[Any]) -> None:
        """Wait for a message of a child that starts or loads, as long as it goes on.

        Raises:
            RunnerStartError: It did not start, or stopped making progress.
        """
        started = asyncio.ensure_future(self._started.wait())
        waiting: set[asyncio.Future[Any]] = {started, answer}
        await asyncio.wait(waiting, timeout=self._deadlines.start_s, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if not self._started.is_set() and not answer.done():
            raise self._stalled("did not start", self._deadlines.start_s)
        self._last_progress = time.monotonic()
        while not answer.done():
            left = self._last_progress + self._deadlines.load_stall_s - time.monotonic()
            if left <= 0:
                raise self._stalled("made no progress loading the model", self._deadlines.load_stall_s)
            await asyncio.wait({answer}, timeout=left)

    def _stalled(self, what: str, deadline_s: float) -> RunnerStartError:
        return RunnerStartError(
            f"the runner process {what} within {deadline_s:g} s", exit_reason="deadline", log_tail=self._tail()
        )

    async def _ping(self) -> None:
        self._last_pong = time.monotonic()
        while self._end is None:
            self._send(messages.Ping(id=next(self._ids)))
            await asyncio.sleep(self._deadlines.ping_interval_s)
            silent_s = time.monotonic() - self._last_pong
            if silent_s > self._deadlines.ping_timeout_s:
                self._give_up(f"deadline: no answer for {silent_s:.0f} s")
            elif self._step_age_s > self._deadlines.step_s:
                self._give_up(f"deadline: one step took over {self._deadlines.step_s:g} s")

    def _give_up(self, reason: str) -> None:
        logger.error("runner %d: %s; killing it", self.pid, reason)
        self._kill_reason = reason
        self._child.kill()

    # --- what the child says -----------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        reader = self._child.reader
        problem = ""
        try:
            while True:
                header = await reader.readexactly(messages.HEADER_BYTES)
                body = await reader.readexactly(messages.frame_body_bytes(header))
                self._handle(messages.child_message_decoder.decode(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the socket closed: the process has ended or is about to
        except Exception as error:  # an unreadable frame or a failing callback: this child can't be trusted further
            logger.exception("runner %d: unreadable message", self.pid)
            problem = f"protocol error: {error}"
        await self._explain_end(problem)

    async def _explain_end(self, problem: str) -> None:
        if problem or not await self._child.wait(self._deadlines.stop_s):
            self._kill_reason = self._kill_reason or problem or "closed its connection without exiting"
        await self._child.dispose()
        self._fail_all(await self._end_error())

    async def _end_error(self) -> RunnerError:
        if self._closing:
            return RunnerError("the model was unloaded", exit_reason=self._kill_reason or self._child.exit_reason)
        ending = Ending(
            exit_reason=self._child.exit_reason,
            kill_reason=self._kill_reason,
            reported=self._exit_error,
            log_tail=self._tail(),
            is_loading=self._info is None,
        )
        return await ending.lost_worker(self._workers) or ending.error()

    def _tail(self) -> tuple[str, ...]:
        return (*self._log_tail, *self._child.output_tail)[-N_TAIL_LINES:]

    def _fail_all(self, end: RunnerError) -> None:
        self._end = failed = failed_from(end)
        streams, self._streams = self._streams, {}
        for queue in streams.values():
            queue.put_nowait(failed)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(error_from(failed))
        for answer in (self._planned, self._ready):
            if answer is not None and not answer.done():
                answer.set_exception(end if self._exit_error is None else error_from(self._exit_error))

    def _handle(self, message: ChildMessage) -> None:
        self._started.set()
        if isinstance(message, messages.Events):
            for id, event in message.items:
                queue = self._streams.get(id)
                if queue is not None:
                    queue.put_nowait(event)
        elif isinstance(message, messages.Reply):
            self._resolve(message.id, message)
        elif isinstance(message, messages.ErrorReply):
            self._resolve(message.id, error_from(message.error))
        elif isinstance(message, messages.Pong):
            self._last_pong = time.monotonic()
            self._step_age_s = message.step_age_s
        elif isinstance(message, messages.LoadProgress):
            self._last_progress = time.monotonic()
            if self._on_progress is not None:
                self._on_progress(message.fraction)
        elif isinstance(message, messages.LogLines):
            self._keep_log(message.lines)
        elif isinstance(message, messages.Planned):
            if self._planned is not None and not self._planned.done():
                self._planned.set_result(message)
        elif isinstance(message, messages.Ready):
            if not self._ready.done():
                self._ready.set_result(message)
        else:
            self._exit_error = message.error

    def _keep_log(self, lines: tuple[tuple[int, str], ...]) -> None:
        for level, text in lines:
            if level >= _ERROR_LEVEL:
                self._log_tail.append(text)
            logger.log(logging.WARNING if level >= _ERROR_LEVEL else logging.DEBUG, "runner %d: %s", self.pid, text)

    def _resolve(self, id: int, outcome: messages.Reply | Exception) -> None:
        future = self._calls.get(id)
        if future is None or future.done():
            return
        if isinstance(outcome, messages.Reply):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    async def _dispose(self) -> None:
        if self._pinger is not None:
            self._pinger.cancel()
        self._child.kill()
        await self._receiver  # sees the end of the socket, reaps the child and fails what is still open
        for answer in (self._planned, self._ready):
            if answer is not None and answer.done() and not answer.cancelled():
                answer.exception()  # mark as seen: nobody may be waiting for it any more
