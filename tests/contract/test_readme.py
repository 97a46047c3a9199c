"""What README.md and docs/ show can be run: commands and flags exist, links lead somewhere, Python examples compile."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

import donabe
from donabe.cli.app import root

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


def command_lines(page: Path) -> list[list[str]]:
    """Every `donabe ...` in code, as words; prose quotes such as `donabe.Client` and help screens are no commands."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    code = [body for language, body in fenced if not language]
    code += re.findall(r"(?<!`)`(donabe [^`\n]+)`", text_of(page))
    found = []
    for line in "\n".join(code).splitlines():
        match = re.search(r"(?:^|[|&] *|/)donabe ((?!NAME)\S.*)", line.partition("  #")[0])
        if match and not line.startswith("$ "):
            found.append(shlex.split(match[1]))
    return found


def test_one_line_builds_and_asks() -> None:
    assert "pip install . && .venv/bin/donabe run smollm2" in text_of(ROOT / "README.md")


def test_marked_test_command_runs_the_whole_suite() -> None:
    after = text_of(ROOT / "README.md").partition("<!-- test command -->")[2]
    line = next(line for line in after.splitlines() if line and not line.startswith("```"))
    assert line.endswith("ci/test")
    assert "[test,dev]" in line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_and_their_flags_too(page: Path) -> None:
    with click.Context(root, info_name="donabe") as parent:
        for name, *words in command_lines(page):
            if name.startswith("-"):
                continue
            command = root.get_command(parent, name)
            assert command is not None, f"{page.name}: donabe {name}"
            flags = {flag for item in command.params for flag in (*item.opts, *item.secondary_opts)} | {"--help", "-h"}
            for word in words:
                if word.startswith("-") and len(word) > 1:
                    assert word.partition("=")[0] in flags, f"{page.name}: donabe {name} {word}"


def test_readme_shows_commands() -> None:
    assert {"run", "pull", "list", "ps", "show", "stop", "rm", "serve"} <= {
        words[0] for words in command_lines(ROOT / "README.md")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page)):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_compile_and_import_public_names(page: Path) -> None:
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "donabe":
                assert {alias.name for alias in node.names} <= set(donabe.__all__)
