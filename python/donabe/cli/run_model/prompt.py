"""The keyboard side of the interactive run: line editing, history file, multi-line blocks. Needs a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import HTML, AnyFormattedText
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from donabe.settings import Settings

_QUOTES = '"""'
_MAX_HISTORY = 100
_COMMANDS = ["/set", "/show", "/list", "/load", "/save", "/clear", "/bye", "/?", "/help"]


class PromptHistory(FileHistory):
    """The history file, readable by its owner only; the newest entries are kept."""

    def __init__(self, path: Path, *, is_saving: bool) -> None:
        super().__init__(str(path))
        self.is_saving = is_saving

    def load_history_strings(self) -> Iterable[str]:
        newest_first = list(super().load_history_strings())
        return newest_first[:_MAX_HISTORY]

    def store_string(self, string: str) -> None:
        if not self.is_saving:
            return
        path = Path(os.fsdecode(self.filename))
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
        super().store_string(string)


class PromptReader:
    """Reads messages and commands, one at a time."""

    def __init__(self, settings: Settings) -> None:
        if settings.editor:
            os.environ["VISUAL"] = settings.editor  # where prompt_toolkit looks for the editor of Ctrl-G
        self.history = PromptHistory(settings.home / "history", is_saving=not settings.no_history)
        self._session: PromptSession[str] = PromptSession(
            history=self.history,
            key_bindings=_key_bindings(),
            completer=WordCompleter(_COMMANDS, sentence=True),
            complete_while_typing=False,
            enable_suspend=True,
            multiline=True,
            prompt_continuation="... ",
        )
        self._session.default_buffer.tempfile_suffix = ".txt"

    def read(self) -> str:
        """The next input; a block in triple quotes comes with its quotes.

        Raises:
            EOFError: Ctrl-D on an empty line.
            KeyboardInterrupt: Ctrl-C on an empty line.
        """
        return self._session.prompt(">>> ", placeholder=_placeholder)


def _placeholder() -> AnyFormattedText:
    """Grey text on the empty line; it goes when the line is left."""
    return "" if get_app().is_done else HTML("<ansibrightblack>Send a message (/? for help)</ansibrightblack>")


def _is_open_block(text: str) -> bool:
    start = block_start(text)
    return start >= 0 and not text[start:].rstrip().endswith(_QUOTES)


def block_start(text: str) -> int:
    """Where the text of a triple-quoted block begins, after the opening quotes; -1 if there is none."""
    lead = "/set system " if text.startswith("/set system ") else ""
    return len(lead) + len(_QUOTES) if text[len(lead) :].startswith(_QUOTES) else -1


def block_text(text: str) -> str:
    """The text inside the quotes of a whole block."""
    return text[block_start(text) :].rstrip().removesuffix(_QUOTES)


def _key_bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        if _is_open_block(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("c-j")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-g")
    def _edit(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    @keys.add("c-c")
    def _stop(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys
