"""Frames between a runner's client and its child process: msgpack of one tagged struct behind a 4-byte length.

Everything that crosses the process boundary is listed here. Parent and child are always the same donabe, but `Load` and
`Ready` carry a version, so that a stale interpreter on the other side is an error and not a misreading. Requests are
numbered by the parent; numbers are never reused while the process lives.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import msgspec

from donabe.errors import InvalidRequestError, RunnerError
from donabe.runner.plans import MemoryPlan
from donabe.runner.smaller import AS_ASKED, Smaller
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    EmbedRequest,
    Event,
    Failed,
    GenerateRequest,
    LoadOptions,
    ModelInfo,
    ModelSpec,
    RerankRequest,
)

PROTOCOL_VERSION = 3
MAX_FRAME_BYTES = 512 * 1024 * 1024  # images and embedding matrices are the large ones; beyond it, a broken peer
HEADER_BYTES = 4

T = TypeVar("T")


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages; subclasses are tagged with their class name."""


# --- parent to child -------------------------------------------------------------------------------------------------


class Plan(_Message, frozen=True, tag=True):
    """Plan the load of this model, before `Load`. Answered by `Planned`, or by `Exiting`.

    Attributes:
        smaller: The way to load that is planned.
        is_quick: No plan is needed where memory is plentiful.
        may_shrink: Look for a smaller way if this one does not fit.
    """

    spec: ModelSpec
    options: LoadOptions
    smaller: Smaller = AS_ASKED
    is_quick: bool = False
    may_shrink: bool = False


class Load(_Message, frozen=True, tag=True):
    """Load this model. Answered by `LoadProgress`... then `Ready` or `Exiting`."""

    version: int
    spec: ModelSpec
    options: LoadOptions


class Start(_Message, frozen=True, tag=True):
    """Begin a request. Generate and chat are answered by `Events`, the others by `Reply` or `ErrorReply`."""

    id: int
    request: GenerateRequest | ChatRequest | EmbedRequest | RerankRequest | ClassifyRequest


class Cancel(_Message, frozen=True, tag=True):
    """Nobody waits for this request any more. Unknown or finished ids are ignored."""

    id: int


class Render(_Message, frozen=True, tag=True):
    """Render a conversation without running it."""

    id: int
    request: ChatRequest


class Tokenize(_Message, frozen=True, tag=True):
    id: int
    text: str
    add_special: bool = True
    parse_special: bool = False


class Detokenize(_Message, frozen=True, tag=True):
    id: int
    tokens: tuple[int, ...]


class Pieces(_Message, frozen=True, tag=True):
    """Ask for the bytes each of these tokens stands for."""

    id: int
    tokens: tuple[int, ...]


class Status(_Message, frozen=True, tag=True):
    """Ask for a `RunnerStatus`."""

    id: int


class Ping(_Message, frozen=True, tag=True):
    id: int


class Shutdown(_Message, frozen=True, tag=True):
    """Stop: running requests end with `Failed`, then the process exits with 0."""


# --- child to parent -------------------------------------------------------------------------------------------------


class Planned(_Message, frozen=True, tag=True):
    """`plan` is None where none is needed, or none can be made."""

    smaller: Smaller = AS_ASKED
    plan: MemoryPlan | None = None


class Ready(_Message, frozen=True, tag=True):
    """The model is loaded."""

    version: int
    info: ModelInfo


class LoadProgress(_Message, frozen=True, tag=True):
    """`fraction` 0..1 of the weights, or a new `stage`; any of them counts as a sign of life."""

    fraction: float
    stage: str = "weights"


class Events(_Message, frozen=True, tag=True):
    """Everything one engine step produced: (request id, event) pairs in order."""

    items: tuple[tuple[int, Event], ...]


class Reply(_Message, frozen=True, tag=True):
    """Result of a request that is not a stream; the asker knows its type."""

    id: int
    value: msgspec.Raw

    @classmethod
    def of(cls, id: int, value: Any) -> Reply:
        return cls(id=id, value=msgspec.Raw(msgspec.msgpack.encode(value)))

    def result(self, type_: type[T]) -> T:
        return msgspec.msgpack.decode(self.value, type=type_)


class ErrorReply(_Message, frozen=True, tag=True):
    id: int
    error: Failed


class Pong(_Message, frozen=True, tag=True):
    """`step_age_s`: how long the engine has been inside its current native step; 0 between steps."""

    id: int
    step_age_s: float = 0.0


class LogLines(_Message, frozen=True, tag=True):
    """Native log lines, (level, text): 1 debug, 2 info, 3 warn, 4 error."""

    lines: tuple[tuple[int, str], ...]


class Exiting(_Message, frozen=True, tag=True):
    """Last message of a child that stops by itself; `error` is set when loading or the engine failed."""

    error: Failed | None = None


Ask = Start | Render | Tokenize | Detokenize | Pieces | Status  # what is answered once; a Start of vectors or scores
ParentMessage = Plan | Load | Cancel | Ask | Ping | Shutdown
ChildMessage = Planned | Ready | LoadProgress | Events | Reply | ErrorReply | Pong | LogLines | Exiting

_HEADER = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
parent_message_decoder: msgspec.msgpack.Decoder[ParentMessage] = msgspec.msgpack.Decoder(ParentMessage)
child_message_decoder: msgspec.msgpack.Decoder[ChildMessage] = msgspec.msgpack.Decoder(ChildMessage)


def encode_frame(message: ParentMessage | ChildMessage) -> bytes:
    """One frame, header included. Raises as `encode_body`."""
    body = encode_body(message)
    return _HEADER.pack(len(body)) + body


def encode_body(message: ParentMessage | ChildMessage) -> bytes:
    """A frame without its header, for transports that keep messages apart themselves.

    Raises:
        RunnerError: The message is larger than MAX_FRAME_BYTES.
        InvalidRequestError: It holds something msgpack can't carry: a lone surrogate, a number beyond 64 bits.
    """
    try:
        body = _encoder.encode(message)
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise InvalidRequestError(f"the request can't be passed to the model: {error}") from error
    check_frame_size(len(body))
    return body


def frame_body_bytes(header: bytes) -> int:
    """Length of the body that follows this header.

    Raises:
        RunnerError: The length is not one a donabe would send.
    """
    n_bytes: int = _HEADER.unpack(header)[0]
    check_frame_size(n_bytes)
    return n_bytes


def check_frame_size(n_bytes: int) -> None:
    if n_bytes > MAX_FRAME_BYTES:
        raise RunnerError(
            f"a message of {n_bytes} bytes is larger than the {MAX_FRAME_BYTES} a runner accepts",
            hint="send smaller images or fewer inputs in one request",
        )
