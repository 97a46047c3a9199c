"""How the check of container images reads the Dockerfile."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGING = Path(__file__).parents[3] / "packaging"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_image", PACKAGING / "check_image.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("target", "package"), [("cpu", "donabe"), ("vulkan", '"donabe[vulkan]"'), ("cuda", '"donabe[cuda]"')]
)
def test_our_images_run_without_privileges_from_the_wheelhouse(script: ModuleType, target: str, package: str) -> None:
    image = script.read_image((PACKAGING / "docker" / "Dockerfile").read_text(), target)
    assert image.user == "10001:10001"
    assert image.volume == image.environment["DONABE_HOME"] == "/data"
    assert [*image.entry, *image.command] == ["donabe", "serve"]
    assert image.health[:2] == ["python", "-c"]
    command, mounts = image.runs[-1]
    assert mounts == {"/wheelhouse": "wheelhouse"}
    assert command == f"pip install --no-cache-dir --no-index --find-links /wheelhouse {package}"


def test_lines_are_joined_and_comments_dropped(script: ModuleType) -> None:
    text = "# top\nFROM a AS b\nRUN one \\\n    # between\n    && two\nENV X=1 \\\n    Y='2 3'\nUSER 5:6\n"
    image = script.read_image(text, "b")
    assert image.runs == [("one && two", {})]
    assert image.environment == {"X": "1", "Y": "2 3"}


def test_what_is_not_understood_is_refused(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="unknown instruction COPY"):
        script.read_image("FROM a AS b\nCOPY . .\n", "b")
    with pytest.raises(ValueError, match="no stage c; there are b"):
        script.read_image("FROM a AS b\n", "c")
