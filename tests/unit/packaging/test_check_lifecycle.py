"""The wheels that the check of upgrades makes: the same content under a higher version."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "packaging" / "check_lifecycle.py"
METADATA = """Metadata-Version: 2.1
Name: donabe-vulkan
Version: 1.2
Requires-Dist: donabe==1.2
Requires-Dist: donabe-cuda12==1.2; extra == "cuda"
Requires-Dist: numpy>=1.2

Version: 1.2 is told here.
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_lifecycle", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "donabe_vulkan-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("donabe_vulkan/plugin.json", '{"version": "1.2", "build_id": "1.2"}')
        archive.writestr("donabe_vulkan-1.2.dist-info/METADATA", METADATA)
        archive.writestr("donabe_vulkan-1.2.dist-info/RECORD", "old")
    return path


def test_version_is_raised_wherever_it_is_compared(script: ModuleType, wheel: Path, tmp_path: Path) -> None:
    newer = script.newer_wheel(wheel, tmp_path)
    assert newer.name == "donabe_vulkan-1.2+upgrade-py3-none-any.whl"
    with zipfile.ZipFile(newer) as archive:
        metadata = archive.read("donabe_vulkan-1.2+upgrade.dist-info/METADATA").decode()
        assert archive.read("donabe_vulkan/plugin.json") == b'{"version": "1.2+upgrade", "build_id": "1.2"}'
        assert not [name for name in archive.namelist() if "1.2.dist-info" in name]
    assert "\nVersion: 1.2+upgrade\nRequires-Dist: donabe==1.2+upgrade\n" in metadata
    assert 'donabe-cuda12==1.2+upgrade; extra == "cuda"\nRequires-Dist: numpy>=1.2\n' in metadata
    assert metadata.endswith("Version: 1.2 is told here.\n")


def test_record_has_the_digest_of_every_file(script: ModuleType, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(script.newer_wheel(wheel, tmp_path)) as archive:
        lines = archive.read("donabe_vulkan-1.2+upgrade.dist-info/RECORD").decode().splitlines()
        recorded = {line.split(",")[0]: line.split(",")[1:] for line in lines}
        assert set(recorded) == set(archive.namelist())
        for name, (digest, size) in recorded.items():
            content = archive.read(name)
            encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert name.endswith("RECORD") or (digest, size) == (f"sha256={encoded}", str(len(content)))


def test_other_projects_are_told_apart(script: ModuleType, wheel: Path) -> None:
    assert list(script.requirements(wheel)) == ["numpy>=1.2"]


def test_files_are_compared_by_content(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    (tmp_path / "a.py").write_bytes(b"1")
    before = script.digests(tmp_path)
    assert list(before) == ["a.py"]
    (tmp_path / "a.py").write_bytes(b"2")
    assert script.digests(tmp_path) != before
