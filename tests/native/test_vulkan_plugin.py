"""The Vulkan plug-in on a software device: what is computed there, in whole or in part, is what the CPU computes.

Runs where donabe is installed from a wheel together with donabe-vulkan (see docs/install.md) and Mesa's lavapipe driver
is there; elsewhere there is nothing that could be loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

import pytest
from tests.model_store import SMOLLM2, ensure_model
from tests.native.lab import ARCHITECTURE_BY_KIND

from donabe import _core

DRIVER = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
PROGRAM = Path(__file__).with_name("vulkan_program.py")
TIMEOUT_S = 900  # shaders are compiled for minutes on a busy machine
pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)


def plugin_folder() -> Path:
    """The installed plug-in's folder."""
    for entry in metadata.entry_points(group="donabe.backends", name="vulkan"):
        spec = util.find_spec(entry.value)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent
    pytest.skip("donabe-vulkan is not installed")


@pytest.fixture(scope="module")
def library() -> str:
    folder = plugin_folder()
    if not _core.build_info()["backend_dl"]:
        pytest.skip("this build of donabe has its backends linked in and takes no plug-ins")
    if not DRIVER.exists():
        pytest.skip(f"no software Vulkan driver: {DRIVER} is missing (Debian: mesa-vulkan-drivers)")
    facts = json.loads((folder / "plugin.json").read_text(encoding="utf-8"))
    assert facts["name"] == "vulkan"
    assert facts["version"] == _core.__version__
    assert facts["build_id"] == _core.build_info()["build_id"]
    return str(folder / facts["library"])


def run_everywhere(library: str, model: str, n_layers: int, prompt: str = "") -> dict[str, tuple[list[int], int, int]]:
    environment = os.environ | {
        "VK_ICD_FILENAMES": str(DRIVER),
        "GGML_VK_VISIBLE_DEVICES": "0",
        "GGML_VK_SERIALIZE_SUBMISSIONS": "1",  # Mesa 22.3 crashes when a shader is compiled while another one runs
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM), library, model, str(n_layers), prompt],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: tuple(facts) for name, facts in json.loads(done.stdout.splitlines()[-1]).items()}


def check(results: dict[str, tuple[list[int], int, int]]) -> None:
    cpu_tokens = results["cpu"][0]
    for name, (tokens, weights, _) in results.items():
        assert tokens == cpu_tokens, name
        assert (weights > 0) == (name != "cpu"), name
    assert results["some layers"][1] < results["all layers"][1]
    assert results["cache in main memory"][2] < results["all layers"][2]


@pytest.mark.parametrize("kind", sorted(ARCHITECTURE_BY_KIND))
def test_tiny_models_give_the_text_of_the_cpu(kind: str, library: str, tiny_model: Callable[[str], str]) -> None:
    path = tiny_model(ARCHITECTURE_BY_KIND[kind])
    check(run_everywhere(library, path, _core.Model(path).n_layer))


@pytest.mark.models
def test_smollm2_gives_the_text_of_the_cpu(library: str) -> None:
    path = str(ensure_model(SMOLLM2))
    check(run_everywhere(library, path, 30, "The three largest cities of France are"))
