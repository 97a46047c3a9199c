"""One version: pyproject.toml's, everywhere."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def declared() -> str:
    match = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert match is not None
    return match[1]


def test_changelog_has_the_version() -> None:
    assert f"## {declared()}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_installed_version_is_the_declared_one() -> None:
    try:
        installed = metadata.version("donabe")
    except metadata.PackageNotFoundError:
        pytest.skip("donabe runs from its source folder")
    assert installed == declared()


@pytest.mark.parametrize(
    "project", sorted((ROOT / "packaging").glob("*/pyproject.toml")), ids=lambda path: path.parent.name
)
def test_plugins_have_and_pin_the_version(project: Path) -> None:
    text = project.read_text(encoding="utf-8")
    name = f"donabe-{project.parent.name}"
    assert f'name = "{name}"\nversion = "{declared()}"' in text
    assert f'"donabe=={declared()}"' in text
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    # An extra names only what an index has: these are built on the machine that uses them (docs/install.md).
    is_built_by_users = project.parent.name in ("rocm", "sycl")
    assert (f'"{name}=={declared()}' in extras) != is_built_by_users
