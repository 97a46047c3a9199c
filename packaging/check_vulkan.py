"""Check an installed donabe with its Vulkan plug-in as a user meets them, through `donabe` alone, on a software device.

    python packaging/check_vulkan.py MODEL WHEELHOUSE

Run by ci/wheels with the Python of the environment that both wheels were installed into, where Mesa's lavapipe driver
is present. A software device is used only where it is named, so: unnamed, the CPU does the work; named, `donabe doctor`
shows it, `donabe ps` shows the layers on it, and the answer is the CPU's. Then plug-ins of another version and of
another build are installed: they have to be refused, and the command that `donabe doctor` gives has to mend that.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from donabe.client import Client

DRIVER = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
NAMED = {
    "VK_ICD_FILENAMES": str(DRIVER),
    "GGML_VK_VISIBLE_DEVICES": "0",
    "GGML_VK_SERIALIZE_SUBMISSIONS": "1",  # Mesa 22.3 crashes when a shader is compiled while another one runs
    "DONABE_BACKEND": "vulkan",
}
# A text with a clear continuation: the device adds up in another order, and a tie may fall either way.
PROMPT = "1, 2, 3, 4, 5, 6, 7, 8, 9,"
TIMEOUT_S = 600  # a software device compiles its shaders for minutes on a busy machine


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment, with settings."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def check(condition: bool, message: object) -> None:
    """Stop with the message unless the condition holds."""
    if not condition:
        sys.exit(f"  PROBLEM: {message}")


def doctor(**environment: str) -> dict[str, dict[str, str]]:
    """The findings of `donabe doctor` on the plug-in and the devices, by subject."""
    done = run("donabe", "doctor", "--json", **environment)
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return {item["subject"]: item for item in findings if item["subject"].startswith(("device", "plug-in"))}


def answer(model: str, **environment: str) -> tuple[str, dict[str, Any], str]:
    """Greedy text from a server with these settings; the model's entry of the API's `ps`; the table of `donabe ps`."""
    try:
        done = run("donabe", "run", model, "Hi", **environment)  # starts the server
        check(done.returncode == 0 and bool(done.stdout.strip()), done.stderr)
        with Client(timeout_s=TIMEOUT_S) as client:
            options = {"temperature": 0, "num_predict": 24}
            text = client.generate(model, PROMPT, raw=True, options=options)["response"]
            (entry,) = client.ps()["models"]
        return text, entry, run("donabe", "ps").stdout
    finally:
        run("donabe", "stop", "--server")


def check_answers(model: str) -> None:
    """The device computes what the CPU computes."""
    devices = doctor(**NAMED)
    check("llvmpipe" in devices.get("device Vulkan0", {}).get("message", ""), devices)
    check("; used: as set" in devices["device Vulkan0"]["message"], devices)
    print(f"  {devices['device Vulkan0']['message']}")
    expected, entry, _ = answer(model)
    check(entry["size_vram"] == 0, entry)
    text, entry, table = answer(model, **NAMED)
    check(entry["size_vram"] > 0 and "Vulkan0" in entry["devices"] and "GPU" in table, f"{entry}\n{table}")
    check(text == expected, f"the device says {text!r}, the CPU {expected!r}")
    print(table, end="")
    print(f"  {entry['size_vram']:,} of {entry['size']:,} bytes are on it; the same greedy text: {text!r}")


def other_plugin(wheel: Path, folder: Path, own: str, other: str, **change: str) -> Path:
    """The plug-in's wheel as another release would have made it: of version `other`, with changes to plugin.json."""
    target = folder / wheel.name.replace(f"-{own}-", f"-{other}-")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("/plugin.json"):
                content = json.dumps(json.loads(content) | {"version": other} | change).encode()
            elif ".dist-info/" in entry.filename:
                content = content.replace(f"Version: {own}\n".encode(), f"Version: {other}\n".encode())
                content = content.replace(f"donabe=={own}".encode(), f"donabe=={other}".encode())
                content = content.replace(f"-{own}.dist-info".encode(), f"-{other}.dist-info".encode())
            copy.writestr(entry.filename.replace(f"-{own}.dist-info", f"-{other}.dist-info"), content)
    return target


def check_refusals(wheelhouse: str) -> None:
    """A plug-in that does not fit is refused, the rest works, and the command that is given mends it."""
    (wheel,) = Path(wheelhouse).glob("donabe_vulkan-*.whl")
    own = version("donabe")
    for other, change in (("0.0.9", {}), (own, {"build_id": "0123456789abcdef"})):
        with tempfile.TemporaryDirectory() as folder:
            unfit = other_plugin(wheel, Path(folder), own, other, **change)
            done = run("pip", "install", "--force-reinstall", "--no-deps", "--no-index", str(unfit))
        check(done.returncode == 0, done.stderr)
        found = doctor(**NAMED | {"DONABE_BACKEND": "auto"})
        check("plug-in vulkan" in found and "device CPU" in found and "device Vulkan0" not in found, found)
        refused = found["plug-in vulkan"]
        check(refused["level"] == "problem", refused)
        print(f"  {refused['message']}: {refused['hint']}")
        done = run(*shlex.split(refused["hint"]), PIP_NO_INDEX="1", PIP_FIND_LINKS=wheelhouse)
        check(done.returncode == 0, done.stderr)
        found = doctor(**NAMED)
        check("device Vulkan0" in found and "plug-in vulkan" not in found, f"the command did not mend it: {found}")


def main(model: str, wheelhouse: str) -> None:
    check_answers(model)
    check_refusals(wheelhouse)


if __name__ == "__main__":
    main(*sys.argv[1:])
