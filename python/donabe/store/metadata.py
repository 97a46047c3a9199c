"""The whole header of a GGUF as plain values, for showing it to people. Blocking; arrays are decoded in full."""

from __future__ import annotations

from dataclasses import dataclass

from donabe.store import gguf_rules
from donabe.store.gguf import GgufReader
from donabe.types import JsonObject


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Key-values in file order, and every tensor as (name, type name, shape as stored)."""

    metadata: JsonObject
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]


def read_metadata(path: str) -> GgufHeader:
    """Read and validate a GGUF's header.

    Raises:
        ModelFileError: The file is missing or not a well-formed GGUF.
    """
    with GgufReader(path) as reader:
        gguf_rules.check(reader)
        metadata = {key: reader.get(key) for key in reader.entries}
        tensors = tuple((tensor.name, tensor.type.name, tensor.shape) for tensor in reader.tensors)
    return GgufHeader(metadata, tensors)
