"""The audit of wheels: what it reads from readelf, and that each fault it looks for is found."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "packaging" / "audit_wheel.py"

DYNAMIC = """
 0x0000000000000001 (NEEDED)             Shared library: [libdonabe-ggml.so]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000e (SONAME)             Library soname: [libggml-base.so.0]
 0x000000000000001d (RUNPATH)            Library runpath: [$ORIGIN/lib:/opt/build]
"""
SYMBOLS = """
     1: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND memcpy@GLIBC_2.14 (2)
     2: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND exp@GLIBC_2.29 (3)
    15: 000000000001a2b0   131 FUNC    GLOBAL DEFAULT   14 PyInit__core
    16: 000000000001a3b0    31 FUNC    WEAK   DEFAULT   14 ggml_init
    17: 000000000001a3c0    31 FUNC    LOCAL  DEFAULT   14 hidden
"""


@pytest.fixture(scope="module")
def audit_wheel() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_wheel", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit_wheel"] = module
    spec.loader.exec_module(module)
    return module


def test_reads_what_readelf_prints(audit_wheel: ModuleType) -> None:
    library = audit_wheel.parse_dynamic("_core.so", DYNAMIC, SYMBOLS)
    assert library.needed == ["libdonabe-ggml.so", "libc.so.6"]
    assert library.run_paths == ["$ORIGIN/lib", "/opt/build"]
    assert library.soname == "libggml-base.so.0"
    assert library.exports == ["PyInit__core", "ggml_init"]
    assert library.glibc == (2, 29)


def test_finds_every_fault_of_a_library(audit_wheel: ModuleType) -> None:
    library = audit_wheel.parse_dynamic("_core.so", DYNAMIC, SYMBOLS)
    assert audit_wheel.library_problems(library, {"libdonabe-ggml.so"}) == [
        "_core.so searches /opt/build",
        "_core.so exports ggml_init",
        "_core.so has the name libggml-base.so.0, which other packages use too",
    ]
    assert "_core.so needs libdonabe-ggml.so, which nobody declared" in audit_wheel.library_problems(library, set())


def test_a_plugin_may_need_its_driver_and_the_core(audit_wheel: ModuleType) -> None:
    needed = ["libvulkan.so.1", "libdonabe-ggml-base.so", "libstdc++.so.6", "libcuda.so.1"]
    library = audit_wheel.Library("libggml-vulkan.so", needed=needed)
    assert audit_wheel.library_problems(library, set()) == [
        "libggml-vulkan.so needs libcuda.so.1, which nobody declared"
    ]


def test_musl_is_a_system_too(audit_wheel: ModuleType) -> None:
    needed = ["libc.musl-x86_64.so.1", "libstdc++.so.6", "libgcc_s.so.1", "ld-musl-aarch64.so.1"]
    assert audit_wheel.library_problems(audit_wheel.Library("_core.so", needed=needed), set()) == []


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("libggml-hip.so", ["libamdhip64.so.6", "libhipblas.so.2", "librocblas.so.4"]),
        (
            "libggml-sycl.so",
            ["libsycl.so.8", "libmkl_sycl_blas.so.5", "libdnnl.so.3", "libze_loader.so.1", "libsvml.so"],
        ),
    ],
)
def test_vendor_libraries_are_known_by_backend(audit_wheel: ModuleType, name: str, needed: list[str]) -> None:
    needed = [*needed, "libdonabe-ggml-base.so"]
    assert audit_wheel.library_problems(audit_wheel.Library(name, needed=needed), set()) == []
    assert (
        len(audit_wheel.library_problems(audit_wheel.Library("libggml-vulkan.so", needed=needed), set()))
        == len(needed) - 1
    )


def test_a_wheel_with_links_strangers_or_no_library_is_refused(audit_wheel: ModuleType, tmp_path: Path) -> None:
    wheel = tmp_path / "donabe-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("donabe/__init__.py", "")
        archive.writestr("tests/test_x.py", "")
        link = zipfile.ZipInfo("donabe/lib/libx.link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "target")
    _, problems = audit_wheel.audit(wheel)
    assert problems == [
        "tests/test_x.py is outside the package donabe",
        "donabe/lib/libx.link is a link",
        "there is no library in it",
    ]
    done = subprocess.run([sys.executable, str(SCRIPT), str(wheel)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("PROBLEM")) == (1, 3)
