"""Responses that do the work while the client listens: errors get their status while nothing is sent yet, and come
in-band afterwards; when the client goes away, the work is cancelled at once, also while it waits for its model.

One watcher task per response and none per event; each event is one `bytes` handed to the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from donabe.api.dialect import Collector, ErrorStyle, EventWriter, Timing
from donabe.errors import DonabeError, RunnerError
from donabe.runner.failures import error_from
from donabe.server.draining import Draining
from donabe.server.errors import (
    as_donabe_error,
    note_error,
    send_error,
    send_whole,
    status_of,
    warning_headers,
)
from donabe.service.inference import Reply
from donabe.types import Delta, EmbedResult, Failed, Finished

Headers = list[tuple[bytes, bytes]]

_LARGE_VECTORS_BYTES = 1 << 16  # smaller ones are written faster than another thread takes over


async def write_vectors(write: Callable[[], bytes], result: EmbedResult | None) -> bytes:
    """The body that holds these vectors; a large one is written beside the event loop."""
    if result is None or len(result.data) < _LARGE_VECTORS_BYTES:
        return write()
    return await asyncio.to_thread(write)


async def run_while_connected(work: Coroutine[Any, Any, None], receive: Receive, draining: Draining) -> None:
    """Run to the end, or cancel as soon as the client is gone. The request body must have been read."""
    main = asyncio.ensure_future(work)
    draining.add(main)
    watcher = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((main, watcher), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
        if not main.done():
            main.cancel()
        results = await asyncio.gather(main, watcher, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Observer(Protocol):
    """Measures an answer."""

    def began(self, model: str, load_s: float) -> None:
        """The model works on it."""
        ...

    def delta(self, event: Delta) -> None: ...

    def finished(self, event: Finished) -> None: ...

    def ended(self) -> None:
        """Nothing more comes, however it went. Called for every response, once."""
        ...


class _NoObserver:
    """Where nobody measures."""

    def began(self, model: str, load_s: float) -> None: ...

    def delta(self, event: Delta) -> None: ...

    def finished(self, event: Finished) -> None: ...

    def ended(self) -> None: ...


class WorkResponse(Response):
    """A response whose body is computed when it is called. Subclasses fill `_serve`."""

    def __init__(self, style: ErrorStyle, *, headers: Headers | None = None) -> None:
        # No body yet, so Response.__init__ has nothing to render; background is what the framework looks at.
        self.status_code = 200
        self.background = None
        self.body = b""
        self.raw_headers = headers or []
        self.on_end: Callable[[], None] | None = None
        self.observer: Observer = _NoObserver()
        self._draining = Draining()  # the server's, once it is called
        self._scope: Scope = {}  # the request's, likewise
        self._style = style

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._draining = scope, scope["app"].state.draining
        try:
            await run_while_connected(self._serve(send), receive, self._draining)
        finally:
            self.observer.ended()
            if self.on_end is not None:
                self.on_end()

    async def _refuse(self, send: Send, error: Exception) -> None:
        """The error as the whole response."""
        await send_error(send, self._noted(error), self._style)

    def _noted(self, error: Exception) -> DonabeError:
        shown = as_donabe_error(error)
        note_error(self._scope, shown)
        return shown

    async def _serve(self, send: Send) -> None:
        raise NotImplementedError


class ValueResponse(WorkResponse):
    """One value, computed while the client waits.

    Args:
        compute: Gives the body.
        notes: Warnings that are only known when the body is: a list that `compute` adds to.
    """

    def __init__(
        self,
        compute: Callable[[], Awaitable[bytes]],
        *,
        style: ErrorStyle,
        media_type: str,
        headers: Headers | None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(style, headers=headers)
        self._compute = compute
        self._media_type = media_type
        self._notes = notes

    async def _serve(self, send: Send) -> None:
        try:
            with self._draining.in_band():
                body = await self._compute()
        except Exception as error:
            await self._refuse(send, error)
        else:
            headers = [*self.raw_headers, *warning_headers(self._notes)]
            await send_whole(send, 200, body, self._media_type, headers)


class AnswerResponse(WorkResponse):
    """A model's answer, streamed by a writer or gathered by a collector.

    Args:
        begin: Resolves the model and starts the answer.
        writer: Makes the dialect's writer of a streamed answer.
        collector: Makes its collector of a whole one, used when there is no writer.
        before_end: Runs when the final event is known and before the client sees it.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[Reply]],
        *,
        style: ErrorStyle,
        writer: Callable[[Reply], EventWriter] | None = None,
        collector: Callable[[Reply], Collector] | None = None,
        before_end: Callable[[], Awaitable[None]] | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(style, headers=headers)
        self._begin = begin
        self._writer = writer
        self._collector = collector
        self._before_end = before_end

    async def _serve(self, send: Send) -> None:
        try:
            with self._draining.in_band():
                reply = await self._begin()
        except Exception as error:
            await self._refuse(send, error)
            return
        try:
            self.observer.began(reply.spec.name, reply.load_s)
            self.raw_headers += warning_headers(reply.warnings)
            if self._writer is not None:
                await self._send_stream(reply, self._writer(reply), send)
            elif self._collector is not None:
                await self._send_collected(reply, self._collector(reply), send)
        finally:
            await reply.aclose()

    async def _send_collected(self, reply: Reply, collector: Collector, send: Send) -> None:
        try:
            with self._draining.in_band():
                async for event in reply.events:
                    if type(event) is Delta:
                        self.observer.delta(event)
                        collector.delta(event)
                    elif type(event) is Finished:
                        self.observer.finished(event)
                        collector.finished(event, _timing(reply))
                    elif type(event) is Failed:
                        raise error_from(event)
            body = collector.body()
            if self._before_end is not None:
                await self._before_end()
        except Exception as error:
            await self._refuse(send, error)
        else:
            await send_whole(send, 200, body, collector.media_type, self.raw_headers)

    async def _send_stream(self, reply: Reply, writer: EventWriter, send: Send) -> None:
        """First event first: only then is it known that the answer is no error."""
        events, observer = reply.events, self.observer
        try:
            with self._draining.in_band():
                first = await anext(events, None)
            chunk = _encode(first, writer, reply)
            if type(first) is Delta:
                observer.delta(first)
            elif type(first) is Finished:
                await self._ending(first)
        except Exception as error:
            await self._refuse(send, error)
            return
        headers = [(b"content-type", writer.media_type.encode()), *self.raw_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        is_ended = type(first) is Finished and first.last
        try:
            with self._draining.in_band():
                async for event in events:
                    # The common case inline: this loop runs once for every streamed token.
                    if type(event) is Delta:
                        observer.delta(event)
                        chunk = writer.delta(event)
                    else:
                        chunk = _encode(event, writer, reply)
                        is_ended = type(event) is Finished and event.last
                        if type(event) is Finished:
                            await self._ending(event)
                    if chunk:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not is_ended:
                raise RunnerError("the model's process ended the answer without saying why")
        except OSError:
            raise  # the connection broke while sending: nobody to tell
        except Exception as error:
            shown = self._noted(error)
            await send(
                {"type": "http.response.body", "body": writer.failed(status_of(shown), shown), "more_body": True}
            )
        await send({"type": "http.response.body", "body": b""})

    async def _ending(self, event: Finished) -> None:
        self.observer.finished(event)
        if event.last and self._before_end is not None:
            await self._before_end()


def _encode(event: Delta | Finished | Failed | None, writer: EventWriter, reply: Reply) -> bytes:
    if type(event) is Delta:
        return writer.delta(event)
    if type(event) is Finished:
        return writer.finished(event, _timing(reply))
    if type(event) is Failed:
        raise error_from(event)
    raise RunnerError("the model's process ended the answer without saying why")


def _timing(reply: Reply) -> Timing:
    return Timing(load_s=reply.load_s, total_s=time.monotonic() - reply.started_at)


class LinesResponse(WorkResponse):
    """Newline-delimited progress: the status is 200 from the first line on, and an error is the last line.

    Args:
        begin: Checks the request; errors it raises have their own status.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[AsyncIterator[bytes]]],
        *,
        style: ErrorStyle,
        media_type: str,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(style, headers=headers)
        self._begin = begin
        self._media_type = media_type

    async def _serve(self, send: Send) -> None:
        try:
            with self._draining.in_band():
                lines = await self._begin()
        except Exception as error:
            await self._refuse(send, error)
            return
        headers = [(b"content-type", self._media_type.encode()), *self.raw_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            with self._draining.in_band():
                async for line in lines:
                    await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
        except OSError:
            raise
        except Exception as error:
            shown = self._noted(error)
            body = self._style.body(status_of(shown), shown) + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            close = getattr(lines, "aclose", None)
            if close is not None:
                await close()
        await send({"type": "http.response.body", "body": b""})
