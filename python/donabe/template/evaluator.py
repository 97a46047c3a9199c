"""Runs a parsed template over a root value, as Go's text/template does.

One `Evaluator` is one render: it owns the variables, the output and the budget, and is used by one thread once.
Failures are TemplateErrors of the form `template: :<line>:<column>: executing "<name>" at <part>: <what>`.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator, Mapping, Sequence

from donabe.errors import TemplateError
from donabe.template.functions import BUILTINS, Context
from donabe.template.lexer import quote
from donabe.template.limits import Budget
from donabe.template.nodes import (
    CUT_MARK,
    Action,
    Body,
    Break,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    If,
    Literal,
    Nil,
    Operand,
    Pipeline,
    Range,
    Statement,
    Text,
    Tree,
    Variable,
    With,
    operand_text,
    pipeline_text,
)
from donabe.template.values import (
    CallError,
    GoStruct,
    JsonList,
    JsonMap,
    TypeNames,
    finish_text,
    go_text,
    is_true,
    type_name,
)


class _Flow(enum.Enum):
    NEXT = 0
    BREAK = 1
    CONTINUE = 2


_ABSENT = object()  # no value comes in from an earlier pipeline stage


def evaluate(tree: Tree, source: str, root: object, *, budget: Budget, today: datetime.date | None = None) -> str:
    """Render a template.

    Args:
        tree: The parsed template.
        source: Its text, for line numbers in messages.
        root: The value of `.` and `$`.
        budget: What the render may use; may be shared by several renders of one request.
        today: The date of `currentDate`; None = the local date.

    Raises:
        TemplateError: the template failed on these values, or passed a limit.
    """
    try:
        return Evaluator(tree, source, budget, today).run(root)
    except RecursionError:
        raise TemplateError("template is nested too deeply to run") from None


class Evaluator:
    """One render."""

    def __init__(self, tree: Tree, source: str, budget: Budget, today: datetime.date | None) -> None:
        self._tree = tree
        self._src = source
        self._budget = budget
        self._context = Context(self._budget, lambda: today or datetime.date.today())
        self._out: list[str] = []
        self._vars: list[tuple[str, object]] = []
        self._name = ""
        self._depth = 0

    def run(self, root: object) -> str:
        self._vars = [("$", root)]
        self._body(self._tree.body, root)
        return finish_text("".join(self._out))

    def _fail(self, at: int, part: str, message: str) -> TemplateError:
        line = self._src.count("\n", 0, at) + 1
        column = len(self._src[self._src.rfind("\n", 0, at) + 1 : at].encode("utf-8", "replace"))
        shown = part if len(part) <= 80 else part[:80] + "..."
        where = f"template: :{line}:{column}: executing {quote(self._name.partition(CUT_MARK)[0])} at <{shown}>"
        return TemplateError(f"{where}: {message}")

    # --- statements ---

    def _body(self, body: Body, dot: object) -> _Flow:
        self._depth += 1
        if self._depth > self._budget.max_exec_depth:
            raise TemplateError(f"template: exceeded maximum template depth ({self._budget.max_exec_depth})")
        flow = _Flow.NEXT
        for statement in body:
            flow = self._statement(statement, dot)
            if flow is not _Flow.NEXT:
                break
        self._depth -= 1
        return flow

    def _statement(self, statement: Statement, dot: object) -> _Flow:
        self._budget.step()
        if isinstance(statement, Text):
            self._write(statement.text)
        elif isinstance(statement, Action):
            self._action(statement, dot)
        elif isinstance(statement, (If, With)):
            return self._conditional(statement, dot)
        elif isinstance(statement, Range):
            return self._range(statement, dot)
        elif isinstance(statement, Call):
            self._call(statement, dot)
        elif isinstance(statement, Break):
            return _Flow.BREAK
        else:
            return _Flow.CONTINUE
        return _Flow.NEXT

    def _write(self, text: str) -> None:
        self._budget.output(len(text))
        self._out.append(text)

    def _action(self, action: Action, dot: object) -> None:
        value = self._pipeline(action.pipeline, dot)
        if action.pipeline.declares:
            return
        try:
            self._write("<no value>" if value is None else go_text(value))
        except CallError as exc:
            raise self._fail(action.pipeline.at, pipeline_text(action.pipeline), str(exc)) from None

    def _conditional(self, statement: If | With, dot: object) -> _Flow:
        n_vars = len(self._vars)
        value = self._pipeline(statement.pipeline, dot)
        if is_true(value):
            flow = self._body(statement.body, value if isinstance(statement, With) else dot)
        else:
            flow = self._body(statement.orelse, dot)
        del self._vars[n_vars:]
        return flow

    def _range(self, statement: Range, dot: object) -> _Flow:
        n_outer = len(self._vars)
        value = self._pipeline(statement.pipeline, dot)
        n_vars = len(self._vars)
        ran = False
        for key, item in self._elements(statement.pipeline, value):
            self._budget.step()
            ran = True
            self._set_loop_variables(statement.pipeline, key, item)
            flow = self._body(statement.body, item)
            del self._vars[n_vars:]
            if flow is _Flow.BREAK:
                break
        del self._vars[n_vars:]
        flow = _Flow.NEXT if ran else self._body(statement.orelse, dot)
        del self._vars[n_outer:]
        return flow

    def _elements(self, pipeline: Pipeline, value: object) -> Iterator[tuple[object, object]]:
        if value is None:
            return iter(())
        if isinstance(value, Mapping):
            return iter(sorted(value.items(), key=lambda pair: str(pair[0])))
        if isinstance(value, (list, tuple)):
            return iter(enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return ((number, number) for number in range(value))
        shown = go_text(value)
        raise self._fail(pipeline.at, pipeline_text(pipeline), f"range can't iterate over {shown[:80]}")

    def _set_loop_variables(self, pipeline: Pipeline, key: object, item: object) -> None:
        """Give the range's variables (already on the stack if declared) this round's key and element."""
        names = pipeline.declares
        values = (key, item) if len(names) == 2 else (item,)
        for position, (variable, value) in enumerate(zip(names, values, strict=False)):
            if pipeline.assigns:
                self._assign(variable, value)
            else:
                index = len(self._vars) - len(names) + position
                self._vars[index] = (variable.name, value)

    def _call(self, statement: Call, dot: object) -> None:
        body = self._tree.defined.get(statement.name)
        if body is None:
            part = f"{{{{template {quote(statement.name)}}}}}"
            raise self._fail(statement.at, part, f"template {quote(statement.name)} not defined")
        value = None if statement.pipeline is None else self._pipeline(statement.pipeline, dot)
        outer_name, outer_vars = self._name, self._vars
        self._name, self._vars = statement.name, [("$", value)]
        self._body(body, value)
        self._name, self._vars = outer_name, outer_vars

    # --- pipelines ---

    def _pipeline(self, pipeline: Pipeline, dot: object) -> object:
        value: object = _ABSENT
        for command in pipeline.commands:
            value = self._command(command, dot, value)
        for variable in pipeline.declares:
            if pipeline.assigns:
                self._assign(variable, value)
            else:
                self._vars.append((variable.name, value))
        return value

    def _assign(self, variable: Variable, value: object) -> None:
        for index in range(len(self._vars) - 1, -1, -1):
            if self._vars[index][0] == variable.name:
                self._vars[index] = (variable.name, value)
                return
        raise self._fail(variable.at, variable.name, f"undefined variable: {variable.name}")

    def _lookup(self, variable: Variable) -> object:
        for name, value in reversed(self._vars):
            if name == variable.name:
                return value
        raise self._fail(variable.at, variable.name, f"undefined variable: {variable.name}")

    def _command(self, command: Command, dot: object, final: object) -> object:
        """One stage; `final` is the result of the stage before, which becomes the last argument."""
        self._budget.step()
        first = command.args[0]
        if isinstance(first, Function):
            return self._function(first, command, dot, final)
        if len(command.args) > 1 or final is not _ABSENT:
            raise self._not_a_function(first)
        if isinstance(first, Nil):
            raise self._fail(first.at, "nil", "nil is not a command")
        return self._operand(first, dot)

    def _not_a_function(self, operand: Operand) -> TemplateError:
        text = operand_text(operand)
        if isinstance(operand, (Field, Variable, Chain)) and operand.path:
            message = f"{operand.path[-1]} is not a method but has arguments"
        else:
            message = f"can't give argument to non-function {text}"
        return self._fail(operand.at, text, message)

    def _operand(self, operand: Operand, dot: object) -> object:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Field):
            return self._fields(operand, dot, operand.path)
        if isinstance(operand, Variable):
            return self._fields(operand, self._lookup(operand), operand.path)
        if isinstance(operand, Dot):
            return dot
        if isinstance(operand, Pipeline):
            return self._pipeline(operand, dot)
        if isinstance(operand, Function):
            return self._function(operand, Command((operand,), operand.at), dot, _ABSENT)
        if isinstance(operand, Nil):
            return None
        if isinstance(operand.operand, Nil):
            raise self._fail(operand.at, operand_text(operand), "indirection through explicit nil")
        return self._fields(operand, self._operand(operand.operand, dot), operand.path)

    def _fields(self, operand: Operand, value: object, path: Sequence[str]) -> object:
        for name in path:
            if isinstance(value, GoStruct) and name in value.fields:
                value = value.fields[name]
            elif name == "String" and isinstance(value, (GoStruct, JsonMap, JsonList, TypeNames)):
                value = self._text_of(operand, value)
            elif isinstance(value, Mapping):
                value = value.get(name)
            else:
                message = f"can't evaluate field {name} in type {type_name(value)}"
                if value is None:
                    message = f"nil pointer evaluating interface {{}}.{name}"
                raise self._fail(operand.at, operand_text(operand), message)
        return value

    def _text_of(self, operand: Operand, value: object) -> str:
        try:
            text = go_text(value)
        except CallError as exc:
            raise self._fail(operand.at, operand_text(operand), str(exc)) from None
        self._budget.work(len(text))
        return text

    def _function(self, function: Function, command: Command, dot: object, final: object) -> object:
        name = function.name
        arguments = command.args[1:]
        if name in ("and", "or"):
            return self._short_circuit(function, arguments, dot, final)
        builtin = BUILTINS[name]
        values = [self._operand(argument, dot) for argument in arguments]
        if final is not _ABSENT:
            values.append(final)
        self._check_count(function, len(values), builtin.n_min, builtin.n_max)
        try:
            return builtin.call(values, self._context)
        except CallError as exc:
            raise self._fail(function.at, name, f"error calling {name}: {exc}") from None

    def _check_count(self, function: Function, n_args: int, n_min: int, n_max: int | None) -> None:
        if n_min <= n_args and (n_max is None or n_args <= n_max):
            return
        want = str(n_min) if n_min == n_max else f"at least {n_min}"
        raise self._fail(
            function.at, function.name, f"wrong number of args for {function.name}: want {want} got {n_args}"
        )

    def _short_circuit(self, function: Function, arguments: Sequence[Operand], dot: object, final: object) -> object:
        """`and` and `or`: the first operand that decides, or the last one; the rest is not evaluated."""
        self._check_count(function, len(arguments) + (final is not _ABSENT), 1, None)
        value: object = None
        for argument in arguments:
            value = self._operand(argument, dot)
            if is_true(value) is (function.name == "or"):
                return value
        return value if final is _ABSENT else final
