"""Models other programs keep on this machine: an Ollama store, the Hugging Face cache, plain files. Read in place.

Nothing here opens a file for writing; `ModelStore.delete` refuses these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from donabe.errors import DonabeError, InvalidNameError, ModelFileError, ModelNotFoundError
from donabe.store.models import ModelStore, ReadOnlyModels
from donabe.store.names import ModelName
from donabe.store.specs import plain_spec
from donabe.store.summary import require_set, summarize
from donabe.types import ModelSpec

_SPLIT_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_QUANT_NAME = re.compile(r"(?i)(?:^|[-._])((?:UD-)?(?:I?Q\d[\w]*|B?F16|F32|MXFP4[\w]*|TQ\d_\d))$")


def foreign_models(root: Path, stores: Iterable[Path], hf_cache: Path) -> tuple[ReadOnlyModels, ...]:
    """The collections that exist, apart from the store at `root` itself."""
    found: list[ReadOnlyModels] = []
    for store in stores:
        if store.is_dir() and store.resolve() != root.resolve():
            found.append(OllamaModels(store))
    if hf_cache.is_dir():
        found.append(HuggingFaceModels(hf_cache))
    return tuple(found)


class OllamaModels:
    """A store in the shared layout that belongs to another program."""

    def __init__(self, root: Path) -> None:
        self._store = ModelStore(root)

    def names(self) -> tuple[ModelName, ...]:
        try:
            return self._store.names()
        except DonabeError:  # unreadable for this user: as good as absent
            return ()

    def spec(self, name: ModelName) -> ModelSpec:
        return self._store.resolve(name)


class HuggingFaceModels:
    """GGUF files in the Hugging Face cache, under the names `hf.co/<user>/<repo>:<quantisation>`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def names(self) -> tuple[ModelName, ...]:
        return tuple(self._files())

    def spec(self, name: ModelName) -> ModelSpec:
        for known, path in self._files().items():
            if known.key == name.key:
                return file_spec(path, name=known.short)
        raise ModelNotFoundError(f"model '{name.short}' not found", name=name.short)

    def _files(self) -> dict[ModelName, Path]:
        found: dict[ModelName, Path] = {}
        for path in sorted(self._cache.glob("models--*--*/snapshots/*/**/*.gguf")):
            _, user, repository = path.relative_to(self._cache).parts[0].split("--", 2)
            split = _SPLIT_NAME.fullmatch(path.name)
            if (split and int(split["number"]) != 1) or "mmproj" in path.name.lower():
                continue
            stem = split["prefix"] if split else path.stem
            try:
                found.setdefault(ModelName("hf.co", user, repository, quantization_of(stem) or "latest"), path)
            except InvalidNameError:
                continue
        return found


def quantization_of(stem: str) -> str:
    """The quantisation that a GGUF's name ends with (`Model-Q4_K_M` -> `Q4_K_M`), or ""."""
    match = _QUANT_NAME.search(stem)
    return match[1] if match else ""


def split_set(path: Path) -> tuple[Path, ...]:
    """All files of the split set that `path` belongs to, in order; just `path` when it is a whole model.

    Raises:
        ModelFileError: The name and the metadata disagree, or a file of the set is missing or unusable.
    """
    summary = summarize(path)
    match = _SPLIT_NAME.fullmatch(path.name)
    if summary.n_splits == 1:
        return (path,)
    if match is None:
        raise ModelFileError(
            f"{path.name}: one of {summary.n_splits} files of a split model, but not named like one",
            path=path.name,
            hint="name the files NAME-00001-of-00005.gguf and so on",
        )
    if int(match["count"]) != summary.n_splits:
        raise ModelFileError(
            f"{path.name}: the name says {int(match['count'])} files, the metadata {summary.n_splits}", path=path.name
        )
    return tuple(_split_files(path, match["prefix"], summary.n_splits))


def _split_files(path: Path, prefix: str, count: int) -> Iterator[Path]:
    for number in range(1, count + 1):
        member = path.with_name(f"{prefix}-{number:05d}-of-{count:05d}.gguf")
        if not member.is_file():
            raise ModelFileError(f"{member.name}: missing from its set of {count} files", path=member.name)
        summary = summarize(member)
        if summary.n_splits != count or summary.split_number != number - 1:
            raise ModelFileError(
                f"{member.name}: its metadata says file {summary.split_number + 1} of {summary.n_splits}",
                path=member.name,
            )
        yield member


def looks_like_file(text: str) -> bool:
    """Whether what a user typed for a model means a file: a path, or anything that ends in `.gguf`."""
    return text.startswith(("/", "./", "../", "~", ".\\", "..\\")) or text.lower().endswith(".gguf")


def file_spec(path: Path, name: str = "") -> ModelSpec:
    """The spec of a GGUF file used where it lies (with the rest of its split set, if it is one of several).

    Raises:
        ModelFileError: It is not a usable model.
    """
    path = path.absolute()
    paths, summary = require_set(split_set(path))
    return plain_spec(name or path.name, paths, summary)
