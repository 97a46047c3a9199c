"""`GoTemplate`: a parsed template with what can be asked of it. Immutable, so one object serves all threads."""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import Literal

from donabe.template import analysis
from donabe.template.evaluator import evaluate
from donabe.template.functions import FUNCTION_NAMES
from donabe.template.limits import DEFAULT_LIMITS, Budget, Limits
from donabe.template.nodes import Action, Command, Field, Pipeline, Tree
from donabe.template.parser import parse
from donabe.template.values import clean_text

TemplateCapability = Literal["tools", "insert", "thinking"]


class GoTemplate:
    """A parsed template. Make it with `parse_template`."""

    def __init__(self, source: str, tree: Tree, limits: Limits) -> None:
        self._source = source
        self._tree = tree
        self._limits = limits

    @property
    def source(self) -> str:
        return self._source

    def variables(self) -> frozenset[str]:
        """Lower-cased names of every field and variable the template uses."""
        return self._variables

    @cached_property
    def _variables(self) -> frozenset[str]:
        return analysis.variables(self._tree)

    def capabilities(self) -> tuple[TemplateCapability, ...]:
        """What the template can express, in the order the API lists it."""
        found: list[TemplateCapability] = []
        found += ["tools"] if "tools" in self._variables else []
        found += ["insert"] if "suffix" in self._variables else []
        found += ["thinking"] if self.thinking_tags() else []
        return tuple(found)

    def tool_tag(self) -> str:
        """What opens a tool call in the model's answer; `{` when the template does not say."""
        return self._tool_tag

    @cached_property
    def _tool_tag(self) -> str:
        return analysis.tool_tag(self._tree)

    def thinking_tags(self) -> tuple[str, str] | None:
        """Opening and closing tag of thinking in the model's answer, when the template shows both."""
        return self._thinking_tags

    @cached_property
    def _thinking_tags(self) -> tuple[str, str] | None:
        return analysis.thinking_tags(self._tree)

    @cached_property
    def _cut_tree(self) -> Tree:
        return analysis.cut_after_response(self._tree)

    def new_budget(self) -> Budget:
        """An account for one request, to share between several renders."""
        return Budget(self._limits)

    def execute(
        self,
        root: object,
        *,
        cut: bool = False,
        today: datetime.date | None = None,
        budget: Budget | None = None,
    ) -> str:
        """Render with a root value.

        Args:
            root: The value of `.`, usually a dict.
            cut: Leave out everything after the first place that prints `.Response`.
            today: The date of `currentDate`; None = the local date.
            budget: What this render may use; None = a new one.

        Raises:
            TemplateError: the template failed on these values, or passed a limit.
        """
        tree = self._cut_tree if cut else self._tree
        return evaluate(tree, self._source, root, budget=budget or self.new_budget(), today=today)


def parse_template(text: str, *, limits: Limits = DEFAULT_LIMITS) -> GoTemplate:
    """Parse a template.

    A template that mentions neither messages nor a response gets `{{ .Response }}` at its end, as in the reference.

    Raises:
        TemplateError: `template: :<line>: <what is wrong>`, or a limit was passed.
    """
    source = clean_text(text)
    tree = parse(source, FUNCTION_NAMES, limits)
    if not analysis.variables(tree) & {"messages", "response"}:
        at = len(source)
        command = Command((Field(("Response",), at),), at)
        tree = Tree((*tree.body, Action(Pipeline((command,), (), False, at))), tree.defined)
    return GoTemplate(text, tree, limits)
