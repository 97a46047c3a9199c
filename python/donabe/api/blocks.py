"""The output of one answer as a list of blocks in the order the model wrote them: thinking, text, tool calls.

Dialects whose answers are such lists (Anthropic messages, Responses) gather whole answers with this, so that a whole
answer has the same blocks as a streamed one: a block ends where one of another kind begins, and every call is its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from donabe.types import Delta, TokenLogprob, ToolCall


@dataclass
class Block:
    """One block. A call has no text.

    Attributes:
        logprobs: Of the text's tokens.
    """

    kind: Literal["thinking", "text", "call"]
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    call: ToolCall | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class BlockList:
    """Gathers deltas."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._logprobs = HeldLogprobs()

    def add(self, event: Delta) -> None:
        logprobs = self._logprobs.of(event)
        if event.thinking:
            self._open("thinking").pieces.append(event.thinking)
        if event.text:
            block = self._open("text")
            block.pieces.append(event.text)
            block.logprobs += logprobs
        self.blocks += [Block("call", call=call) for call in event.tool_calls]

    def finish(self, *, is_empty_text: bool = False) -> list[Block]:
        """All blocks, when no delta is to come. `is_empty_text`: an answer without any is a text of nothing."""
        if is_empty_text and not self.blocks:
            self._open("text")
        if self.blocks and self.blocks[-1].kind == "text":
            self.blocks[-1].logprobs += self._logprobs.rest()
        return self.blocks

    def _open(self, kind: Literal["thinking", "text"]) -> Block:
        if not self.blocks or self.blocks[-1].kind != kind:
            self.blocks.append(Block(kind))
        return self.blocks[-1]


class HeldLogprobs:
    """Log probabilities of tokens whose text is held back until it is clear what it is. Those of thinking and of calls
    have no place in these dialects."""

    def __init__(self) -> None:
        self._held: list[TokenLogprob] = []

    def of(self, event: Delta) -> list[TokenLogprob]:
        """What belongs to this delta's text; kept when it has none yet."""
        self._held += event.logprobs
        if event.text:
            return self.rest()
        if event.thinking or event.tool_calls:
            self._held = []
        return []

    def rest(self) -> list[TokenLogprob]:
        """What is held at the end: tokens that ended the text without being part of it."""
        held, self._held = self._held, []
        return held
