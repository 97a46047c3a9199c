"""Run the steps of a container image without a container engine: in a folder with a minimal Debian, as root.

    python packaging/check_image.py ROOT WHEELHOUSE MODEL.gguf [TARGET]

ROOT is a system as `debootstrap --variant=minbase --include=python3,python3-venv bookworm ROOT` makes it, and is
changed. TARGET is a stage of packaging/docker/Dockerfile, `cpu` without one. Its RUN lines are run in ROOT, without a
network; then its entry point is started as its user, with everything but the volume and /tmp read-only and no
privileges, the health check has to succeed, and a model has to answer. What differs from an image: Python is Debian's,
in an environment at /usr/local, where the official images have theirs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

DOCKERFILE = Path(__file__).parent / "docker" / "Dockerfile"
KEY = "key-of-the-image-check"
START_S = 120.0


@dataclass
class Image:
    """What the stages up to a target say. `runs` are shell commands with the folders that are bound for them."""

    runs: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    user: str = "0:0"
    volume: str = ""


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, its text) with continuation lines joined and comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in found]


def read_image(text: str, target: str) -> Image:
    """The instructions of a stage and of those that it is made from.

    Raises:
        ValueError: There is no such stage, or an instruction is not understood here.
    """
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    name = ""
    for instruction, rest in instructions(text):
        if instruction == "FROM":
            parent, _, name = rest.partition(" AS ")
            stages[name] = (parent, [])
        elif name:
            stages[name][1].append((instruction, rest))
    if target not in stages:
        raise ValueError(f"no stage {target}; there are {', '.join(stages)}")
    chain = [target]
    while stages[chain[0]][0] in stages:
        chain.insert(0, stages[chain[0]][0])
    image = Image()
    for stage in chain:
        for instruction, rest in stages[stage][1]:
            _apply(image, instruction, rest)
    return image


def _apply(image: Image, instruction: str, rest: str) -> None:
    if instruction == "RUN":
        mounts = re.findall(r"--mount=type=bind,source=([^,\s]+),target=(\S+)", rest)
        image.runs.append((re.sub(r"--mount=\S+\s+", "", rest), {target: source for source, target in mounts}))
    elif instruction == "ENV":
        image.environment |= dict(item.split("=", 1) for item in shlex.split(rest))
    elif instruction == "ENTRYPOINT":
        image.entry = json.loads(rest)
    elif instruction == "CMD":
        image.command = json.loads(rest)
    elif instruction == "HEALTHCHECK":
        image.health = json.loads(rest[rest.index("CMD ") + 4 :])
    elif instruction == "USER":
        image.user = rest
    elif instruction == "VOLUME":
        image.volume = rest
    elif instruction not in ("EXPOSE", "STOPSIGNAL"):
        raise ValueError(f"unknown instruction {instruction}")


def fail(message: str) -> None:
    sys.exit(f"  PROBLEM: {message}")


class System:
    """The folder, entered with namespaces of its own: no network but loopback, no other processes."""

    def __init__(self, root: Path, image: Image) -> None:
        self.root, self.image = root, image
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"} | image.environment

    def enter(self, inside: str, binds: dict[str, Path], *, is_read_only: bool = False) -> list[str]:
        """The command that runs a shell command line in the folder."""
        root = shlex.quote(str(self.root))
        steps = ["set -e", "ip link set lo up", f"mount --bind {root} {root}"]
        for target, source in binds.items():
            steps.append(f"mkdir -p {root}{target}")
            steps.append(f"mount --bind {shlex.quote(str(source))} {root}{target}")
        steps += [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        if is_read_only:
            steps += [
                f"mkdir -p {root}{self.image.volume}",
                f"mount --bind {root}{self.image.volume} {root}{self.image.volume}",
                f"mount -t tmpfs tmp {root}/tmp",
                f"mount -o remount,bind,ro {root}",
            ]
        steps.append(f"exec chroot {root} {inside}")
        return ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(steps)]

    def run(self, command: str, binds: dict[str, Path]) -> None:
        done = subprocess.run(
            self.enter(f"/bin/sh -c {shlex.quote(command)}", binds),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        if done.returncode != 0:
            fail(f"{command}: {(done.stderr or done.stdout)[-2000:]}")


def build(system: System, wheelhouse: Path) -> None:
    """Run the RUN lines."""
    system.run("[ -x /usr/local/bin/pip ] || python3 -m venv /usr/local", {})
    for command, mounts in system.image.runs:
        sources = {target: wheelhouse for target, source in mounts.items() if source == "wheelhouse"}
        if len(sources) != len(mounts):
            fail(f"an unknown folder is mounted: {mounts}")
        system.run(command, sources)
    print(f"  {len(system.image.runs)} RUN lines have been run")


def serve(system: System, model: Path) -> None:
    """Start the entry point, wait until it is healthy, ask the model, stop it as an engine does."""
    image = system.image
    # The server's process group gets the signal; the same namespaces hold the health check and the client.
    script = f"""
        {shlex.join([*image.entry, *image.command])} > /tmp/server.log 2>&1 & server=$!
        for _ in $(seq {START_S:.0f}); do
            if {shlex.join(image.health)} 2> /dev/null; then healthy=yes; break; fi
            kill -0 $server || break
            sleep 1
        done
        if [ "$healthy" != yes ]; then cat /tmp/server.log >&2; exit 3; fi
        echo healthy
        if touch /usr/local/written 2> /dev/null; then echo "the image can be written to" >&2; exit 4; fi
        id -u
        donabe create image-check --file /model/Modelfile > /dev/null || exit 5
        donabe run image-check "1, 2, 3," || exit 6
        kill -TERM $server; wait $server; echo "ended $?"
        ! grep -l "donabe[.]runner" /proc/[0-9]*/cmdline >&2 || exit 7
    """
    user, _, group = image.user.partition(":")
    privileges = f"--reuid={user} --regid={group} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
    inside = f"setpriv {privileges} /bin/sh -c {shlex.quote(script)}"
    folder = system.root.parent / "image-check-model"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(model, folder / "model.gguf")
    (folder / "Modelfile").write_text("FROM /model/model.gguf\n", encoding="utf-8")
    environment = system.environment | {"DONABE_API_KEYS": KEY, "DONABE_API_KEY": KEY, "HOME": image.volume}
    process = subprocess.Popen(
        system.enter(inside, {"/model": folder}, is_read_only=True),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=3 * START_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
    finally:
        shutil.rmtree(folder)
    lines = output.split("\n")
    # It ends by the signal that it got, once its answers have ended: 128 + 15 to a shell.
    if process.returncode != 0 or lines[:2] != ["healthy", user] or lines[-2:-1] != ["ended 143"]:
        fail(f"exit {process.returncode}: {output[-1000:]}{errors[-2000:]}")
    print(f"  healthy as user {user} on a read-only system, answers, and ends with its runners when told to")


def main(arguments: list[str]) -> None:
    root, wheelhouse, model = (Path(argument).resolve() for argument in arguments[:3])
    target = arguments[3] if len(arguments) > 3 else "cpu"
    started = time.monotonic()
    system = System(root, read_image(DOCKERFILE.read_text(encoding="utf-8"), target))
    build(system, wheelhouse)
    serve(system, model)
    print(f"  target {target}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1:])
