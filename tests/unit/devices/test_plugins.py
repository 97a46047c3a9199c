"""Plug-ins as they are installed: a distribution folder with an entry point, a package folder with plugin.json."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path
from typing import Any

import pytest

from donabe.devices.plugins import GROUP, Plugin, _installed, find_plugins, preload_libraries

BUILD = {"version": "0.1.0", "build_id": "abc123", "backend_dl": True}
BOMB = "raise SystemExit('a plug-in must not be imported')\n"


def install(site: Path, name: str, package: str = "", **manifest: Any) -> EntryPoint:
    package = package or f"donabe_{name}"
    folder = site / package
    (folder / "lib").mkdir(parents=True)
    (folder / "__init__.py").write_text(BOMB)
    (folder / "lib" / f"libggml-{name}.so").write_bytes(b"not opened")
    values = {"name": name, "version": "0.1.0", "build_id": "abc123", "library": f"lib/libggml-{name}.so"}
    (folder / "plugin.json").write_text(json.dumps(values | manifest))
    info = site / f"{package}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: donabe-{name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {package}\n")
    (entry,) = PathDistribution(info).entry_points
    return entry


def test_fitting_plugins_are_found_without_importing_them(tmp_path: Path) -> None:
    entries = [install(tmp_path, "vulkan"), install(tmp_path, "cuda12", preload=["nvidia/cublas/lib/libcublas.so.12"])]
    plugins, refused = find_plugins(BUILD, entries)
    assert refused == []
    assert [plugin.name for plugin in plugins] == ["cuda12", "vulkan"]
    assert plugins[1].library == tmp_path / "donabe_vulkan" / "lib" / "libggml-vulkan.so"
    assert plugins[1].library.is_absolute()
    assert plugins[0].preload == ("nvidia/cublas/lib/libcublas.so.12",)


@pytest.mark.parametrize(
    ("manifest", "build", "message", "hint"),
    [
        ({"version": "0.2.0"}, {}, "of version 0.2.0, donabe of 0.1.0", "pip install 'donabe-vulkan==0.1.0'"),
        (
            {"build_id": "other"},
            {},
            "another build",
            "pip install --force-reinstall --no-deps 'donabe-vulkan==0.1.0'",
        ),
        (
            {},
            {"backend_dl": False},
            "takes no plug-ins",
            "pip install --force-reinstall --no-deps --only-binary donabe",
        ),
        ({"library": "../other.so"}, {}, "library is missing", "--force-reinstall"),
        ({"library": "lib/none.so"}, {}, "library is missing", "--force-reinstall"),
        ({"preload": ["../x.so"]}, {}, "bad list", "pip install"),
        ({"preload": ["/lib/x.so"]}, {}, "bad list", "pip install"),
    ],
)
def test_unfit_plugin_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, manifest: dict[str, Any], build: dict[str, Any], message: str, hint: str
) -> None:
    plugins, (refused,) = find_plugins(BUILD | build, [install(tmp_path, "vulkan", **manifest)])
    assert plugins == []
    assert refused.name == "vulkan"
    assert message in refused.message
    assert hint in refused.hint


def test_plugin_that_no_index_has_is_built_again(tmp_path: Path) -> None:
    _, (refused,) = find_plugins(BUILD, [install(tmp_path, "rocm", build_id="other")])
    assert refused.hint == ("pip install --force-reinstall --no-deps packaging/rocm (in the source of donabe 0.1.0)")


def test_a_plugin_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    unfit = [install(tmp_path / str(n), "vulkan", version="0.2.0") for n in range(2)]
    fit = install(tmp_path / "fit", "vulkan")
    plugins, refused = find_plugins(BUILD, [*unfit, fit])
    assert (plugins, [item.name for item in refused]) == ([], ["vulkan"])
    plugins, refused = find_plugins(BUILD, [fit, *unfit])
    assert ([item.name for item in plugins], refused) == (["vulkan"], [])


def test_library_that_points_out_of_the_package_is_refused(tmp_path: Path) -> None:
    entry = install(tmp_path / "site", "vulkan")
    library = tmp_path / "site" / "donabe_vulkan" / "lib" / "libggml-vulkan.so"
    library.unlink()
    (tmp_path / "evil.so").write_bytes(b"")
    library.symlink_to(tmp_path / "evil.so")
    assert [item.message for item in find_plugins(BUILD, [entry])[1]] == ["its library is missing"]


def test_damaged_manifests_are_refused(tmp_path: Path) -> None:
    for index, content in enumerate((b"{", b"[]", b"\xff\xfe", b" " * 100_000)):
        site = tmp_path / str(index)
        entry = install(site, "vulkan")
        (site / "donabe_vulkan" / "plugin.json").write_bytes(content)
        assert "plugin.json" in find_plugins(BUILD, [entry])[1][0].message


def test_plugin_of_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "vulkan")
    monkeypatch.chdir(tmp_path)
    (entry,) = PathDistribution(Path("donabe_vulkan-0.1.0.dist-info")).entry_points
    assert "current folder" in find_plugins(BUILD, [entry])[1][0].message


@pytest.mark.parametrize("value", ["donabe_vulkan:library", "a.b"])
def test_entry_points_that_name_no_package_are_refused(tmp_path: Path, value: str) -> None:
    dist = install(tmp_path, "vulkan").dist
    entry = EntryPoint("vulkan", value, GROUP)._for(dist)  # type: ignore[attr-defined]
    assert "entry point" in find_plugins(BUILD, [entry])[1][0].message


def test_missing_and_broken_vendor_libraries_are_told(tmp_path: Path) -> None:
    plugin = Plugin("cuda12", "0.1.0", tmp_path / "x.so", ("nvidia/lib/libcudart.so.12",))
    missing = preload_libraries(plugin, [str(tmp_path)])
    assert missing is not None and "libcudart.so.12" in missing.message and "donabe-cuda12==0.1.0" in missing.hint
    (tmp_path / "nvidia" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "lib" / "libcudart.so.12").write_bytes(b"no library")
    broken = preload_libraries(plugin, [str(tmp_path)])
    assert broken is not None and "can't be opened" in broken.message


def test_many_plugins_leave_light_commands_light(tmp_path: Path) -> None:
    """Nothing of a plug-in is read, imported or opened by `import donabe` and `donabe --help`."""
    for name in ("vulkan", "cuda12", "cuda13", "rocm"):
        install(tmp_path, name)
    program = (
        f"import sys\nsys.path.append({str(tmp_path)!r})\nopened = []\n"
        "watched = ('open', 'ctypes.dlopen')\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args)) if event in watched else None)\n"
        "import donabe\nfrom donabe.cli.app import root\nroot.main(['--help'], standalone_mode=False)\n"
        f"assert not [item for item in opened if {str(tmp_path)!r} in item], opened\n"
        "assert not [m for m in sys.modules if m.startswith(('donabe_', 'donabe._core', 'donabe.devices', 'ctypes'))]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_they_are_found_among_installed_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "testonly")
    monkeypatch.syspath_prepend(str(tmp_path))
    _installed.cache_clear()
    try:
        assert "testonly" in [plugin.name for plugin in find_plugins(BUILD)[0]]
    finally:
        _installed.cache_clear()
