"""The GGUF files a model is created from: what each one is, and how the parts of split models fit together.
Blocking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from donabe.convert.quantization import is_embedded, source_type
from donabe.errors import InvalidRequestError, ModelFileError, StoreError
from donabe.store.blobs import BlobStore
from donabe.store.digest import Digest
from donabe.store.gguf import GgufReader, Tensor
from donabe.store.summary import GgufSummary, summarize

FileKind = Literal["model", "adapter", "projector"]

_SPLIT_NAME = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GgufPart:
    """A validated GGUF of a request.

    Attributes:
        name: As the request calls it.
        split: (number counted from 0, count) of a part of a split set, or None.
        needs_projector_type: A projector of an early form, whose kind must be written into it.
    """

    name: str
    digest: Digest
    path: Path
    kind: FileKind
    summary: GgufSummary
    tensors: tuple[Tensor, ...]
    split: tuple[int, int] | None
    needs_projector_type: bool

    @property
    def has_embedded_parts(self) -> bool:
        return any(is_embedded(tensor.name) for tensor in self.tensors)

    @property
    def source_type(self) -> str:
        """Its float type, or "" when it is quantised."""
        return source_type(self.summary.file_type, self.tensors)


def inspect_blob(blobs: BlobStore, name: str, digest: Digest) -> GgufPart:
    """Validate an uploaded file and say what it is.

    Raises:
        InvalidRequestError: it was not uploaded, or is no GGUF.
        ModelFileError: it is a GGUF that is not safe to load.
    """
    try:
        path = blobs.path(digest)
    except StoreError:
        raise InvalidRequestError(
            f'blob "{digest}" not found', field="files", hint=f"upload {name} first: POST /api/blobs/{digest}"
        ) from None
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise _not_gguf(name)
    return inspect_file(path, name, digest)


def inspect_file(path: Path, name: str, digest: Digest) -> GgufPart:
    """Validate a GGUF and say what it is; errors call it by `name`.

    Raises:
        ModelFileError: it is not safe to load.
    """
    try:
        summary = summarize(path)
        with GgufReader(path) as reader:
            kind = _kind(reader, summary)
            count = reader.integer("split.count")
            split = (reader.integer("split.no", -1), count) if count > 1 else None
            is_old_projector = reader.architecture == "clip" and "clip.projector_type" not in reader.entries
            tensors = tuple(reader.tensors)
    except ModelFileError as error:
        raise ModelFileError(error.message.replace(path.name, name), path=name, hint=error.hint) from None
    return GgufPart(name, digest, path, kind, summary, tensors, split, kind == "projector" and is_old_projector)


def _kind(reader: GgufReader, summary: GgufSummary) -> FileKind:
    if summary.kind in ("adapter", "projector"):
        return "adapter" if summary.kind == "adapter" else "projector"
    arch = reader.architecture
    if f"{arch}.block_count" not in reader.entries and reader.integer(f"{arch}.vision.block_count") > 0:
        return "projector"
    return "model"


def _not_gguf(name: str) -> InvalidRequestError:
    if name.endswith((".safetensors", ".bin", ".pth", ".pt")):
        return InvalidRequestError(
            f"{name} is not in GGUF format",
            field="files",
            hint="donabe creates models from GGUF files: convert it with llama.cpp's convert_hf_to_gguf.py first",
        )
    return InvalidRequestError(
        "supplied file was not in GGUF format", field="files", hint=f"{name} does not begin with GGUF"
    )


def group_splits(parts: Sequence[GgufPart]) -> list[tuple[GgufPart, ...]]:
    """Parts of one split model together and in order; every other file alone. The order of first parts is kept.

    Raises:
        InvalidRequestError: a set is not complete, or names and metadata disagree.
    """
    groups: dict[str, list[GgufPart]] = {}
    for part in parts:
        groups.setdefault(_split_prefix(part) if part.split else part.name, []).append(part)
    return [complete_set(group) if group[0].split else tuple(group) for group in groups.values()]


def joined(parts: Sequence[GgufPart]) -> GgufPart:
    """What the parts of one model are together: the first, with the parameters and the tensors of all.

    Args:
        parts: One file, or a split set in order.
    """
    first, summary = parts[0], parts[0].summary
    if len(parts) == 1:
        return first
    if summary.is_counted:
        summary = replace(summary, n_params=sum(part.summary.n_params for part in parts))
    return replace(first, summary=summary, tensors=tuple(tensor for part in parts for tensor in part.tensors))


def _split_prefix(part: GgufPart) -> str:
    """The name's part before the shard number, checked against the metadata."""
    match = _SPLIT_NAME.fullmatch(part.name)
    if match is None:
        raise _split_error(f'split GGUF "{part.name}" must use llama.cpp split filename pattern')
    assert part.split is not None  # callers ask for split files only
    number, count = part.split
    if int(match["count"]) != count:
        raise _split_error(
            f'split GGUF "{part.name}" filename count {int(match["count"])} does not match metadata count {count}'
        )
    if number < 0:
        raise _split_error(f'split GGUF "{part.name}" is missing split.no metadata')
    if int(match["index"]) != number + 1:
        raise _split_error(
            f'split GGUF "{part.name}" filename index {int(match["index"])} does not match metadata index {number + 1}'
        )
    return match["prefix"]


def complete_set(parts: Sequence[GgufPart]) -> tuple[GgufPart, ...]:
    """The parts of one split model in order.

    Raises:
        InvalidRequestError: one is missing, or there twice.
    """
    numbers: set[int] = set()
    for part in parts:
        assert part.split is not None  # a group of split files
        if part.split[0] in numbers:
            raise _split_error(f"split GGUF has duplicate shard index {part.split[0] + 1}")
        numbers.add(part.split[0])
    count = max(part.split[1] for part in parts if part.split)
    if len(parts) != count:
        raise _split_error(f'split GGUF "{parts[0].name}" has {len(parts)} shards, expected {count}')
    return tuple(sorted(parts, key=lambda part: part.split or (0, 0)))


def _split_error(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="files")
