"""One copy of a model: the class Ray Serve runs in an actor process of its own, around the in-process runner.

Speaks the messages of `donabe.runner.messages`: one message in, event frames or one reply out. Ray runs the methods on
the actor's asyncio loop; the model's threads are the runner's own. When the engine fails, the health check fails, and
Ray replaces the actor.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib import metadata
from typing import Any

import msgspec

from donabe.errors import DonabeError, RunnerError, RunnerStartError
from donabe.runner import messages
from donabe.runner.failures import failed_from
from donabe.runner.local import LocalRunner
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    EmbedRequest,
    Failed,
    GenerateRequest,
    LoadOptions,
    ModelSpec,
    RerankRequest,
)

_SWITCH_INTERVAL_S = 0.0005  # as in the runner's child process: Ray's own threads are busy ones too

# Ray passes on the text of an exception and nothing else, so the error itself is put into the text.
_ENCLOSED = re.compile(r"\[donabe-error:([A-Za-z0-9+/=]+)\]")


class ReplicaStartFailure(Exception):  # noqa: N818 - it never reaches a caller as an exception
    """The model can't be loaded here. The text carries the error; see `enclosed_failure`."""

    def __init__(self, failed: Failed) -> None:
        enclosed = base64.b64encode(msgspec.msgpack.encode(failed)).decode()
        super().__init__(f"{failed.message} [donabe-error:{enclosed}]")


def enclosed_failure(text: str) -> Failed | None:
    """The error that a `ReplicaStartFailure` somewhere in this text carries."""
    found = _ENCLOSED.search(text)
    return msgspec.msgpack.decode(base64.b64decode(found[1]), type=Failed) if found is not None else None


class Replica:
    """A loaded model. The constructor loads it.

    Args:
        version: The server's donabe.
        spec: msgpack of the `ModelSpec`; its paths have to exist on this machine.
        options: msgpack of the `LoadOptions`.

    Raises:
        ReplicaStartFailure: It can't be loaded.
    """

    def __init__(self, version: str, spec: bytes, options: bytes) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            _check_version(version)
            self._runner = LocalRunner.load(
                msgspec.msgpack.decode(spec, type=ModelSpec), msgspec.msgpack.decode(options, type=LoadOptions)
            )
        except DonabeError as error:
            raise ReplicaStartFailure(failed_from(error)) from error

    def ready(self) -> bytes:
        """A `Ready` message."""
        return messages.encode_body(messages.Ready(version=messages.PROTOCOL_VERSION, info=self._runner.info))

    async def stream(self, message: bytes, *, prefix_keys: bytes) -> AsyncIterator[bytes]:
        """`Events` messages, the last one with the terminal event. `prefix_keys` are the router's."""
        start = messages.parent_message_decoder.decode(message)
        assert isinstance(start, messages.Start)
        request = start.request
        assert isinstance(request, (ChatRequest, GenerateRequest))
        runner = self._runner
        events = runner.chat(request) if isinstance(request, ChatRequest) else runner.generate(request)
        async with aclosing(events):
            async for event in events:
                yield messages.encode_body(messages.Events(items=((start.id, event),)))

    async def call(self, message: bytes) -> bytes:
        """A `Reply` or `ErrorReply` to any other message that asks for one."""
        asked = messages.parent_message_decoder.decode(message)
        assert isinstance(asked, messages.Ask)
        try:
            return messages.encode_body(messages.Reply.of(asked.id, await self._result(asked)))
        except DonabeError as error:
            return messages.encode_body(messages.ErrorReply(id=asked.id, error=failed_from(error)))

    async def _result(self, asked: messages.Ask) -> Any:
        runner = self._runner
        if isinstance(asked, messages.Render):
            return await runner.render(asked.request)
        if isinstance(asked, messages.Tokenize):
            flags = {"add_special": asked.add_special, "parse_special": asked.parse_special}
            return await runner.tokenize(asked.text, **flags)
        if isinstance(asked, messages.Detokenize):
            return await runner.detokenize(list(asked.tokens))
        if isinstance(asked, messages.Pieces):
            return await runner.pieces(list(asked.tokens))
        if isinstance(asked, messages.Status):
            return await runner.status()
        if isinstance(asked.request, EmbedRequest):
            return await runner.embed(asked.request)
        if isinstance(asked.request, ClassifyRequest):
            return await runner.classify(asked.request)
        assert isinstance(asked.request, RerankRequest)
        return await runner.rerank(asked.request)

    def check_health(self) -> None:
        """Called by Ray; an exception makes it replace this actor."""
        if not self._runner.alive:
            raise RunnerError("the engine of this replica failed")

    def __del__(self) -> None:
        """Called by Ray before the actor ends, so that the native side is freed before the interpreter goes."""
        runner = getattr(self, "_runner", None)
        if runner is not None:
            runner.close_now()


def installed_version() -> str:
    """donabe's; "" when it runs from a source tree that was never installed."""
    try:
        return metadata.version("donabe")
    except metadata.PackageNotFoundError:
        return ""


def _check_version(version: str) -> None:
    own = installed_version()
    if version != own:
        raise RunnerStartError(
            f"a machine of the Ray cluster has donabe {own}, the server {version}",
            hint="install the same version on every machine",
        )
