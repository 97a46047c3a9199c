"""docs/settings.md lists every declared setting, and each is read somewhere."""

from __future__ import annotations

import ast
from pathlib import Path

from donabe.settings import Setting, declared_settings

ROOT = Path(__file__).parents[2]


def row(setting: Setting) -> str:
    twins = ", ".join(f"`{name}`" for name in setting.twins) or "-"
    default = f"`{setting.default_text}`" if setting.default_text else "-"
    return f"| `{setting.name}` | {setting.kind.label} | {default} | {twins} | {setting.help} |"


def test_table_matches_the_declarations() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    shown = [line for line in text.splitlines() if line.startswith("| `")]
    expected = [row(setting) for setting in declared_settings()]
    assert shown == expected, "run ci/docs; docs/settings.md should have:\n" + "\n".join(expected)


def test_environment_names_follow_the_rule_of_the_document() -> None:
    assert all(setting.env == f"DONABE_{setting.name.upper()}" for setting in declared_settings())


def reads_settings(node: ast.expr) -> bool:
    """Whether an expression is the settings: `settings`, `self._settings`, `load_settings()`."""
    if isinstance(node, ast.Call):
        return reads_settings(node.func)
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_") in ("settings", "load_settings")


def test_every_setting_is_read_somewhere() -> None:
    used: set[str] = set()
    for path in (ROOT / "python" / "donabe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (reads_settings(node.value) or path.name == "settings.py"):
                used.add(node.attr)
    unread = [setting.name for setting in declared_settings() if setting.attribute not in used]
    assert unread == [], "a setting that nothing reads is a promise nobody keeps"
