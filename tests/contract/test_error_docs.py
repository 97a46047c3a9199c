"""The tree in the docstring of donabe.errors is the class tree."""

from __future__ import annotations

import inspect
import re

from donabe import errors
from donabe.errors import DonabeError


def tree_of_the_docstring() -> dict[str, str]:
    """Child -> parent, from the drawing."""
    parents: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([ │├└─]*)(\w+Error)\b", line)
        if match is None:
            continue
        depth = len(match[1])
        while stack and stack[-1][0] >= depth:
            stack.pop()
        if stack:
            parents[match[2]] = stack[-1][1]
        stack.append((depth, match[2]))
    return parents


def tree_of_the_classes() -> dict[str, str]:
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, DonabeError)]
    return {item.__name__: item.__bases__[0].__name__ for item in classes if item is not DonabeError}


def test_docstring_draws_the_class_tree() -> None:
    assert tree_of_the_docstring() == tree_of_the_classes()


def test_every_error_says_when_it_is_raised() -> None:
    for name in tree_of_the_classes():
        assert (getattr(errors, name).__doc__ or "").strip(), name


def test_every_error_can_carry_a_hint() -> None:
    for name in tree_of_the_classes():
        parameters = inspect.signature(getattr(errors, name).__init__).parameters
        assert "hint" in parameters, name
