"""What editors know from llama.cpp's server: `/infill`, `/props`.

Such clients talk to a server with one model and name none; the server then chooses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from donabe.api.body import Fields, parse_json
from donabe.api.dialect import PLAIN_JSON, SSE, Timing
from donabe.api.native import unknown_fields
from donabe.api.openai_replies import error_object
from donabe.errors import DonabeError, InvalidRequestError
from donabe.service.calls import GenerateCall
from donabe.service.models import LoadedModel, ModelDescription
from donabe.service.parameters import PARAMETERS, check
from donabe.types import Delta, Finished, FinishReason, JsonObject

_encode = msgspec.json.Encoder().encode

# What these clients set for their own server's working, without an effect on the text.
_HARMLESS = (
    "cache_prompt",
    "id_slot",
    "n_indent",
    "response_fields",
    "return_tokens",
    "samplers",
    "t_max_predict_ms",
    "t_max_prompt_ms",
    "timings_per_token",
)
_RENAMED = {"n_predict": "num_predict", "n_keep": "num_keep"}


@dataclass(frozen=True)
class Infill:
    """A decoded infill request; `call.model` may be empty."""

    call: GenerateCall
    warnings: tuple[str, ...]


def decode_infill(body: bytes) -> Infill:
    """`POST /infill`: what stands before and after the cursor."""
    fields = Fields(parse_json(body, when_empty="EOF"), "InfillRequest")
    if not fields.has("input_prefix") and not fields.has("input_suffix"):
        raise InvalidRequestError("input_prefix is required", field="input_prefix")
    prefix, suffix = fields.string("input_prefix"), fields.string("input_suffix")
    prompt = fields.string("prompt")  # the text of the line before the cursor
    extra = "".join(fields.objects("input_extra", "[]extra", _read_extra))
    options: dict[str, Any] = {}
    for name in (*PARAMETERS, *_RENAMED):
        value = fields.take(name)
        if value is not None:
            options[_RENAMED.get(name, name)] = check(_RENAMED.get(name, name), value, field=name)
    model = fields.string("model")
    fields.ignore(*_HARMLESS)
    # An empty suffix still asks for what comes at the cursor, so it may not look like a plain prompt.
    call = GenerateCall(
        model=model,
        is_streamed=fields.boolean("stream"),
        options=options,
        prompt=extra + prefix + prompt,
        suffix=suffix or "\n",
        truncate=True,
        context_shift=False,
    )
    return Infill(call, unknown_fields(fields))


def _read_extra(fields: Fields) -> str:
    name, text = fields.string("filename"), fields.string("text")
    return f"{name}\n{text}\n" if name else f"{text}\n"


class InfillWriter:
    """Streamed pieces of an infill; the last one has `stop` and the counts. What a model thought has its own member."""

    media_type = SSE

    def delta(self, event: Delta) -> bytes:
        if event.thinking:
            piece = {"content": event.text, "reasoning": event.thinking, "stop": False}
            return b"data: " + _encode(piece) + b"\n\n"
        return b'data: {"content":' + _encode(event.text) + b',"stop":false}\n\n' if event.text else b""

    def finished(self, event: Finished, timing: Timing) -> bytes:
        return b"data: " + _encode({"content": "", **_final(event)}) + b"\n\n"

    def failed(self, status: int, error: DonabeError) -> bytes:
        return b"data: " + _encode(error_object(status, error)) + b"\n\n"


class InfillCollector:
    """The whole infill."""

    media_type = PLAIN_JSON

    def __init__(self, model: str) -> None:
        self._model = model
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._final: JsonObject = {}

    def delta(self, event: Delta) -> None:
        self._text.append(event.text)
        self._thinking.append(event.thinking)

    def finished(self, event: Finished, timing: Timing) -> None:
        self._final = _final(event)

    def body(self) -> bytes:
        thinking = "".join(self._thinking)
        reasoning = {"reasoning": thinking} if thinking else {}
        return _encode({"content": "".join(self._text), **reasoning, "model": self._model, **self._final})


def _final(event: Finished) -> JsonObject:
    usage = event.usage
    return {
        "stop": True,
        "stop_type": "limit" if event.reason is FinishReason.LENGTH else "word" if event.stop_sequence else "eos",
        "stopping_word": event.stop_sequence,
        "tokens_predicted": usage.n_output_tokens,
        "tokens_evaluated": usage.n_prompt_tokens,
        "tokens_cached": usage.n_cached_tokens,
        "truncated": usage.n_truncated_tokens > 0,
        "timings": {
            "prompt_n": usage.n_prompt_tokens - usage.n_cached_tokens,
            "prompt_ms": usage.prompt_s * 1e3,
            "predicted_n": usage.n_output_tokens,
            "predicted_ms": usage.output_s * 1e3,
            "predicted_per_second": usage.n_output_tokens / usage.output_s if usage.output_s else 0.0,
        },
    }


def props_body(description: ModelDescription, loaded: LoadedModel | None, *, version: str) -> bytes:
    """`GET /props`: what is known of the model; its place in the file system stays with the server."""
    spec, gguf = description.spec, description.gguf
    template = spec.chat_template or (gguf.metadata.get("tokenizer.chat_template") if gguf is not None else None)
    props: JsonObject = {
        "default_generation_settings": {
            "n_ctx": loaded.info.n_ctx_per_request if loaded is not None else spec.details.context_length,
        },
        "total_slots": loaded.info.n_parallel if loaded is not None else 1,
        "model_path": spec.name,
        "model_alias": spec.name,
        "chat_template": spec.template or template or "",
        "modalities": {"vision": "vision" in spec.capabilities, "audio": "audio" in spec.capabilities},
        "build_info": f"donabe {version}",
        "is_sleeping": loaded is None,
    }
    return _encode(props)
