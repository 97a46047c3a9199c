"""The packages of the plug-ins: their parts agree with each other, with the core and with what the audit allows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from donabe.devices.plugins import _BUILT_BY_USERS, GROUP
from donabe.devices.selection import BACKENDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = sorted(path.parent.name for path in (ROOT / "packaging").glob("*/pyproject.toml"))
EXTRAS = {"cuda12": "cuda"}  # where the extra has another name


def read(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "packaging" / name / "pyproject.toml").read_text(encoding="utf-8"))


def define(recipe: dict[str, Any], key: str) -> str:
    return str(recipe["tool"]["scikit-build"]["cmake"]["define"].get(key, ""))


@pytest.fixture(scope="module")
def audit_wheel() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_wheel", ROOT / "packaging" / "audit_wheel.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit_wheel"] = module
    spec.loader.exec_module(module)
    return module


def test_every_backend_with_a_plugin_is_here() -> None:
    assert NAMES == ["cuda12", "cuda13", "rocm", "sycl", "vulkan"]


@pytest.mark.parametrize("name", NAMES)
def test_package_fits_the_core(name: str) -> None:
    recipe = read(name)
    project, package = recipe["project"], f"donabe_{name}"
    assert (project["name"], project["version"]) == (f"donabe-{name}", CORE["version"])
    assert f"donabe=={CORE['version']}" in project["dependencies"]
    assert project["entry-points"][GROUP] == {name: package}
    assert define(recipe, "DONABE_PLUGIN_PACKAGE") in (
        package,
        "" if define(recipe, "DONABE_PLUGIN") == name else package,
    )
    assert recipe["tool"]["scikit-build"]["wheel"]["packages"] == [package]
    for file in ("README.md", "LICENSE", f"{package}/__init__.py"):
        assert (ROOT / "packaging" / name / file).read_text(encoding="utf-8").strip()
    assert name.rstrip("0123456789") in BACKENDS


@pytest.mark.parametrize("name", NAMES)
def test_package_comes_as_an_extra_or_is_built_by_its_user(name: str) -> None:
    wanted = f"donabe-{name}=={CORE['version']}"
    extra = CORE["optional-dependencies"].get(EXTRAS.get(name, name), [])
    assert (name in _BUILT_BY_USERS) == (extra == [])
    assert not extra or wanted in [item.partition(";")[0] for item in extra]


@pytest.mark.parametrize("name", NAMES)
def test_preset_switches_on_what_the_package_does(name: str) -> None:
    recipe = read(name)
    presets = json.loads((ROOT / "CMakePresets.json").read_text(encoding="utf-8"))
    (preset,) = [item for item in presets["configurePresets"] if item["name"] == name.rstrip("0123456789")]
    assert preset["name"] in [item["configurePreset"] for item in presets["buildPresets"]]
    for key, value in preset["cacheVariables"].items():
        assert define(recipe, key) == value, key
    assert define(recipe, f"GGML_{define(recipe, 'DONABE_PLUGIN').upper()}") == "ON"


@pytest.mark.parametrize("name", NAMES)
def test_libraries_that_are_opened_first_may_be_needed(name: str, audit_wheel: ModuleType) -> None:
    recipe = read(name)
    allowed = audit_wheel.PLUGIN_NEEDS[f"ggml-{define(recipe, 'DONABE_PLUGIN')}"]
    preload = list(filter(None, define(recipe, "DONABE_PLUGIN_PRELOAD").split(";")))
    assert bool(preload) == name.startswith("cuda")
    for path in preload:
        assert allowed.match(Path(path).name), path
        assert path.endswith(name.removeprefix("cuda"))  # the release of CUDA


@pytest.mark.parametrize("name", ["cuda12", "cuda13"])
def test_windows_opens_its_own_libraries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scikit_build_core")
    from scikit_build_core.settings.skbuild_read_settings import SettingsReader

    def preload(platform: str) -> list[str]:
        monkeypatch.setattr(sys, "platform", platform)
        settings = SettingsReader.from_file(ROOT / "packaging" / name / "pyproject.toml").settings
        assert settings.cmake.define["GGML_CUDA"] == "ON"
        return str(settings.cmake.define["DONABE_PLUGIN_PRELOAD"]).split(";")

    linux, windows = preload("linux"), preload("win32")
    assert [Path(path).name.partition(".so.")[0].removeprefix("lib") for path in linux] == [
        Path(path).name.partition("64_")[0] for path in windows
    ]
    assert all(path.endswith(f"64_{name.removeprefix('cuda')}.dll") for path in windows)
