"""What a template's syntax tree tells without running it: names used, tool tag, thinking tags, where the response
goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from donabe.template.nodes import (
    CUT_MARK,
    Action,
    Body,
    Call,
    Field,
    If,
    Operand,
    Pipeline,
    Range,
    Statement,
    Text,
    Tree,
    Variable,
    With,
    body_names,
    child_bodies,
    pipeline_names,
    statement_pipeline,
)

DEFAULT_TOOL_TAG = "{"


def all_bodies(tree: Tree) -> Iterator[Body]:
    """The main body and those of the defined templates."""
    yield tree.body
    yield from tree.defined.values()


def variables(tree: Tree) -> frozenset[str]:
    """Lower-cased names of all fields and variables in the template and those it defines."""
    return frozenset(name.lower() for body in all_bodies(tree) for name in body_names(body) if name)


# --- tool calls ------------------------------------------------------------------------------------------------------


def tool_tag(tree: Tree) -> str:
    """What opens a tool call in an answer: the text after `{{ if .ToolCalls }}`, up to the JSON; `{` by default."""
    for body in all_bodies(tree):
        branch = _find_tool_branch(body)
        if branch is not None:
            text = _first_text(branch.body) or ""
            return text.partition("{")[0].strip() or DEFAULT_TOOL_TAG
    return DEFAULT_TOOL_TAG


def _find_tool_branch(body: Body) -> If | None:
    for statement in body:
        if isinstance(statement, If) and "ToolCalls" in pipeline_names(statement.pipeline):
            return statement
        for child in child_bodies(statement):
            found = _find_tool_branch(child)
            if found is not None:
                return found
    return None


def _first_text(body: Body) -> str | None:
    """The first text that is not blank; None when an action comes first, "" when there is nothing."""
    for statement in body:
        if isinstance(statement, Text):
            if statement.text.strip():
                return statement.text
        elif isinstance(statement, (If, With, Range)):
            found = _first_text(statement.body)
            if found != "":
                return found
        else:
            return None
    return ""


# --- thinking --------------------------------------------------------------------------------------------------------


@dataclass
class _Tags:
    opening: str = ""
    closing: str = ""


def thinking_tags(tree: Tree) -> tuple[str, str] | None:
    """The texts around `.Thinking` inside a range over the messages; None unless both are there."""
    tags = _Tags()
    for body in all_bodies(tree):
        _collect_tags(body, in_messages=False, tags=tags)
    return (tags.opening, tags.closing) if tags.opening and tags.closing else None


def _collect_tags(body: Body, *, in_messages: bool, tags: _Tags) -> None:
    for statement in body:
        pipeline = statement_pipeline(statement)
        if in_messages and pipeline is not None and _mentions_thinking(pipeline):
            first, last = body[0], body[-1]
            if isinstance(first, Text):
                tags.opening = first.text.strip()
            if isinstance(last, Text):
                tags.closing = last.text.strip()
        inside = in_messages
        if isinstance(statement, Range):
            inside = "Messages" in pipeline_names(statement.pipeline)
        for child in child_bodies(statement):
            _collect_tags(child, in_messages=inside, tags=tags)


def _mentions_thinking(pipeline: Pipeline) -> bool:
    return any(_is_thinking(operand) for command in pipeline.commands for operand in command.args)


def _is_thinking(operand: Operand) -> bool:
    if isinstance(operand, Pipeline):
        return _mentions_thinking(operand)
    return isinstance(operand, (Field, Variable)) and operand.path[:1] == ("Thinking",)


# --- response --------------------------------------------------------------------------------------------------------


def cut_after_response(tree: Tree) -> Tree:
    """The template without anything after the first place that prints `.Response`, which is left open as a prefill.

    A branch that does not hold the place is kept whole: it runs instead of it, not after it. Conditions do not count.
    """
    defined = dict(tree.defined)
    return Tree(_cut(tree.body, defined) or tree.body, defined)


def _cut(body: Body, defined: dict[str, Body]) -> Body | None:
    """The body up to the response, None when it is not in it. Cut copies of called templates go to `defined`."""
    for index, statement in enumerate(body):
        shortened = _cut_statement(statement, defined)
        if shortened is not None:
            return (*body[:index], shortened)
    return None


def _cut_statement(statement: Statement, defined: dict[str, Body]) -> Statement | None:
    if isinstance(statement, Action):
        return statement if "Response" in pipeline_names(statement.pipeline) else None
    if isinstance(statement, Call):
        return _cut_call(statement, defined)
    if not isinstance(statement, (If, With, Range)):
        return None
    body = _cut(statement.body, defined)
    if body is not None:
        return replace(statement, body=body)
    orelse = _cut(statement.orelse, defined)
    return None if orelse is None else replace(statement, orelse=orelse)


def _cut_call(call: Call, defined: dict[str, Body]) -> Statement | None:
    name = call.name + CUT_MARK
    if call.name not in defined or call.name.endswith(CUT_MARK):
        return None
    if name not in defined:
        defined[name] = defined[call.name]  # a template that calls itself is cut only once
        body = _cut(defined[call.name], defined)
        if body is None:
            del defined[name]
            return None
        defined[name] = body
    return replace(call, name=name)
