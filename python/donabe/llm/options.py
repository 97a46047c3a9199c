"""Keyword options of `LLM`: their types for editors, and the checked request parts they become.

Names are those of `donabe.types`. What a model stores as its parameters is the default, what the caller passes wins. An
unknown name is a TypeError with the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar

import msgspec

from donabe.errors import InvalidRequestError
from donabe.types import (
    Constraint,
    JsonObject,
    LoadOptions,
    OutputOptions,
    SamplingOptions,
    Scheduling,
    ThinkLevel,
    Tool,
    ToolChoice,
)

S = TypeVar("S", bound=msgspec.Struct)


class LoadKwargs(TypedDict, total=False):
    """How to load a model: the fields of `donabe.types.LoadOptions`."""

    n_ctx: int | None
    n_ctx_per_request: int | None
    n_batch: int | None
    n_ubatch: int | None
    n_parallel: int | None
    backend: str | None
    devices: Sequence[str]
    n_gpu_layers: int | None
    n_cpu_moe: int | None
    main_gpu: int | None
    tensor_split: Sequence[float]
    rpc: Sequence[str]
    n_threads: int | None
    use_mmap: bool | None
    use_mlock: bool
    flash_attention: bool | None
    type_k: str | None
    type_v: str | None
    swa_full: bool
    embedding: bool
    pooling: str | None
    draft: str | None
    n_draft_max: int | None
    prefix_cache: bool
    prefix_cache_pool_bytes: int | None
    prefix_cache_ram_bytes: int | None
    prefix_cache_disk_bytes: int | None
    prefix_cache_home: str | None
    n_waiting_max: int | None
    max_step_latency_s: float | None
    auto_tune: Literal["off", "cached", "idle", "on"]


class GenerateKwargs(TypedDict, total=False):
    """How to answer: sampling, when to stop, what to report, and constraints on the text.

    `format` is `"json"` for any JSON object or a JSON Schema; `grammar` is GBNF. `truncate` cuts a prompt that is too
    long instead of raising ContextLengthError. `cache_salt` keeps cached prefixes apart; larger `priority` runs first.
    """

    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    xtc_probability: float
    xtc_threshold: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: Mapping[int, float]
    max_tokens: int | None
    stop: str | Sequence[str]
    ignore_eos: bool
    logprobs: bool
    top_logprobs: int
    context_shift: bool
    format: str | JsonObject | None
    grammar: str | None
    truncate: bool
    n_keep: int
    cache_salt: str
    priority: int


class ChatKwargs(GenerateKwargs, total=False):
    """`GenerateKwargs`, and what only conversations have."""

    tools: Sequence[Tool | Mapping[str, Any]]
    tool_choice: str
    think: bool | ThinkLevel | None
    template_kwargs: JsonObject
    continue_final_message: bool


# Stored parameters that are spelled differently from our field.
_STORED_NAMES = {
    "num_ctx": "n_ctx_per_request",
    "num_batch": "n_batch",
    "num_gpu": "n_gpu_layers",
    "num_thread": "n_threads",
    "num_predict": "max_tokens",
    "num_keep": "n_keep",
    "draft_num_predict": "n_draft_max",
}
# A model from elsewhere chooses these and no others: not folders, files or budgets on this machine.
_STORED_LOAD = (
    "n_ctx_per_request",
    "n_batch",
    "n_draft_max",
    "n_gpu_layers",
    "n_threads",
    "main_gpu",
    "use_mmap",
    "use_mlock",
)
_STORED_ANSWER = (
    *SamplingOptions.__struct_fields__,
    "max_tokens",
    "stop",
    "ignore_eos",
    "n_keep",
)
_AUTOMATIC_WHEN_ZERO = ("n_ctx_per_request", "n_batch", "n_threads")


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """The parts of a request that options become."""

    sampling: SamplingOptions
    output: OutputOptions
    constraint: Constraint
    scheduling: Scheduling
    truncate: bool
    n_keep: int


def load_options(stored: JsonObject, given: Mapping[str, Any]) -> LoadOptions:
    """Options for loading; `stored` are the model's parameters.

    Raises:
        TypeError: An option has no such name.
        InvalidRequestError: A value has the wrong type.
    """
    refuse_unknown("LLM()", given, LoadOptions.__struct_fields__)
    kv_type = stored.get("kv_cache_type")
    kv_types = {"type_k": kv_type, "type_v": kv_type} if kv_type is not None else {}
    return _convert({**stored_values(stored, _STORED_LOAD), **kv_types, **given}, LoadOptions)


def answer_options(stored: JsonObject, given: Mapping[str, Any]) -> AnswerOptions:
    """Options of one request; unknown names were refused before.

    Raises:
        InvalidRequestError: A value has the wrong type, or two constraints were given.
    """
    values = {**stored_values(stored, _STORED_ANSWER), **given}
    if isinstance(values.get("stop"), str):
        values["stop"] = [values["stop"]]
    return AnswerOptions(
        sampling=_convert(values, SamplingOptions),
        output=_convert(values, OutputOptions),
        constraint=_constraint(values.get("format"), values.get("grammar")),
        scheduling=_convert(values, Scheduling),
        truncate=bool(values.get("truncate", False)),
        n_keep=int(values.get("n_keep", 4)),
    )


def tool_choice(value: str) -> ToolChoice:
    """`auto`, `none`, `required`, or the name of the one tool to call."""
    if value in ("auto", "none", "required"):
        return msgspec.convert({"mode": value}, ToolChoice)
    return ToolChoice(mode="required", name=value)


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError for the first unknown name, with close matches."""
    known = list(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise TypeError(f"{where} has no option {name!r}{hint}")


def stored_values(stored: JsonObject, allowed: Collection[str]) -> dict[str, Any]:
    """A model's stored parameters under our names, those that are allowed."""
    values: dict[str, Any] = {}
    for name, value in stored.items():
        ours = _STORED_NAMES.get(name, name)
        if ours not in allowed or value is None or (ours in _AUTOMATIC_WHEN_ZERO and value == 0):
            continue
        if ours in ("max_tokens", "n_gpu_layers", "seed") and isinstance(value, int) and value < 0:
            continue  # negative means "no limit", "automatic" and "random" there: our defaults
        values[ours] = value
    return values


def _convert(values: Mapping[str, Any], type_: type[S]) -> S:
    """The struct of those values that are its fields, types checked."""
    mine = {name: value for name, value in values.items() if name in type_.__struct_fields__}
    try:
        return msgspec.convert(mine, type_)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`")
        raise InvalidRequestError(f"{field}: {text[:1].lower()}{text[1:]}", field=field) from None


def _constraint(format: str | JsonObject | None, grammar: str | None) -> Constraint:
    if format is not None and grammar is not None:
        raise InvalidRequestError("format and grammar can't both be given", field="grammar")
    if grammar is not None:
        return Constraint(grammar=grammar)
    if format is None or format == "":
        return Constraint()
    if isinstance(format, dict):
        return Constraint(json_schema=format)
    if format == "json":
        return Constraint(json_object=True)
    raise InvalidRequestError('format must be "json" or a JSON Schema object', field="format")
