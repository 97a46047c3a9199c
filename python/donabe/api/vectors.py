"""What clients of llama.cpp's server and of vLLM send for vectors and classes: `/embedding(s)` and `/classify`.

Such clients may leave the model out; the server then chooses it.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

import msgspec

from donabe.api.body import Fields, parse_json
from donabe.api.durations import parse_keep_alive
from donabe.api.float_text import float_rows, row_texts
from donabe.api.native import decode_options, unknown_fields
from donabe.api.openai_requests import embedding_inputs
from donabe.api.pooling import take_pooling
from donabe.errors import InvalidRequestError
from donabe.service.calls import ClassifyCall, EmbedCall
from donabe.types import ClassifyResult, EmbedResult, JsonObject

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class TokenEmbedding:
    """A decoded request of `/embedding`; `call.model` may be empty."""

    call: EmbedCall
    warnings: tuple[str, ...]


def decode_token_embedding(body: bytes) -> TokenEmbedding:
    """`POST /embedding`, `/embeddings`: `content` or `input`, `embd_normalize`; ours are `pooling` and `truncate`."""
    fields = Fields(parse_json(body, when_empty="EOF"), "EmbeddingRequest")
    given = fields.take("input")
    content = fields.take("content")
    if given is None and content is None:
        raise InvalidRequestError("content is required", field="content", hint="send the text as content or input")
    norm = fields.integer("embd_normalize", 2)
    if norm not in (-1, 2):
        raise InvalidRequestError(
            f"embd_normalize must be -1 (as they are) or 2 (length 1), not {norm}", field="embd_normalize"
        )
    encoding = fields.string("encoding_format", "float")
    if encoding != "float":
        raise InvalidRequestError(
            f"encoding_format must be float, not {encoding}", field="encoding_format", hint="/v1/embeddings has base64"
        )
    pooling = take_pooling(fields, has_rows=True)
    options, warnings = decode_options(fields)
    call = EmbedCall(
        model=fields.string("model"),
        options=options,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        inputs=embedding_inputs(content if given is None else given, "content" if given is None else "input"),
        truncate=fields.boolean("truncate", False),
        # llama.cpp's server leaves token rows as they are, whatever is asked for.
        normalize=norm == 2 and pooling != "none",
        pooling=pooling,
    )
    return TokenEmbedding(call, warnings + unknown_fields(fields))


def token_embedding_body(result: EmbedResult) -> bytes:
    """A list of `{"index", "embedding"}`, where an embedding is a list of rows, also of one."""
    rows = list(row_texts(float_rows(result)))
    answer: list[bytes] = []
    start = 0
    for index, n_rows in enumerate(result.n_rows_each or (1,) * result.n_rows):
        part = b",".join(rows[start : start + n_rows])
        answer.append(b'{"index":%d,"embedding":[%b]}' % (index, part))
        start += n_rows
    return b"[" + b",".join(answer) + b"]"


@dataclass(frozen=True)
class Classification:
    """A decoded request of `/classify`; `call.model` may be empty."""

    call: ClassifyCall
    warnings: tuple[str, ...]


def decode_classify(body: bytes) -> Classification:
    """`POST /classify`: `model`, `input`, `truncate_prompt_tokens`."""
    fields = Fields(parse_json(body, when_empty="EOF"), "ClassifyRequest")
    if not fields.boolean("use_activation", True) or not fields.boolean("activation", True):
        raise InvalidRequestError("scores are always probabilities", field="use_activation", hint="leave it out")
    most = fields.integer("truncate_prompt_tokens", 0)
    if most not in (0, -1):
        raise InvalidRequestError(
            f"truncate_prompt_tokens must be -1 (as many as the model takes), not {most}",
            field="truncate_prompt_tokens",
        )
    options, warnings = decode_options(fields)
    call = ClassifyCall(
        model=fields.string("model"),
        options=options,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        inputs=embedding_inputs(fields.take("input"), "input"),
        truncate=most == -1,
    )
    fields.ignore("user", "priority", "request_id")
    return Classification(call, warnings + unknown_fields(fields))


def classify_body(model: str, result: ClassifyResult) -> bytes:
    """The likeliest label of each input, and all probabilities in the order of the model's labels.

    `labels` is ours: vLLM does not say which number belongs to which label.
    """
    data = [
        {
            "index": index,
            "label": result.labels[max(range(len(scores)), key=scores.__getitem__)],
            "probs": scores,
            "num_classes": len(scores),
        }
        for index, scores in enumerate(result.scores)
    ]
    usage = {
        "prompt_tokens": result.n_prompt_tokens,
        "total_tokens": result.n_prompt_tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
    answer: JsonObject = {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "labels": result.labels,
        "usage": usage,
    }
    if result.truncated:
        answer["truncated"] = result.truncated
    return _encode(answer)
