"""Builds the syntax tree of a template by recursive descent, with the rules and messages of Go's text/template.

Checked here, before anything runs: functions exist, variables are declared, blocks are closed, `break` and `continue`
stand in a range, and nesting stays within the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from donabe.errors import TemplateError
from donabe.template.lexer import Kind, Token, quote, syntax_error, tokenize
from donabe.template.limits import DEFAULT_LIMITS, Limits
from donabe.template.nodes import (
    Action,
    Body,
    Break,
    Call,
    Chain,
    Command,
    Continue,
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
)

_OPERAND_STARTS = frozenset(
    {Kind.FIELD, Kind.DOT, Kind.VARIABLE, Kind.IDENTIFIER, Kind.CONSTANT, Kind.NIL, Kind.OPEN}
)  # fmt: skip


def parse(source: str, functions: Collection[str], limits: Limits = DEFAULT_LIMITS) -> Tree:
    """Parse a template.

    Args:
        source: The template text.
        functions: Names that may be called.
        limits: `max_source_chars` and `max_depth` apply.

    Raises:
        TemplateError: `template: :<line>: <what is wrong>`.
    """
    if len(source) > limits.max_source_chars:
        raise TemplateError(
            f"template is {len(source)} characters long, the limit is {limits.max_source_chars}",
            hint="shorten the template",
        )
    return _Parser(source, functions, limits.max_depth).parse()


class _Parser:
    def __init__(self, source: str, functions: Collection[str], max_depth: int) -> None:
        self._src = source
        self._functions = functions
        self._max_depth = max_depth
        self._tokens = tokenize(source)
        self._next = 0
        self._depth = 0
        self._n_ranges = 0  # ranges around the current place
        self._vars: list[str] = ["$"]
        self._defined: dict[str, Body] = {}

    # --- tokens ---

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind is not Kind.EOF:
            self._next += 1
        return token

    def _skip_space(self) -> None:
        while self._peek().kind is Kind.SPACE:
            self._next += 1

    def _peek_word(self) -> Token:
        self._skip_space()
        return self._peek()

    def _take_word(self) -> Token:
        self._skip_space()
        return self._take()

    def _fail(self, token: Token, message: str) -> TemplateError:
        return syntax_error(self._src, token.at, message)

    def _unexpected(self, token: Token, context: str) -> TemplateError:
        return self._fail(token, f"unexpected {token} in {context}")

    def _expect_right(self, context: str) -> None:
        token = self._take_word()
        if token.kind is not Kind.RIGHT:
            raise self._unexpected(token, context)

    @contextmanager
    def _nested(self, token: Token) -> Iterator[None]:
        self._depth += 1
        if self._depth > self._max_depth:
            raise self._fail(token, f"nested deeper than {self._max_depth} levels")
        yield
        self._depth -= 1

    # --- statements ---

    def parse(self) -> Tree:
        body: list[Statement] = []
        while self._peek().kind is not Kind.EOF:
            statement, closing = self._statement(define_allowed=True)
            if closing is not None:
                raise self._fail(closing, f"unexpected {{{{{closing.text}}}}}")
            if statement is not None:
                body.append(statement)
        return Tree(tuple(body), self._defined)

    def _body(self, context: str) -> tuple[Body, Token]:
        """Statements up to `{{end}}` or `{{else`; returns them and that keyword (the rest of its action is unread)."""
        body: list[Statement] = []
        while self._peek().kind is not Kind.EOF:
            statement, closing = self._statement(define_allowed=False)
            if closing is not None:
                return tuple(body), closing
            if statement is not None:
                body.append(statement)
        raise self._fail(self._peek(), "unexpected EOF")

    def _statement(self, *, define_allowed: bool) -> tuple[Statement | None, Token | None]:
        """One statement, or the closing keyword found in its place."""
        token = self._take()
        if token.kind is Kind.TEXT:
            return Text(token.text), None
        keyword = self._peek_word()
        if keyword.kind is not Kind.KEYWORD:
            return Action(self._pipeline("command", Kind.RIGHT)), None
        self._take()
        if keyword.text in ("end", "else"):
            return None, keyword
        if keyword.text == "define":
            if not define_allowed:
                raise self._unexpected(keyword, "command")
            self._define()
            return None, None
        handlers: dict[str, Callable[[Token], Statement]] = {
            "if": self._if,
            "with": self._with,
            "range": self._range,
            "template": self._call,
            "block": self._block,
            "break": self._loop_exit,
            "continue": self._loop_exit,
        }
        return handlers[keyword.text](keyword), None

    def _if(self, keyword: Token) -> Statement:
        return If(*self._branch(keyword))

    def _with(self, keyword: Token) -> Statement:
        return With(*self._branch(keyword))

    def _range(self, keyword: Token) -> Statement:
        return Range(*self._branch(keyword))

    def _branch(self, keyword: Token) -> tuple[Pipeline, Body, Body]:
        """The rest of an if, with or range after its keyword, `{{end}}` included."""
        context = keyword.text
        n_vars = len(self._vars)
        with self._nested(keyword):
            pipeline = self._pipeline(context, Kind.RIGHT)
            self._n_ranges += context == "range"
            body, closing = self._body(context)
            self._n_ranges -= context == "range"
            orelse: Body = ()
            if closing.text == "else":
                orelse = self._else(context)
            else:
                self._expect_right("end")
        del self._vars[n_vars:]
        return pipeline, body, orelse

    def _else(self, context: str) -> Body:
        """What follows the word else. `else if` and `else with` are statements that share our `{{end}}`."""
        following = self._peek_word()
        if following.kind is Kind.KEYWORD and following.text == context and context in ("if", "with"):
            self._take()
            return (self._if(following) if context == "if" else self._with(following),)
        self._expect_right("else")
        orelse, closing = self._body(context)
        if closing.text == "else":
            raise self._fail(closing, "expected end; found {{else}}")
        self._expect_right("end")
        return orelse

    def _name(self, context: str) -> str:
        token = self._take_word()
        if token.kind is not Kind.CONSTANT or not isinstance(token.value, str):
            raise self._unexpected(token, context)
        return token.value

    def _define(self) -> None:
        token = self._peek_word()
        name = self._name("define clause")
        self._expect_right("define clause")
        self._add_definition(name, self._defined_body("define clause"), token)

    def _defined_body(self, context: str) -> Body:
        """A template body with variables of its own, `{{end}}` included."""
        outer_vars, self._vars = self._vars, ["$"]
        outer_ranges, self._n_ranges = self._n_ranges, 0
        with self._nested(self._peek()):
            body, closing = self._body(context)
            if closing.text != "end":
                raise self._unexpected(closing, context)
            self._expect_right("end")
        self._vars, self._n_ranges = outer_vars, outer_ranges
        return body

    def _add_definition(self, name: str, body: Body, token: Token) -> None:
        existing = self._defined.get(name)
        if existing is not None and not _is_blank(existing) and not _is_blank(body):
            raise self._fail(token, f"multiple definition of template {quote(name)}")
        if existing is None or not _is_blank(body):
            self._defined[name] = body

    def _call(self, keyword: Token) -> Statement:
        name = self._name("template clause")
        pipeline = None
        if self._peek_word().kind is Kind.RIGHT:
            self._take()
        else:
            pipeline = self._pipeline("template clause", Kind.RIGHT)
        return Call(name, pipeline, keyword.at)

    def _block(self, keyword: Token) -> Statement:
        token = self._peek_word()
        name = self._name("block clause")
        pipeline = self._pipeline("block clause", Kind.RIGHT)
        self._add_definition(name, self._defined_body("block clause"), token)
        return Call(name, pipeline, keyword.at)

    def _loop_exit(self, keyword: Token) -> Statement:
        token = self._take_word()
        if token.kind is not Kind.RIGHT:
            raise self._unexpected(token, f"{{{{{keyword.text}}}}}")
        if not self._n_ranges:
            raise self._fail(keyword, f"{{{{{keyword.text}}}}} outside {{{{range}}}}")
        return Break(keyword.at) if keyword.text == "break" else Continue(keyword.at)

    # --- pipelines ---

    def _pipeline(self, context: str, end: Kind) -> Pipeline:
        """A pipeline and the delimiter that ends it."""
        start = self._peek_word()
        declares, assigns = self._declarations(context)
        commands: list[Command] = []
        while True:
            token = self._peek_word()
            if token.kind is end:
                self._take()
                break
            if token.kind not in _OPERAND_STARTS:
                raise self._unexpected(token, context)
            commands.append(self._command())
        if not commands:
            raise self._fail(start, f"missing value for {context}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.args[0], (Literal, Nil, Dot)):
                raise self._fail(start, f"non executable command in pipeline stage {stage}")
        return Pipeline(tuple(commands), tuple(declares), assigns, start.at)

    def _declarations(self, context: str) -> tuple[list[Variable], bool]:
        """`$x :=`, `$x =` or, in a range, `$i, $x :=` at the start of a pipeline."""
        declares: list[Variable] = []
        while self._peek_word().kind is Kind.VARIABLE:
            mark = self._next
            token = self._take()
            following = self._peek_word()
            if following.kind in (Kind.DECLARE, Kind.ASSIGN):
                self._take()
                declares.append(Variable(token.text, (), token.at))
                self._vars.append(token.text)
                return declares, following.kind is Kind.ASSIGN
            if following.kind is Kind.COMMA:
                self._take()
                declares.append(Variable(token.text, (), token.at))
                self._vars.append(token.text)
                if context != "range" or len(declares) > 1:
                    raise self._fail(token, f"too many declarations in {context}")
                if self._peek_word().kind is not Kind.VARIABLE:
                    raise self._fail(token, "range can only initialize variables")
                continue
            self._next = mark
            if declares:
                raise self._unexpected(following, context)
            break
        return declares, False

    def _command(self) -> Command:
        """Operands up to a pipe or the end of the pipeline; the pipe is consumed."""
        start = self._peek_word()
        args: list[Operand] = []
        while True:
            self._skip_space()
            operand = self._operand()
            if operand is not None:
                args.append(operand)
            token = self._peek()
            if token.kind is Kind.SPACE:
                continue
            if token.kind is Kind.PIPE:
                self._take()
                following = self._peek_word()
                if following.kind in (Kind.RIGHT, Kind.CLOSE):
                    raise self._fail(token, "missing value for command")
            elif token.kind not in (Kind.RIGHT, Kind.CLOSE):
                raise self._unexpected(token, "operand")
            break
        if not args:
            raise self._fail(start, "empty command")
        return Command(tuple(args), start.at)

    def _operand(self) -> Operand | None:
        """A term and the fields taken from it."""
        first = self._peek()
        term = self._term()
        if term is None or self._peek().kind is not Kind.FIELD:
            return term
        if isinstance(term, (Literal, Nil, Dot)):
            raise self._fail(self._peek(), f"unexpected . after term {quote(first.text)}")
        path: list[str] = []
        while self._peek().kind is Kind.FIELD:
            path.append(self._take().text[1:])
        if isinstance(term, Field):
            return Field((*term.path, *path), term.at)
        if isinstance(term, Variable):
            return Variable(term.name, (*term.path, *path), term.at)
        return Chain(term, tuple(path), first.at)

    def _term(self) -> Operand | None:
        token = self._peek()
        if token.kind not in _OPERAND_STARTS:
            return None
        self._take()
        if token.kind is Kind.OPEN:
            with self._nested(token):
                return self._pipeline("parenthesized pipeline", Kind.CLOSE)
        if token.kind is Kind.IDENTIFIER and token.text not in self._functions:
            raise self._fail(token, f"function {quote(token.text)} not defined")
        if token.kind is Kind.VARIABLE and token.text not in self._vars:
            raise self._fail(token, f"undefined variable {quote(token.text)}")
        return _leaf(token)


def _leaf(token: Token) -> Operand:
    """The operand a single token stands for."""
    if token.kind is Kind.FIELD:
        return Field((token.text[1:],), token.at)
    if token.kind is Kind.VARIABLE:
        return Variable(token.text, (), token.at)
    if token.kind is Kind.IDENTIFIER:
        return Function(token.text, token.at)
    if token.kind is Kind.CONSTANT:
        return Literal(token.value, token.text, token.at)
    return Nil(token.at) if token.kind is Kind.NIL else Dot(token.at)


def _is_blank(body: Body) -> bool:
    return all(isinstance(statement, Text) and not statement.text.strip() for statement in body)
