"""What the user typed to name a model, parsed: a store name, and possibly where to get it.

smollm2, gemma3:270m, user/model:tag       a name: the catalogue or the registry it names
pypi:package, pypi:package==1.2            a wheel on the package index; stored as `pypi:package`
file:/path/model.gguf, ./model.gguf        a file, run where it lies
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from donabe.errors import InvalidNameError
from donabe.store.foreign import looks_like_file
from donabe.store.names import ModelName

_REQUIREMENT = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9.!+_-]+))?"
)
_PACKAGE_HINT = "write pypi:package or pypi:package==version"


@dataclass(frozen=True, slots=True)
class PackageRef:
    """A package-index source."""

    package: str
    version: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}" if self.version else self.package

    @property
    def name(self) -> ModelName:
        """The store name of a model pulled by this reference; its short form is what the user typed."""
        package = re.sub(r"[-_.]+", "-", self.package).lower()
        version = re.sub(r"[^A-Za-z0-9_.-]", "_", self.version)
        return ModelName.parse(f"pypi:{package}-{version}" if version else f"pypi:{package}")

    def __str__(self) -> str:
        return f"pypi:{self.requirement}"


@dataclass(frozen=True, slots=True)
class Reference:
    """Exactly one of `name` alone, `name` with `package`, or `path` is set."""

    name: ModelName | None = None
    package: PackageRef | None = None
    path: Path | None = None


def parse_package(text: str) -> PackageRef:
    """Parse `package` or `package==version` (without the `pypi:`).

    Raises:
        InvalidNameError: It is neither. Nothing else reaches pip's command line.
    """
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        raise InvalidNameError("invalid model name", hint=f"{text!r} is not a package; {_PACKAGE_HINT}")
    return PackageRef(match["package"], match["version"] or "")


def parse_reference(text: str, *, allow_paths: bool = False) -> Reference:
    """Parse what a user typed.

    Args:
        allow_paths: Whether text that looks like a path may mean a file. Never for requests from the network: they must
            not learn which files exist.

    Raises:
        InvalidNameError: It is none of the forms.
    """
    text = text.strip()
    if text.lower().startswith("pypi:"):
        package = parse_package(text[len("pypi:") :])
        return Reference(name=package.name, package=package)
    if text.startswith("file:") or looks_like_file(text):
        if not allow_paths:
            raise InvalidNameError("invalid model name", hint="a file on the server can't be named from outside")
        stripped = text.removeprefix("file://").removeprefix("file:")
        return Reference(path=Path(stripped).expanduser())
    return Reference(name=ModelName.parse(text))
