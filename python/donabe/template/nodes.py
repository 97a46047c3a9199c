"""The syntax tree of a Go template: frozen dataclasses, made by the parser, walked by the evaluator and the analysis.

Every node that can fail while rendering carries `at`, its character offset in the source, for error messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# --- operands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: string, character (an int), integer, float or bool. `text` is how it was written."""

    value: str | int | float | bool
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Nil:
    """The word nil."""

    at: int


@dataclass(frozen=True, slots=True)
class Dot:
    """The current value, `.`."""

    at: int


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`: fields of the current value."""

    path: tuple[str, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`: a variable (name with its `$`) and fields of its value."""

    name: str
    path: tuple[str, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B`: fields of a computed value."""

    operand: Operand
    path: tuple[str, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Function:
    """The name of a function, as the first word of a command or as an argument."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`$x := a | b`: commands whose results feed the next, and the variables that take the final value."""

    commands: tuple[Command, ...]
    declares: tuple[Variable, ...]
    assigns: bool  # `=` instead of `:=`
    at: int


Operand = Literal | Nil | Dot | Field | Variable | Chain | Function | Pipeline


@dataclass(frozen=True, slots=True)
class Command:
    """One stage of a pipeline: an operand and its arguments."""

    args: tuple[Operand, ...]
    at: int


# --- statements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """Literal output."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`: printed unless it declares or assigns a variable."""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class If:
    """`{{ if }}`; an `else if` is an If alone in `orelse`."""

    pipeline: Pipeline
    body: Body
    orelse: Body


@dataclass(frozen=True, slots=True)
class With:
    """`{{ with }}`: like If, with the value as dot in the body."""

    pipeline: Pipeline
    body: Body
    orelse: Body


@dataclass(frozen=True, slots=True)
class Range:
    """`{{ range }}`: the body for each element, `orelse` when there is none."""

    pipeline: Pipeline
    body: Body
    orelse: Body


@dataclass(frozen=True, slots=True)
class Call:
    """`{{ template "name" pipeline }}`."""

    name: str
    pipeline: Pipeline | None
    at: int


@dataclass(frozen=True, slots=True)
class Break:
    """`{{ break }}`."""

    at: int


@dataclass(frozen=True, slots=True)
class Continue:
    """`{{ continue }}`."""

    at: int


Branch = If | With | Range
Statement = Text | Action | If | With | Range | Call | Break | Continue
Body = tuple[Statement, ...]


CUT_MARK = "\0cut"  # ends the names of the shortened copies that analysis.cut_after_response makes


@dataclass(frozen=True, slots=True)
class Tree:
    """A parsed source: the main body and the templates it defines."""

    body: Body
    defined: dict[str, Body]


# --- walking ---------------------------------------------------------------------------------------------------------


def statement_pipeline(statement: Statement) -> Pipeline | None:
    """The pipeline a statement evaluates, if it has one."""
    if isinstance(statement, (Action, If, With, Range, Call)):
        return statement.pipeline
    return None


def child_bodies(statement: Statement) -> tuple[Body, ...]:
    """The bodies inside a statement."""
    if isinstance(statement, (If, With, Range)):
        return (statement.body, statement.orelse)
    return ()


def operand_names(operand: Operand) -> Iterator[str]:
    """Every field and variable name an operand mentions, with the `$` of variables removed."""
    if isinstance(operand, Field):
        yield from operand.path
    elif isinstance(operand, Variable):
        yield operand.name[1:]
        yield from operand.path
    elif isinstance(operand, Chain):
        yield from operand_names(operand.operand)
        yield from operand.path
    elif isinstance(operand, Pipeline):
        yield from pipeline_names(operand)


def pipeline_names(pipeline: Pipeline) -> Iterator[str]:
    """Every field and variable name a pipeline mentions, declared variables included."""
    for variable in pipeline.declares:
        yield from operand_names(variable)
    for command in pipeline.commands:
        for operand in command.args:
            yield from operand_names(operand)


def body_names(body: Body) -> Iterator[str]:
    """Every field and variable name in a body and the bodies inside it."""
    for statement in body:
        pipeline = statement_pipeline(statement)
        if pipeline is not None:
            yield from pipeline_names(pipeline)
        for child in child_bodies(statement):
            yield from body_names(child)


# --- source form, for messages ---------------------------------------------------------------------------------------


def operand_text(operand: Operand) -> str:
    """An operand as it could have been written."""
    if isinstance(operand, Literal):
        return operand.text
    if isinstance(operand, Field):
        return "".join(f".{name}" for name in operand.path)
    if isinstance(operand, Variable):
        return operand.name + "".join(f".{name}" for name in operand.path)
    if isinstance(operand, Chain):
        return f"{operand_text(operand.operand)}" + "".join(f".{name}" for name in operand.path)
    if isinstance(operand, Function):
        return operand.name
    if isinstance(operand, Pipeline):
        return f"({pipeline_text(operand)})"
    return "nil" if isinstance(operand, Nil) else "."


def pipeline_text(pipeline: Pipeline) -> str:
    """A pipeline as it could have been written."""
    names = ", ".join(variable.name for variable in pipeline.declares)
    prefix = f"{names} {'=' if pipeline.assigns else ':='} " if names else ""
    return prefix + " | ".join(" ".join(map(operand_text, command.args)) for command in pipeline.commands)
