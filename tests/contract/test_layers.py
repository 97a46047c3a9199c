"""Imports point down only: the table of docs/architecture.md, checked on the syntax tree of every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "donabe"
COMMON = {"child_process", "errors", "setting_layers", "setting_values", "settings", "types"}

# What each part may import beside itself and COMMON. Layers may name only layers below them.
ALLOWED: dict[str, set[str]] = {
    "server": {"api", "service", "pool", "replicas", "runner", "store", "registry", "modelfile"},
    "api": {"service"},
    "service": {"pool", "runner", "store", "registry", "modelfile", "template", "convert"},
    "pool": {"runner"},
    "replicas": {"runner"},
    "runner": {"chat", "engine", "devices", "_core"},
    "chat": {"template", "_core"},
    "engine": {"devices", "_core"},
    "devices": {"_core"},
    "store": {"template"},
    "registry": {"store"},
    "modelfile": set(),
    "template": set(),
    "convert": {"store", "_core"},
    "client": set(),
    "cli": {"client", "modelfile", "registry", "server", "store"},  # all but client, modelfile: see below
    "llm": {"runner", "chat", "engine", "store", "registry"},
    "__init__": {"client", "llm"},
    "__main__": {"cli"},
}
# One function looks a model up and, if it is not there, has it fetched; it imports `registry` only then.
EXCEPTIONS = {("store/resolve.py", "registry")}


def layers_of_the_document() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("| layer |") : text.index("At the side:")]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").removesuffix(".pyi")


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, part) of every import of donabe, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = [f"donabe.{alias.name}" for alias in node.names] if module == "donabe" else [module]
        for name in names:
            if name.startswith("donabe."):
                yield node.lineno, name.split(".")[1]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("part", sorted(ALLOWED.keys() | {part_of(path) for path in modules()}))
def test_part_imports_only_what_is_below_it(part: str) -> None:
    allowed = ALLOWED.get(part, set()) | COMMON | {part}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports donabe.{target}"
        for path in modules()
        if part_of(path) == part
        for line, target in imported_parts(path)
        if target not in allowed and (str(path.relative_to(PACKAGE)), target) not in EXCEPTIONS
    ]
    assert wrong == []


def test_allowed_imports_follow_the_order_of_the_document() -> None:
    layers = layers_of_the_document()
    assert len(layers) > 5
    for index, layer in enumerate(layers):
        above = set(layers[:index])
        assert not ALLOWED.get(layer, set()) & above, f"{layer} may not import what stands above it"


def test_document_names_every_part() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = {part_of(path) for path in modules()} - {"__init__", "__main__", "setting_layers", "setting_values"}
    missing = sorted(part for part in parts if f"`{part}`" not in text)
    assert missing == []


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("server", ["health.py", "key.py", "serve.py"]),
        ("registry", ["health.py", "load.py", "save.py"]),
        ("store", ["fit.py", "health.py", "load.py", "save.py", "tune.py"]),
    ],
)
def test_few_commands_reach_past_the_server(part: str, expected: list[str]) -> None:
    users = [
        path.name for path in modules() if part_of(path) == "cli" and any(t == part for _, t in imported_parts(path))
    ]
    assert sorted(users) == expected


def test_common_modules_import_nothing_above_them() -> None:
    for name in COMMON:
        assert {target for _, target in imported_parts(PACKAGE / f"{name}.py")} <= COMMON
