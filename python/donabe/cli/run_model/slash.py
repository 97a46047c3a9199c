"""The `/commands` of the interactive run. One method a command, looked up in a table by its first word."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import click

from donabe.cli.commands.list import installed_table
from donabe.cli.commands.show import describe_model
from donabe.cli.run_model.help import general_help, topic_help
from donabe.cli.run_model.options import ModelFacts
from donabe.cli.run_model.parameters import parse_parameter
from donabe.cli.run_model.session import Session
from donabe.errors import ResponseError

if TYPE_CHECKING:
    from donabe.client.calls import CreateFields

_THINK_LEVELS = ("low", "medium", "high", "max")
_NO_SUCH_ROUTE = (404, 405, 501)


class HistorySwitch(Protocol):
    """Whether prompts are written to the history file."""

    is_saving: bool


class SlashCommands:
    """Runs a command line; `run` returns False when the session is to end."""

    def __init__(self, session: Session, history: HistorySwitch) -> None:
        self._session = session
        self._history = history
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "/?": self._help,
            "/help": self._help,
            "/set": self._set,
            "/show": self._show,
            "/list": self._list,
            "/load": self._load,
            "/save": self._save,
            "/clear": self._clear,
        }
        self._settings: dict[str, Callable[[list[str]], None]] = {
            "parameter": self._set_parameter,
            "system": self._set_system,
            "history": lambda _: self._set_history(True),
            "nohistory": lambda _: self._set_history(False),
            "wordwrap": lambda _: self._set_mode("word_wrap", True, "wordwrap"),
            "nowordwrap": lambda _: self._set_mode("word_wrap", False, "nowordwrap"),
            "verbose": lambda _: self._set_mode("verbose", True, "verbose"),
            "quiet": lambda _: self._set_mode("verbose", False, "quiet"),
            "think": self._set_think,
            "nothink": lambda _: self._set_mode("think", False, "nothink"),
            "format": self._set_format,
            "noformat": self._set_no_format,
        }

    def knows(self, line: str) -> bool:
        """Whether the line's first word is a command."""
        return line.split(maxsplit=1)[0] in (*self._commands, "/bye", "/exit")

    def run(self, line: str) -> bool:
        name, *words = line.split()
        if name in ("/bye", "/exit"):
            return False
        command = self._commands.get(name)
        if command is None:
            click.echo(f"Unknown command '{name}'. Type /? for help")
        else:
            command(words)
        return True

    def _help(self, words: list[str]) -> None:
        if not words:
            text = general_help(is_multimodal=self._session.facts.is_multimodal)
        else:
            text = topic_help(words[-1].lstrip("/"))
        sys.stderr.write(text)

    # --- /set

    def _set(self, words: list[str]) -> None:
        if not words:
            sys.stderr.write(topic_help("set"))
        elif words[0] in self._settings:
            self._settings[words[0]](words[1:])
        else:
            click.echo(f"Unknown command '/set {words[0]}'. Type /? for help")

    def _set_mode(self, attribute: str, value: bool, name: str) -> None:
        setattr(self._session.options, attribute, value)
        click.echo(f"Set '{name}' mode.")

    def _set_history(self, is_saving: bool) -> None:
        self._history.is_saving = is_saving

    def _set_think(self, words: list[str]) -> None:
        level = words[0] if words else ""
        if level and level not in _THINK_LEVELS:
            click.echo(f"Invalid think level '{level}', it is one of {', '.join(_THINK_LEVELS)}")
            return
        self._session.options.think = level or True
        click.echo(f"Set 'think' mode to '{level}'." if level else "Set 'think' mode.")
        if not self._session.facts.can_think:
            sys.stderr.write(f'warning: model "{self._session.options.model}" does not support thinking output\n')

    def _set_format(self, words: list[str]) -> None:
        if words != ["json"]:
            click.echo("Invalid or missing format. For 'json' mode use '/set format json'")
            return
        self._session.options.format = "json"
        click.echo("Set format to 'json' mode.")

    def _set_no_format(self, _words: list[str]) -> None:
        self._session.options.format = None
        click.echo("Disabled format.")

    def _set_parameter(self, words: list[str]) -> None:
        if len(words) < 2:
            sys.stderr.write(topic_help("parameter"))
            return
        name, *values = words
        try:
            self._session.options.parameters[name] = parse_parameter(name, values)
        except ValueError as error:
            click.echo(f'Couldn\'t set parameter: "{error}"')
            return
        click.echo(f"Set parameter '{name}' to '{', '.join(values)}'")

    def _set_system(self, words: list[str]) -> None:
        if not words:
            sys.stderr.write(topic_help("set"))
            return
        self.set_system(" ".join(words))

    def set_system(self, text: str) -> None:
        """Set a system message that may have several lines."""
        self._session.set_system(text)
        click.echo("Set system message.")

    # --- /show

    def _show(self, words: list[str]) -> None:
        if not words:
            sys.stderr.write(topic_help("show"))
            return
        answer = self._session.client.show(self._session.options.model)
        topic = words[0]
        if topic == "info":
            sys.stderr.write(describe_model(answer))
        elif topic == "parameters":
            self._show_parameters(str(answer.get("parameters") or ""))
        elif topic == "system":
            text = self._session.system or answer.get("system")
            click.echo(f"{text or 'No system message was specified for this model.'}\n")
        elif topic in ("license", "modelfile", "template"):
            label = "prompt template" if topic == "template" else topic
            click.echo(answer.get(topic) or f"No {label} was specified for this model.")
        else:
            click.echo(f"Unknown command '/show {topic}'. Type /? for help")

    def _show_parameters(self, stored: str) -> None:
        lines = [f"  {line}" for line in stored.splitlines()]
        click.echo("Model defined parameters:")
        click.echo("\n".join(lines) or "  No additional parameters were specified for this model.")
        click.echo()
        if chosen := self._session.options.parameters:
            click.echo("User defined parameters:")
            for name, value in sorted(chosen.items()):
                shown = ", ".join(value) if isinstance(value, list) else str(value)
                click.echo(f"  {name:<30} {shown}")
            click.echo()

    # --- models

    def _list(self, words: list[str]) -> None:
        click.echo(installed_table(self._session.client.list(), words[0] if words else ""), nl=False)

    def _load(self, words: list[str]) -> None:
        if len(words) != 1:
            click.echo("Usage:\n  /load <modelname>")
            return
        click.echo(f"Loading model '{words[0]}'")
        try:
            facts = ModelFacts(self._session.client.show(words[0]))
        except ResponseError as error:
            if error.status_code != 404:
                raise
            click.echo(f"Couldn't find model '{words[0]}'")
            return
        self._session.switch_to(words[0], facts)
        self._session.load()

    def _save(self, words: list[str]) -> None:
        if len(words) != 1:
            click.echo("Usage:\n  /save <modelname>")
            return
        session = self._session
        fields: CreateFields = {
            "from_": session.options.model,
            "system": session.system or None,
            "parameters": session.options.parameters or None,
            "messages": session.stored_messages() or None,
        }
        try:
            session.client.create(words[0], **fields)
        except ResponseError as error:
            if error.status_code in _NO_SUCH_ROUTE:
                click.echo("This server can't save models.")
            else:
                click.echo(f"error: {error.message}")
            return
        click.echo(f"Created new model '{words[0]}'")

    def _clear(self, _words: list[str]) -> None:
        self._session.clear()
        click.echo("Cleared session context")
