"""Which quantisations a model can be created with, and which tensors are kept in another type.

The mix of types inside a K-quant is llama.cpp's own; here are only the additions for some architectures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from donabe.errors import InvalidRequestError
from donabe.store.gguf import Tensor

SUPPORTED = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")  # as the message lists them; BF16 is accepted too
FLOAT_TYPES = frozenset({"F32", "F16", "BF16"})
_NAMES = {name: name for name in (*SUPPORTED, "BF16")} | {"Q4_K": "Q4_K_M"}

# Tensors of the parts built into some model files beside the text model: vision, audio, projector, draft layers.
_EMBEDDED = ("a.", "mm.", "mtp.", "s.", "v.")

_ATTENTION = r"^blk\.[0-9]+\.(attn_k_b|attn_q_a|attn_q_b|attn_v_b|attn_kv_a_mqa)\.weight$"
_NEXT_TOKEN = r"^blk\.[0-9]+\.nextn\.eh_proj\.weight$"
_KEPT_TYPES: dict[str, tuple[tuple[str, str], ...]] = {
    "qwen35": ((_NEXT_TOKEN, "q8_0"),),
    "qwen35moe": ((_NEXT_TOKEN, "q8_0"),),
    "gemma3n": ((r"^per_layer_token_embd\.weight$", "f16"),),
    "deepseek2": ((_ATTENTION, "q8_0"),),
    "glmocr": ((r"^token_embd\.weight$", "f16"), (r"^output\.weight$", "f16")),
    "glm4": ((r"^token_embd\.weight$", "f16"), (r"^output\.weight$", "f16")),
}


def quantization_type(name: str) -> str:
    """The canonical name of a requested quantisation, any case.

    Raises:
        InvalidRequestError: it is not supported.
    """
    found = _NAMES.get(name.upper())
    if found is None:
        raise InvalidRequestError(
            f"unsupported quantization type {name.upper()} - supported types are {', '.join(SUPPORTED)}",
            field="quantize",
        )
    return found


def tensor_types(architecture: str, tensors: Sequence[Tensor], target: str) -> tuple[tuple[str, str], ...]:
    """(regular expression, type) of tensors that don't get the target's type; the first match counts.

    Parts built in beside the text model keep the type they have.
    """
    embedded = [tensor for tensor in tensors if is_embedded(tensor.name)]
    kept = tuple((f"^{re.escape(tensor.name)}$", tensor.type.name.lower()) for tensor in embedded)
    return kept + (_KEPT_TYPES.get(architecture, ()) if target in ("Q4_K_S", "Q4_K_M") else ())


def is_embedded(tensor_name: str) -> bool:
    """Whether a tensor belongs to a part built in beside the text model."""
    return tensor_name.startswith(_EMBEDDED)


def source_type(declared: str, tensors: Sequence[Tensor]) -> str:
    """The float type of an unquantised model: as declared, else that of its matrices; "" if it is quantised."""
    matrices = {tensor.type.name for tensor in tensors if len(tensor.shape) > 1}
    if declared in FLOAT_TYPES:
        return declared if matrices <= FLOAT_TYPES else ""
    is_plain = declared in ("", "unknown") and len(matrices) == 1 and matrices <= FLOAT_TYPES
    return matrices.pop() if is_plain else ""
