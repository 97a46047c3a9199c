"""Writes a Modelfile that reads back as the same commands, quoting like the reference system wherever that is exact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from donabe.modelfile.parser import ROLES, Command, parse_commands
from donabe.types import ModelSpec

_QUOTES = ("", '"', '"""')


def write_modelfile(commands: Iterable[Command]) -> str:
    """The text of the commands, one after the other."""
    return "".join(_line(command) for command in commands)


def _line(command: Command) -> str:
    words = [command.keyword.upper()]
    if command.keyword in ("parameter", "message"):
        words.append(command.name)
    value = command.value if command.keyword == "from" else quote_value(command.value)
    return " ".join([*words, value]) + "\n"


def quote_value(value: str) -> str:
    """A value with the quotes it needs to survive.

    Text with a line that ends in the quotes it would need can't be written exactly; it gets triple quotes.
    """
    for mark in (_usual_quotes(value), *_QUOTES):
        quoted = f"{mark}{value}{mark}"
        if _survives(quoted, value):
            return quoted
    return f'"""{value}"""'


def _usual_quotes(value: str) -> str:
    """What the reference uses: quotes only around a newline or an outer space."""
    if "\n" not in value and value == value.strip(" "):
        return ""
    return '"""' if '"' in value else '"'


def _survives(quoted: str, value: str) -> bool:
    """Whether the parser reads the value back, followed by another instruction."""
    try:
        commands = parse_commands(f"SYSTEM {quoted}\nPARSER x")
    except ValueError:
        return False
    return commands == (Command("system", value), Command("parser", "x"))


def spec_commands(spec: ModelSpec) -> tuple[Command, ...]:
    """The commands that make a stored model, in the order `show --modelfile` prints them; parameters sorted by name.

    Messages of roles a Modelfile can't name are left out.
    """
    commands = [Command("from", path) for path in spec.paths]
    commands += [Command("adapter", adapter.path) for adapter in spec.adapters]
    optional = (
        ("draft", spec.draft),
        ("from", spec.projector),
        ("template", spec.template),
        ("system", spec.system),
        ("renderer", spec.renderer),
        ("parser", spec.parser),
    )
    commands += [Command(keyword, value) for keyword, value in optional if value]
    commands += _parameter_commands(spec.parameters)
    commands += [Command("license", text) for text in spec.licenses if text]
    commands += [
        Command("message", message.content, message.role) for message in spec.messages if message.role in ROLES
    ]
    return tuple(commands)


def _parameter_commands(parameters: Mapping[str, object]) -> list[Command]:
    return [
        Command("parameter", _value_text(item), name)
        for name, value in sorted(parameters.items())
        for item in (value if isinstance(value, (list, tuple)) else (value,))
    ]


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
