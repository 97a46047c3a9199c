"""Prints one streamed answer: thinking, text, tool calls, and the timings of `--verbose`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from donabe.cli.progress import Progress
from donabe.cli.run_model.options import RunOptions
from donabe.cli.run_model.wrap import WrappedWriter
from donabe.cli.text import format_duration
from donabe.errors import DonabeError
from donabe.types import JsonObject

_GREY, _BOLD, _RESET = "\x1b[38;5;245m", "\x1b[1m", "\x1b[0m"
_WRAP_MARGIN = 5


@dataclass(slots=True)
class Answer:
    """What came out, as far as it came."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[JsonObject] = field(default_factory=list)
    is_interrupted: bool = False


class AnswerPrinter:
    """Writes events to stdout as they come."""

    def __init__(self, options: RunOptions, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_terminal = self._stream.isatty()
        width = None
        if options.word_wrap and self._is_terminal:
            width = shutil.get_terminal_size().columns - _WRAP_MARGIN
        self._writer = WrappedWriter(self._stream, width)
        self._hide_thinking = options.hide_thinking
        self._is_in_thinking = False
        self.answer = Answer()

    def feed(self, event: JsonObject) -> None:
        """Print an event of generate or chat."""
        message = event.get("message") or event
        thinking, text = message.get("thinking") or "", message.get("content") or event.get("response") or ""
        if thinking:
            self.answer.thinking += thinking
            self._show_thinking(thinking)
        if text:
            self._end_thinking()
            self.answer.text += text
            self._writer.write(text)
        for call in message.get("tool_calls") or ():
            self._end_thinking()
            self.answer.tool_calls.append(call)
            self._writer.write(_call_text(call))

    def finish(self) -> None:
        """End the last line."""
        self._end_thinking()
        self._writer.write("\n\n")

    def interrupt(self) -> None:
        """The user stopped the answer, or it failed: end its line."""
        self.answer.is_interrupted = True
        self._end_thinking(done=False)
        self._writer.write("\n")

    @property
    def has_begun(self) -> bool:
        """Whether anything was printed."""
        return bool(self.answer.text or self.answer.tool_calls or (self.answer.thinking and not self._hide_thinking))

    def _show_thinking(self, text: str) -> None:
        if self._hide_thinking:
            return
        if not self._is_in_thinking:
            self._is_in_thinking = True
            self._style(_GREY + _BOLD)
            self._writer.write("Thinking...\n")
            self._style(_RESET + _GREY)
        self._writer.write(text)

    def _end_thinking(self, *, done: bool = True) -> None:
        if not self._is_in_thinking:
            return
        self._is_in_thinking = False
        if done:
            self._writer.write("" if self.answer.thinking.endswith("\n") else "\n")
            self._style(_BOLD)
            self._writer.write("...done thinking.\n\n")
        self._style(_RESET)

    def _style(self, style: str) -> None:
        if self._is_terminal:  # past the wrapper: styles take no columns
            self._stream.write(style)


def _call_text(call: JsonObject) -> str:
    function = call.get("function") or {}
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False, separators=(",", ":"))
    return f"  Model called a non-existent function '{function.get('name', '')}()' with arguments: {arguments}"


def print_answer(events: Iterator[JsonObject], options: RunOptions) -> Answer:
    """Print a streamed answer until it ends or the user presses Ctrl-C."""
    printer = AnswerPrinter(options)
    last: JsonObject = {}
    try:
        with _Waiting() as waiting:
            for event in events:
                waiting.end()
                printer.feed(event)
                last = event
    except KeyboardInterrupt:
        printer.interrupt()
        return printer.answer
    except DonabeError:
        if printer.has_begun:
            printer.interrupt()
        raise
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()
    printer.finish()
    sys.stderr.write(notes(last) + (timings(last) if options.verbose else ""))
    sys.stderr.flush()
    return printer.answer


class _Waiting:
    """A spinner on the terminal until the first event."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __enter__(self) -> _Waiting:
        if sys.stderr.isatty() and sys.stdout.isatty():
            self._progress = Progress().__enter__()
            self._progress.status("")
        return self

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop(clear=True)
            self._progress = None

    def __exit__(self, *_: object) -> None:
        self.end()


def notes(event: JsonObject) -> str:
    """What the server says it did to the request: a prompt it had to cut, warnings."""
    lines = [str(text) for text in event.get("warnings") or ()]
    cut = event.get("truncated") or {}
    parts = [f"{cut[name]} {name}" for name in ("messages", "tokens") if cut.get(name)]
    if parts:
        lines.insert(0, f"the prompt was longer than the context: {' and '.join(parts)} were left out")
    return "".join(f"Warning: {line}\n" for line in lines)


def timings(event: JsonObject) -> str:
    """The block that `--verbose` prints after an answer; what is zero or absent is left out."""
    lines = []
    for name in ("total", "load"):
        if value := event.get(f"{name}_duration"):
            lines.append((f"{name} duration", format_duration(value)))
    for label, key in (("prompt eval", "prompt_eval"), ("eval", "eval")):
        count, duration = event.get(f"{key}_count"), event.get(f"{key}_duration")
        if count:
            lines.append((f"{label} count", f"{count} token(s)"))
        if duration:
            lines.append((f"{label} duration", format_duration(duration)))
            lines.append((f"{label} rate", f"{(count or 0) / (duration / 1e9):.2f} tokens/s"))
    return "".join(f"{name + ':':<21} {value}\n" for name, value in lines)
