"""Install, use, upgrade and uninstall the wheels of a wheelhouse as a user does, and look at every file in between.

    python packaging/check_lifecycle.py WHEELHOUSE MODEL.gguf [PLUGIN]...

Works in folders of its own, HOME and the folder for temporary files among them, and without a package index. What it
shows: the use writes below `~/.donabe` and nowhere else; an upgrade leaves no file of the old version and the models
usable; uninstalling leaves the environment as it was before, and of donabe's own folder nothing changes.

The newer version is the same wheel under another number, since there may be no other.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

NEWER = "+upgrade"  # a local version: higher than the one it is added to
TIMEOUT_S = 600.0


def fail(message: str) -> None:
    sys.exit(f"  PROBLEM: {message}")


def digests(root: Path) -> dict[str, str]:
    """Files below a folder by path relative to it; compiled Python is left out, what it was compiled from counts."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def newer_wheel(wheel: Path, folder: Path) -> Path:
    """The same wheel with NEWER added to its version and to what it requires of other donabe packages exactly."""
    name, version, rest = wheel.name.split("-", 2)
    old_info, new_info = f"{name}-{version}.dist-info", f"{name}-{version}{NEWER}.dist-info"
    target = folder / f"{name}-{version}{NEWER}-{rest}"
    rows = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as output:
        for entry in source.infolist():
            if entry.is_dir() or entry.filename == f"{old_info}/RECORD":
                continue
            content = source.read(entry)
            if entry.filename == f"{old_info}/METADATA":
                text = re.sub(r"(?m)^Version: .*$", f"Version: {version}{NEWER}", content.decode(), count=1)
                content = re.sub(r"(?m)^(Requires-Dist: donabe[^=\n]*==[^;\s]+)", rf"\1{NEWER}", text).encode()
            if entry.filename.endswith("/plugin.json"):
                content = content.replace(f'"version": "{version}"'.encode(), f'"version": "{version}{NEWER}"'.encode())
            entry.filename = entry.filename.replace(old_info, new_info, 1)
            output.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append((entry.filename, f"sha256={digest}", str(len(content))))
        record = io.StringIO()
        csv.writer(record, lineterminator="\n").writerows([*rows, (f"{new_info}/RECORD", "", "")])
        output.writestr(f"{new_info}/RECORD", record.getvalue())
    return target


def requirements(wheel: Path) -> Iterator[str]:
    """What the wheel needs of other projects, without extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [item for item in archive.namelist() if item.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    for line in metadata.get_all("Requires-Dist") or ():
        if "extra ==" not in line and not line.startswith("donabe"):
            yield line


class Machine:
    """An environment, a home and a folder for temporary files, all empty at first."""

    def __init__(self, root: Path, wheelhouse: Path) -> None:
        self.environment, self.home, self.temporary = root / "environment", root / "home", root / "temporary"
        self.home.mkdir()
        self.temporary.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        subprocess.run([sys.executable, "-m", "venv", str(self.environment)], check=True, timeout=TIMEOUT_S)
        self.pip_options = ("--no-index", "--find-links", str(wheelhouse), "--quiet")

    def variables(self) -> dict[str, str]:
        """The environment variables of every program here: nothing points to the caller's own donabe."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DONABE", "PIP_", "PYTHON"))}
        kept |= {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "DONABE_HOST": f"127.0.0.1:{self.port}",
            "DONABE_OFFLINE": "on",
            "PIP_CONFIG_FILE": os.devnull,
        }
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            kept.pop(name, None)
        return kept

    def run(self, program: str, *arguments: str) -> str:
        """The output of a program of the environment, which has to succeed."""
        command = [str(self.environment / "bin" / program), *arguments]
        done = subprocess.run(
            command, env=self.variables(), cwd=self.home, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            fail(f"{program} {' '.join(arguments)}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout

    def install(self, *packages: str) -> None:
        self.run("pip", "install", *self.pip_options, *packages)

    def answer(self, model: str) -> None:
        """Ask the model something, through a server that starts in the background, and end that server."""
        if not self.run("donabe", "run", model, "1, 2, 3,").strip():
            fail(f"{model} says nothing")
        self.run("donabe", "stop", "--server")

    def end_server(self) -> None:
        """End the server if one runs in the background."""
        command = [str(self.environment / "bin" / "donabe"), "stop", "--server"]
        subprocess.run(command, env=self.variables(), capture_output=True, timeout=TIMEOUT_S, check=False)

    def strays(self) -> list[str]:
        """Files outside donabe's own folder. pip leaves some of its own on some machines: ask before and after."""
        stray = [name for name in digests(self.home) if not name.startswith(".donabe/")]
        return [*stray, *digests(self.temporary)]


def check_use(machine: Machine, model: Path) -> None:
    before = machine.strays()
    modelfile = machine.home / "Modelfile"
    modelfile.write_text(f"FROM {model}\n", encoding="utf-8")
    machine.run("donabe", "create", "lifecycle", "--file", str(modelfile))
    modelfile.unlink()
    machine.answer("lifecycle")
    if new := sorted(set(machine.strays()) - set(before)):
        fail(f"written outside of ~/.donabe: {new}")
    own = sorted({Path(name).parts[0] for name in digests(machine.home / ".donabe")})
    print(f"  used; all that it wrote is in ~/.donabe: {', '.join(own)}")


def check_upgrade(machine: Machine, wheels: list[Path], folder: Path) -> None:
    before = digests(machine.home / ".donabe" / "models")
    machine.install("--no-deps", "--upgrade", *(str(newer_wheel(wheel, folder)) for wheel in wheels))
    left = [
        str(path)
        for path in machine.environment.rglob("donabe*.dist-info")
        if not path.name.endswith(f"{NEWER}.dist-info")
    ]
    if left:
        fail(f"left of the old version: {left}")
    listed = machine.run("pip", "list", "--format=freeze")
    if listed.count(NEWER) != len(wheels):
        fail(f"not upgraded: {listed}")
    if digests(machine.home / ".donabe" / "models") != before:
        fail("the upgrade changed the models")
    machine.answer("lifecycle")
    print(f"  upgraded: {len(wheels)} packages, nothing of the old version is left, and the model still answers")


def check_uninstall(machine: Machine, names: list[str], before: dict[str, str]) -> None:
    own = digests(machine.home / ".donabe")
    machine.run("pip", "uninstall", "--quiet", "--yes", *names)
    after = digests(machine.environment)
    if after != before:
        fail(f"the environment differs: {sorted(set(after.items()) ^ set(before.items()))}")
    folders = [str(path) for path in machine.environment.rglob("*donabe*")]
    if folders:
        fail(f"left behind: {folders}")
    if digests(machine.home / ".donabe") != own:
        fail("uninstalling changed donabe's own folder")
    models = [name for name in own if name.startswith("models/")]
    print(f"  uninstalled: the environment is as it was; ~/.donabe keeps {len(models)} model files of {len(own)}")


def main(arguments: list[str]) -> None:
    wheelhouse, model = (Path(argument).resolve() for argument in arguments[:2])
    names = ["donabe", *(f"donabe-{plugin}" for plugin in arguments[2:])]
    wheels = [next(wheelhouse.glob(f"{name.replace('-', '_')}-*.whl"), None) for name in names]
    if missing := [name for name, wheel in zip(names, wheels, strict=True) if wheel is None]:
        fail(f"{wheelhouse} has no wheel of {', '.join(missing)}; ci/wheels makes them")
    there = [wheel for wheel in wheels if wheel is not None]
    with tempfile.TemporaryDirectory(prefix="donabe-lifecycle-") as root:
        machine = Machine(Path(root), wheelhouse)
        machine.install(*(line for wheel in there for line in requirements(wheel)))
        before = digests(machine.environment)
        machine.install(*names)
        print(f"  installed: {', '.join(names)}")
        try:
            check_use(machine, model)
            check_upgrade(machine, there, Path(root))
        except BaseException:
            machine.end_server()  # or it goes on without its files
            raise
        check_uninstall(machine, names, before)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1:])
