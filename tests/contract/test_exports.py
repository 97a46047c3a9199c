"""Public names: `__all__` is sorted, everything in it exists and says what it is."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "donabe"


def modules_with_all() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "\n__all__ = [" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def export_order(name: str) -> tuple[int, str]:
    """As the linter sorts: constants, classes, the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", modules_with_all())
def test_all_is_sorted_and_exists(name: str) -> None:
    module = import_module(name)
    assert list(module.__all__) == sorted(module.__all__, key=export_order)
    missing = [item for item in module.__all__ if not hasattr(module, item)]
    assert missing == []


@pytest.mark.parametrize("name", modules_with_all())
def test_exported_classes_and_functions_are_documented(name: str) -> None:
    module = import_module(name)
    items = {item: getattr(module, item) for item in module.__all__}
    bare = [
        item
        for item, value in items.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not (value.__doc__ or "").strip()
    ]
    assert bare == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_says_what_it_owns(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text.lstrip()
    assert head.startswith(('"""', 'r"""')), "a module opens with its docstring"
    assert len(head.split('"""')[1].split()) > 3, "the docstring must say something"
