"""What a GGUF's values must mean, on top of its structure: tensors inside the file, a consistent vocabulary, sane
sizes.

Each rule is one function that raises `ModelFileError`. They exist because the native loader trusts these values: wrong
ones have crashed it, or made it read outside its memory. All sizes are computed with Python's unbounded integers.
"""

from __future__ import annotations

import math

from donabe.store import gguf_tables as tables
from donabe.store.gguf import GgufReader

MAX_TEMPLATE_BYTES = 256 * 1024
_MAX_SPLITS = 10_000
_NO_TOKEN = (-1, 0xFFFF_FFFF)  # how files say "there is no such token"

# Sizes the native loader multiplies, allocates or divides by: key without the architecture -> allowed range.
_SIZES: dict[str, tuple[int, int]] = {
    "block_count": (1, 512),
    "context_length": (1, 2**31 - 1),
    "embedding_length": (1, 2**20),
    "embedding_length_out": (1, 2**20),
    "feed_forward_length": (0, 2**24),
    "expert_feed_forward_length": (0, 2**24),
    "expert_shared_feed_forward_length": (0, 2**24),
    "expert_count": (0, 1024),
    "expert_used_count": (0, 1024),
    "expert_shared_count": (0, 1024),
    "expert_group_count": (0, 1024),
    "leading_dense_block_count": (0, 512),
    "nextn_predict_layers": (0, 512),
    "attention.head_count": (0, 2**16),
    "attention.head_count_kv": (0, 2**16),
    "attention.key_length": (0, 2**16),
    "attention.value_length": (0, 2**16),
    "attention.key_length_mla": (0, 2**16),
    "attention.value_length_mla": (0, 2**16),
    "attention.key_length_swa": (0, 2**16),
    "attention.value_length_swa": (0, 2**16),
    "attention.q_lora_rank": (0, 2**20),
    "attention.kv_lora_rank": (0, 2**20),
    "attention.sliding_window": (0, 2**31 - 1),
    "rope.dimension_count": (0, 2**16),
    "rope.dimension_count_swa": (0, 2**16),
    "rope.scaling.original_context_length": (0, 2**31 - 1),
    "ssm.conv_kernel": (0, 2**16),
    "ssm.inner_size": (0, 2**24),
    "ssm.state_size": (0, 2**20),
    "ssm.time_step_rank": (0, 2**20),
    "ssm.group_count": (0, 2**16),
    "wkv.head_size": (0, 2**16),
    "vocab_size": (1, 2**24),
    "pooling_type": (-1, 2**32 - 1),  # narrowed below
}
_NOT_ZERO_WITH_HEADS = ("attention.key_length", "attention.value_length")


def check(reader: GgufReader) -> None:
    """Apply every rule that holds for any GGUF: model, adapter, projector or vocabulary.

    Raises:
        ModelFileError: The first rule broken, naming the key or tensor.
    """
    check_identity(reader)
    check_tensors(reader)
    check_vocabulary(reader)
    check_sizes(reader)
    check_template(reader)
    check_split(reader)


def is_later_part(reader: GgufReader) -> bool:
    """Whether this is a file of a split set after the first: it has tensors, and the metadata is in the first."""
    return reader.integer("split.count") > 1 and reader.integer("split.no") > 0


def check_identity(reader: GgufReader) -> None:
    entry = reader.entries.get("general.architecture")
    if entry is None and is_later_part(reader):
        return
    if entry is None:
        raise reader.error("general.architecture is missing")
    if entry.is_array or entry.item != tables.STRING:
        raise reader.error(f"general.architecture must be a string, it is {entry.type_name}")
    name = reader.architecture
    if not name or len(name) > 64 or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise reader.error(f"general.architecture {name[:64]!r} is not a name")
    entry = reader.entries.get("general.file_type")
    if entry is not None and (entry.is_array or entry.item not in tables.INTEGERS):
        raise reader.error(f"general.file_type must be an integer, it is {entry.type_name}")


def check_tensors(reader: GgufReader) -> None:
    """Every tensor lies inside the file, aligned, and no two overlap."""
    room = reader.size_bytes - reader.data_start
    end, before = 0, ""
    for tensor in sorted(reader.tensors, key=lambda tensor: tensor.offset):
        if tensor.offset % reader.alignment:
            raise reader.error(f"tensor {tensor.name!r} is at {tensor.offset}, not a multiple of {reader.alignment}")
        if tensor.offset + tensor.n_bytes > room:
            raise reader.error(
                f"the file is cut off or damaged: tensor {tensor.name!r} needs "
                f"{reader.data_start + tensor.offset + tensor.n_bytes} bytes, the file has {reader.size_bytes}"
            )
        if tensor.offset < end:
            raise reader.error(f"tensors {before!r} and {tensor.name!r} overlap")
        end, before = tensor.offset + tensor.n_bytes, tensor.name


def check_vocabulary(reader: GgufReader) -> None:
    """Token arrays have the types and lengths the tokenizer reads them with; special ids name tokens that exist."""
    prefix = "tokenizer.ggml."
    expected = {
        "tokens": (tables.STRING,),
        "merges": (tables.STRING,),
        "scores": (tables.FLOAT32,),
        "token_type": (tables.INT32, tables.UINT32),
        "precompiled_charsmap": (tables.INT8, tables.UINT8),
    }
    for key, kinds in expected.items():
        entry = reader.entries.get(prefix + key)
        if entry is not None and not (entry.is_array and entry.item in kinds):
            if key == "precompiled_charsmap" and entry.is_array and entry.item == tables.STRING:
                continue  # an older spelling of the same data
            wanted = " or ".join(tables.value_type_name(kind) for kind in kinds)
            raise reader.error(f"{prefix}{key} must be an array of {wanted}, it is {entry.type_name}")
    tokens = reader.entries.get(prefix + "tokens")
    n_tokens = tokens.count if tokens else 0
    for key in ("scores", "token_type"):
        entry = reader.entries.get(prefix + key)
        if entry is not None and entry.count != n_tokens:
            raise reader.error(f"{prefix}{key} has {entry.count} items for {n_tokens} tokens")
    if tokens is not None and n_tokens == 0:
        raise reader.error("the vocabulary is empty")
    _check_special_ids(reader, prefix, n_tokens)


def _check_special_ids(reader: GgufReader, prefix: str, n_tokens: int) -> None:
    for key, entry in reader.entries.items():
        if not key.startswith(prefix) or not key.endswith(("_token_id", "_token_ids")):
            continue
        if entry.item not in tables.INTEGERS:
            raise reader.error(f"{key} must be an integer, it is {entry.type_name}")
        if entry.is_array and entry.count > 1024:
            raise reader.error(f"{key} lists {entry.count} ids")
        ids = reader.get(key) if entry.is_array else [reader.get(key)]
        for number in ids:
            if number not in _NO_TOKEN and not 0 <= number < n_tokens:
                raise reader.error(f"{key} is {number}, outside the vocabulary of {n_tokens} tokens")


def check_sizes(reader: GgufReader) -> None:
    """The sizes the native loader computes with are integers (or one integer a layer) in a range it can take."""
    arch = reader.architecture
    for suffix, (low, high) in _SIZES.items():
        entry = reader.entries.get(f"{arch}.{suffix}")
        if entry is None:
            continue
        key = f"{arch}.{suffix}"
        if entry.item not in tables.INTEGERS:
            raise reader.error(f"{key} must be an integer, it is {entry.type_name}")
        if entry.is_array and not 1 <= entry.count <= 512:
            raise reader.error(f"{key} has {entry.count} items; one a layer is expected")
        for value in reader.get(key) if entry.is_array else [reader.get(key)]:
            if not low <= value <= high:
                raise reader.error(f"{key} is {value}; it must be from {low} to {high}")
            if value == 0 and suffix in _NOT_ZERO_WITH_HEADS and reader.integer(f"{arch}.attention.head_count") > 0:
                raise reader.error(f"{key} is 0 in a model with attention heads")
            if value == 0 and suffix == "wkv.head_size" and "rwkv" in arch:
                raise reader.error(f"{key} is 0 in an RWKV model")
    if not 0 <= reader.integer(f"{arch}.pooling_type") <= 4 and not is_pooling_unspecified(reader):
        raise reader.error(f"{arch}.pooling_type is {reader.integer(f'{arch}.pooling_type')}; it must be from 0 to 4")
    _check_heads(reader, arch)
    _check_numbers(reader, arch)


def is_pooling_unspecified(reader: GgufReader) -> bool:
    """Whether the model leaves pooling open: no key, or the native library's own mark for that."""
    return reader.integer(f"{reader.architecture}.pooling_type", -1) in _NO_TOKEN


def _check_heads(reader: GgufReader, arch: str) -> None:
    n_head, n_kv = reader.integer(f"{arch}.attention.head_count"), reader.integer(f"{arch}.attention.head_count_kv")
    if n_kv > n_head > 0:
        raise reader.error(f"{arch}.attention.head_count_kv is {n_kv}, more than its {n_head} heads")
    n_used, n_experts = reader.integer(f"{arch}.expert_used_count"), reader.integer(f"{arch}.expert_count")
    if n_used > n_experts > 0:
        raise reader.error(f"{arch}.expert_used_count is {n_used} of {n_experts} experts")
    if n_experts > 0 and f"{arch}.expert_used_count" in reader.entries and n_used == 0:
        raise reader.error(f"{arch}.expert_used_count is 0 of {n_experts} experts")


def _check_numbers(reader: GgufReader, arch: str) -> None:
    """Floating-point settings are finite: a NaN or infinity spreads silently into every logit."""
    for key, entry in reader.entries.items():
        if key.startswith(arch + ".") and not entry.is_array and entry.item in tables.FLOATS:
            value = reader.get(key)
            if math.isnan(value) or (math.isinf(value) and "epsilon" in key):
                raise reader.error(f"{key} is {value}")


def check_template(reader: GgufReader) -> None:
    for key, entry in reader.entries.items():
        if not key.startswith("tokenizer.chat_template") or key == "tokenizer.chat_templates":
            continue
        if entry.is_array or entry.item != tables.STRING:
            raise reader.error(f"{key} must be a string, it is {entry.type_name}")
        if len(reader.text(key).encode()) > MAX_TEMPLATE_BYTES:
            raise reader.error(f"{key} is longer than {MAX_TEMPLATE_BYTES // 1024} KiB")


def check_split(reader: GgufReader) -> None:
    for key in ("split.count", "split.no", "split.tensors.count"):
        entry = reader.entries.get(key)
        if entry is not None and (entry.is_array or entry.item not in tables.INTEGERS):
            raise reader.error(f"{key} must be an integer, it is {entry.type_name}")
    count, number = reader.integer("split.count"), reader.integer("split.no")
    if not 0 <= count <= _MAX_SPLITS:
        raise reader.error(f"split.count is {count}; at most {_MAX_SPLITS} are allowed")
    if count > 1 and not 0 <= number < count:
        raise reader.error(f"split.no is {number} in a set of {count}")
