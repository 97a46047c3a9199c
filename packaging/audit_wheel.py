"""Check a built wheel as a file: what a machine other than the one that built it would trip over.

    python packaging/audit_wheel.py WHEEL...

For every library in the wheel: it may need only libraries that every Linux has, that the wheel itself brings, or that
are declared below for its plug-in; it is searched for nowhere but beside the library that needs it; the extension
exports nothing but its entry; the newest symbol of the C library it needs is printed, since that sets the platform tag.
The wheel has to be smaller than what a package index takes, and contains no links and nothing outside its package.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

MAX_WHEEL_BYTES = 100_000_000  # what the public package index takes of one file
SYSTEM = re.compile(  # of glibc and of musl
    r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux[-\w]*)\.so\.\d+$|(libc\.musl|ld-musl)-\w+\.so\.1$"
)
PLUGIN_NEEDS = {  # by backend: what the driver or the vendor's own wheels bring
    "ggml-vulkan": re.compile(r"libvulkan\.so\.1$"),
    "ggml-cuda": re.compile(r"(libcuda|libcudart|libcublas|libcublasLt)\.so\.\d+$"),
    "ggml-hip": re.compile(r"(libamdhip64|libhipblas|librocblas)\.so\.\d+$"),
    "ggml-sycl": re.compile(
        r"(libsycl|libmkl_\w+|libdnnl|libOpenCL|libze_loader|libtbb|libimf|libsvml|libirng|libintlc|libiomp5)\.so(\.\d+)?$"
    ),
}
CORE_LIBRARY = "libdonabe-ggml-base.so"  # plug-ins find it already loaded
RUN_PATHS = {"$ORIGIN", "$ORIGIN/lib"}


@dataclass
class Library:
    """What one ELF file says about itself."""

    name: str
    needed: list[str] = field(default_factory=list)
    run_paths: list[str] = field(default_factory=list)
    soname: str = ""
    exports: list[str] = field(default_factory=list)
    glibc: tuple[int, ...] = (0,)


def parse_dynamic(name: str, dynamic: str, symbols: str) -> Library:
    """A library from the output of `readelf -d` and `readelf --dyn-syms`."""
    library = Library(name)
    for tag, value in re.findall(r"\((NEEDED|RUNPATH|RPATH|SONAME)\)[^\[]*\[([^\]]*)\]", dynamic):
        if tag == "NEEDED":
            library.needed.append(value)
        elif tag == "SONAME":
            library.soname = value
        else:
            library.run_paths += value.split(":")
    for line in symbols.splitlines():
        columns = line.split()
        if len(columns) < 8 or not columns[0].rstrip(":").isdigit():
            continue
        bind, section, symbol = columns[4], columns[6], columns[7]
        if section != "UND" and bind in {"GLOBAL", "WEAK"}:
            library.exports.append(symbol.partition("@")[0])
        elif found := re.search(r"@GLIBC_(\d+(?:\.\d+)*)", symbol):
            library.glibc = max(library.glibc, tuple(int(part) for part in found[1].split(".")))
    return library


def read_library(path: Path) -> Library:
    """A library from a file, through binutils' readelf."""
    output = [
        subprocess.run(["readelf", "-W", flag, str(path)], capture_output=True, text=True, check=True).stdout
        for flag in ("-d", "--dyn-syms")
    ]
    return parse_dynamic(path.name, *output)


def library_problems(library: Library, own: set[str]) -> list[str]:
    """What is wrong with one library of a wheel that brings the libraries `own`."""
    backend = library.name.removeprefix("lib").partition(".")[0]
    vendor = PLUGIN_NEEDS.get(backend)
    problems = [
        f"{library.name} needs {needed}, which nobody declared"
        for needed in library.needed
        if not SYSTEM.match(needed)
        and needed not in own
        and not (vendor is not None and (vendor.match(needed) or needed == CORE_LIBRARY))
    ]
    problems += [f"{library.name} searches {path}" for path in library.run_paths if path not in RUN_PATHS]
    if library.name.startswith("_core."):
        problems += [f"{library.name} exports {name}" for name in library.exports if name != "PyInit__core"]
    if re.match(r"libggml(-base)?\.so", library.soname):
        problems.append(f"{library.name} has the name {library.soname}, which other packages use too")
    return problems


def audit(wheel: Path) -> tuple[list[str], list[str]]:
    """(facts to print, problems) of one wheel."""
    problems: list[str] = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        entries = archive.infolist()
        package = wheel.name.split("-")[0]
        for entry in entries:
            if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                problems.append(f"{entry.filename} is a link")
            if entry.filename.split("/")[0] not in {package, f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}:
                problems.append(f"{entry.filename} is outside the package {package}")
        paths = [Path(archive.extract(entry, folder)) for entry in entries if re.search(r"\.so(\.|$)", entry.filename)]
        libraries = [read_library(path) for path in paths]
    if not libraries:
        problems.append("there is no library in it")
    own = {library.name for library in libraries}
    for library in libraries:
        problems += library_problems(library, own)
    size = wheel.stat().st_size
    if size > MAX_WHEEL_BYTES:
        problems.append(f"{size:,} bytes are more than the {MAX_WHEEL_BYTES:,} that a package index takes")
    newest = max((library.glibc for library in libraries), default=(0,))
    facts = [
        f"{size / 1e6:.1f} MB, {len(libraries)} libraries",
        f"needs glibc {'.'.join(map(str, newest))} or newer: manylinux_{'_'.join(map(str, newest))} at the oldest",
    ]
    return facts, problems


def main(arguments: list[str]) -> int:
    """Audit every named wheel; 1 when one has a problem."""
    status = 0
    for argument in arguments:
        facts, problems = audit(Path(argument))
        print(Path(argument).name, *facts, sep="\n  ")
        for problem in problems:
            print(f"  PROBLEM: {problem}")
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
