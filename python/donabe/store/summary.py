"""What donabe wants to know about a GGUF without loading it: details for listings, and capabilities. Cached per file.

A summary exists only for files that passed the validator, so having one is the proof that native code may open the
file. The cache key is path, size and modification time; entries are small (no vocabulary is kept). Safe from several
threads.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from donabe.errors import ModelFileError
from donabe.store import gguf_rules, gguf_tables
from donabe.store.gguf import GgufReader
from donabe.store.gguf_dialect import check_dialect
from donabe.types import Capability

_CACHE_ENTRIES = 512
_cache: OrderedDict[tuple[str, int, int], GgufSummary] = OrderedDict()
_cache_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class GgufSummary:
    """Facts from a validated GGUF's header."""

    architecture: str
    kind: str  # model, adapter, projector, part (of a split model, not the first file), or vocab (no tensors)
    name: str
    n_params: int
    is_counted: bool  # n_params counts the tensors of this file; otherwise the metadata says it
    file_type: str
    context_length: int
    embedding_length: int
    chat_template: str
    n_splits: int  # 1 = not split
    split_number: int
    capabilities: tuple[Capability, ...]  # by metadata and chat template alone
    license: str

    @property
    def parameter_size(self) -> str:
        return human_count(self.n_params)


def summarize(path: str | os.PathLike[str]) -> GgufSummary:
    """Validate a GGUF and sum it up; repeated calls for an unchanged file are free.

    Raises:
        ModelFileError: The file is missing, or not a GGUF that is safe to load.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise ModelFileError(f"{path.name}: {error.strerror or error}", path=path.name) from error
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    with GgufReader(path) as reader:
        gguf_rules.check(reader)
        check_dialect(reader)
        summary = _summarize(reader)
    with _cache_lock:
        _cache[key] = summary
        while len(_cache) > _CACHE_ENTRIES:
            _cache.popitem(last=False)
    return summary


def require_model(path: str | os.PathLike[str]) -> GgufSummary:
    """`summarize`, refusing files that are no model by themselves.

    Raises:
        ModelFileError: As `summarize`, and for an adapter, a projector or a file without weights.
    """
    summary = summarize(path)
    if summary.kind != "model":
        what = {
            "adapter": "a LoRA adapter",
            "projector": "a projector (mmproj)",
            "part": "a later file of a split model",
            "vocab": "a vocabulary without weights",
        }
        name = Path(path).name
        raise ModelFileError(f"{name}: this GGUF is {what[summary.kind]}, not a model", path=name)
    return summary


def require_set(paths: Sequence[str | os.PathLike[str]]) -> tuple[tuple[Path, ...], GgufSummary]:
    """The files of one model in the order they are loaded, and what is known of them together.

    Args:
        paths: A file, or all files of a split set in any order.

    Raises:
        ModelFileError: As `require_model`, or the files are not one whole set.
    """
    parts = sorted(((summarize(path), Path(path)) for path in paths), key=lambda part: part[0].split_number)
    first, path = parts[0]
    numbers = [summary.split_number for summary, _ in parts]
    if any(summary.n_splits != first.n_splits for summary, _ in parts) or len(parts) > first.n_splits:
        raise ModelFileError(f"{path.name}: these {len(parts)} files are not one split model", path=path.name)
    if numbers != list(range(first.n_splits)):
        found = ", ".join(str(number + 1) for number in numbers[:20])
        raise ModelFileError(
            f"{path.name}: the model is split into {first.n_splits} files, and only file {found} is here",
            path=path.name,
            hint="get all files of the set",
        )
    first = require_model(path)
    if len(parts) > 1 and first.is_counted:
        first = replace(first, n_params=sum(summary.n_params for summary, _ in parts))
    return tuple(path for _, path in parts), first


def human_count(count: int) -> str:
    """A parameter count as listings show it: `8.0B`, `7B`, `134.52M`, `125M`, `12K`, `4`."""
    if count >= 1_000_000_000:
        return _scaled(count, 1_000_000_000, 1, "B")
    if count >= 1_000_000:
        return _scaled(count, 1_000_000, 2, "M")
    if count >= 1_000:
        return f"{count / 1_000:.0f}K"
    return str(count)


def _scaled(count: int, unit: int, decimals: int, suffix: str) -> str:
    if count % unit == 0:
        return f"{count // unit}{suffix}"
    return f"{count / unit:.{decimals}f}{suffix}"


def _summarize(reader: GgufReader) -> GgufSummary:
    arch = reader.architecture
    file_type = reader.integer("general.file_type", -1)
    template = reader.text("tokenizer.chat_template")
    declared = reader.integer("general.parameter_count")
    return GgufSummary(
        architecture=arch,
        kind=_kind(reader, arch),
        name=reader.text("general.name"),
        n_params=declared or sum(tensor.n_elements for tensor in reader.tensors),
        is_counted=not declared,
        file_type=gguf_tables.FILE_TYPES.get(file_type, "unknown"),
        context_length=reader.integer(f"{arch}.context_length"),
        embedding_length=reader.integer(f"{arch}.embedding_length"),
        chat_template=template,
        n_splits=max(1, reader.integer("split.count")),
        split_number=reader.integer("split.no"),
        capabilities=_capabilities(reader, arch, template),
        license=reader.text("general.license"),
    )


def _kind(reader: GgufReader, arch: str) -> str:
    declared = reader.text("general.type")
    if declared == "adapter":
        return "adapter"
    has_blocks = f"{arch}.block_count" in reader.entries
    if declared in {"projector", "mmproj"} or (arch == "clip" and not has_blocks):
        return "projector"
    if gguf_rules.is_later_part(reader):
        return "part"
    return "model" if reader.tensors or reader.integer("split.count") > 1 else "vocab"


def _capabilities(reader: GgufReader, arch: str, template: str) -> tuple[Capability, ...]:
    found: list[Capability] = list(template_capabilities(template))
    if not gguf_rules.is_pooling_unspecified(reader):
        found.append("embedding")
        if reader.integer(f"{arch}.pooling_type") == 4:
            found.append("rerank")
    else:
        found.append("completion")
        if has_fill_in_middle(reader):
            found.append("insert")
    if f"{arch}.vision.block_count" in reader.entries:
        found.append("vision")
    if f"{arch}.audio.block_count" in reader.entries:
        found.append("audio")
    return tuple(dict.fromkeys(found))


_SPLIT_THINK = re.compile(r"content\.split\((['\"])</think>\1\)")


def template_capabilities(template: str) -> tuple[Capability, ...]:
    """Capabilities a Jinja chat template shows by its text."""
    found: list[Capability] = []
    if "tools" in template or "tool_call" in template:
        found.append("tools")
    shows_tags = "<think>" in template and "</think>" in template
    splits_tags = bool(_SPLIT_THINK.search(template)) and not (
        "reasoning_content" in template or "<SPECIAL_12>" in template
    )
    if shows_tags or splits_tags:
        found.append("thinking")
    return tuple(found)


def has_fill_in_middle(reader: GgufReader) -> bool:
    """Whether the vocabulary declares all three fill-in-the-middle tokens."""
    prefix = "tokenizer.ggml."
    spellings = (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))
    return all(any(f"{prefix}{name}_token_id" in reader.entries for name in names) for names in spellings)


def ordered(capabilities: Iterable[Capability]) -> tuple[Capability, ...]:
    """Without repeats, in order of first appearance."""
    return tuple(dict.fromkeys(capabilities))
