"""The whole header of a GGUF as plain values, for showing it to people. Blocking; arrays are decoded in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from donabe.store import gguf_rules
from donabe.store.gguf import GgufReader
from donabe.types import JsonObject


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Key-values in file order, and every tensor as (name, type name, shape as stored). Of a split set, all files'."""

    metadata: JsonObject
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]


def read_metadata(paths: Sequence[str]) -> GgufHeader:
    """Read and validate the header of a GGUF.

    Args:
        paths: One file, or the files of a split set in order: the first says what the model is, tensors are in all.

    Raises:
        ModelFileError: A file is missing or not a well-formed GGUF.
    """
    metadata: JsonObject = {}
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for path in paths:
        with GgufReader(path) as reader:
            gguf_rules.check(reader)
            metadata |= {key: reader.get(key) for key in reader.entries if key not in metadata}
            tensors += [(tensor.name, tensor.type.name, tensor.shape) for tensor in reader.tensors]
    return GgufHeader(metadata, tuple(tensors))
