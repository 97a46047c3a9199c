"""Values that cross layers: what to load, what to generate, what comes back. One native request/event vocabulary.

Frozen `msgspec.Struct`s, because the same values travel to the runner process as msgpack; no behaviour beyond small
derived properties. Every HTTP dialect translates to and from these; the engine never sees a dialect. Units are in the
names: `_s` seconds, `_bytes` bytes, `n_` counts of tokens unless named otherwise.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

JsonObject = dict[str, Any]

Capability = Literal["completion", "tools", "insert", "vision", "audio", "embedding", "thinking", "rerank"]
ThinkLevel = Literal["low", "medium", "high", "max"]
EmbedPooling = Literal["", "none", "mean", "cls", "last"]  # "" = as the model was loaded
Role = str  # system, user, assistant, tool are meaningful; templates may know others (developer, ...)


class FinishReason(str, enum.Enum):
    """Why a sequence ended. `stop` covers end-of-generation tokens and stop strings."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the untagged values."""


# --- what to load ----------------------------------------------------------------------------------------------------


class AdapterSpec(_Value, frozen=True, kw_only=True):
    """A LoRA adapter file and its scale."""

    path: str
    scale: float = 1.0


class LoadOptions(_Value, frozen=True, kw_only=True):
    """How to load a model. `None` means automatic: donabe chooses and may choose smaller; a number is never changed."""

    n_ctx: int | None = None  # cells of the KV pool, shared by all sequences
    n_ctx_per_request: int | None = None  # cap of one request, default n_ctx
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_parallel: int | None = None  # sequences that may run at once
    backend: str | None = None  # cuda, rocm, metal, vulkan, sycl, cpu; None = the best there is
    devices: tuple[str, ...] = ()  # exactly these, by name; () = those of the backend
    n_gpu_layers: int | None = None  # -1 all
    n_cpu_moe: int | None = None  # layers whose experts stay in the machine's memory; -1 all
    main_gpu: int | None = None  # index among the devices used; the others stay unused
    tensor_split: tuple[float, ...] = ()  # shares of the devices used
    rpc: tuple[str, ...] = ()  # host:port of RPC workers, whose devices take part
    n_threads: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool = False
    flash_attention: bool | None = None
    type_k: str | None = None  # ggml type names: f16, q8_0, q4_0, ...
    type_v: str | None = None
    swa_full: bool = False
    embedding: bool = False  # load for embeddings instead of generation
    pooling: str | None = None  # none, mean, cls, last, rank; None = the model's own
    draft: str | None = None  # GGUF of a draft model; None = the one the model names, if any; "" = none
    n_draft_max: int | None = None  # tokens guessed for a sequence in one step; 0 = no speculation
    prefix_cache: bool = True
    prefix_cache_pool_bytes: int | None = None  # of the KV pool for idle prefixes; None = all that running ones leave
    prefix_cache_ram_bytes: int | None = None  # 0 = off
    prefix_cache_disk_bytes: int | None = None  # all models together; 0 = off
    prefix_cache_home: str | None = None  # folder of the disk tier and its key; None = donabe's own
    n_waiting_max: int | None = None  # requests that may wait beside the running ones; one more is refused
    max_step_latency_s: float | None = None  # bound on the gap between two tokens of a running stream
    # Settings measured on this machine: ignored, used if there, or also made, by an idle server or at the first load.
    auto_tune: Literal["off", "cached", "idle", "on"] = "cached"


class ModelSpec(_Value, frozen=True, kw_only=True):
    """A resolved model: everything a runner needs to load it and to build its prompts. Paths are absolute."""

    name: str  # short display name
    digest: str = ""  # hex sha256 of the manifest (or of path, size and mtime for plain files)
    paths: tuple[str, ...]  # the GGUF, or all its splits in order
    projector: str | None = None
    draft: str | None = None
    adapters: tuple[AdapterSpec, ...] = ()
    template: str | None = None  # Go template of a stored model; None = the GGUF's own Jinja template
    chat_template: str | None = None  # Jinja template that replaces the GGUF's
    system: str = ""
    parameters: JsonObject = {}  # stored PARAMETER values, reference option names
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    size_bytes: int = 0
    modified_at: float = 0.0  # Unix seconds
    details: ModelDetails
    parser: str = ""
    renderer: str = ""
    requires: str = ""  # lowest version of the reference system that runs it


class ModelDetails(_Value, frozen=True, kw_only=True, omit_defaults=False):
    """The `details` object of the native API."""

    parent_model: str = ""
    format: str = "gguf"
    family: str = ""
    families: tuple[str, ...] | None = None
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int = 0
    embedding_length: int = 0


class ModelInfo(_Value, frozen=True, kw_only=True):
    """What a runner knows about its loaded model."""

    architecture: str
    description: str
    n_params: int
    n_ctx: int  # cells in the pool
    n_ctx_train: int
    n_ctx_per_request: int
    n_embd: int
    n_vocab: int
    n_parallel: int
    memory_kind: str  # dense, iswa, recurrent, hybrid, hybrid_iswa, opaque, none
    size_bytes: int  # weights + KV + compute, all devices
    size_vram_bytes: int
    capabilities: tuple[Capability, ...] = ()
    devices: tuple[str, ...] = ()
    pid: int = 0
    n_layers: int = 0  # the output counts as one
    n_gpu_layers: int = 0  # of these on devices
    device_bytes: dict[str, int] = {}  # by device; what is on none is CPU's
    cache_bytes: dict[str, int] = {}  # attention, window, state (or window_and_state), draft; those there are
    loaded: LoadOptions | None = None  # the options with what donabe chose where they were automatic
    notes: tuple[str, ...] = ()  # what users of the model should know of its load


# --- what to generate ------------------------------------------------------------------------------------------------


class SamplingOptions(_Value, frozen=True, kw_only=True):
    """How the next token is chosen. Defaults are the reference system's; 0, 1 or -1 mean "off" as noted.

    Order of application: logit_bias, penalties, dry, then top_k, typical_p, top_p, min_p, xtc, temperature; mirostat
    replaces the truncation samplers when on.
    """

    seed: int | None = None  # None = random
    temperature: float = 0.8  # 0 = greedy
    top_k: int = 40  # 0 = off
    top_p: float = 0.9  # 1 = off
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64  # 0 = off, -1 = whole context
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0  # 0 off, 1, 2
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[int, float] = {}


class OutputOptions(_Value, frozen=True, kw_only=True):
    """When to stop and what to report."""

    max_tokens: int | None = None  # None = until the model stops or the context is full
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0  # 0..20 alternatives per token
    context_shift: bool = False  # drop the middle when the context is full instead of ending with `length`
    return_context: bool = False  # fill Finished.context; for generate and chat requests alike
    stream_interval_s: float = 0.0  # least time between two deltas of a completion; inf = one, and the rest at the end


class Constraint(_Value, frozen=True, kw_only=True):
    """A constraint on the output text: at most one field is set."""

    json_schema: JsonObject | None = None
    json_object: bool = False
    grammar: str | None = None  # GBNF


class Scheduling(_Value, frozen=True, kw_only=True):
    """Who asks, and how urgent it is."""

    caller: str = ""  # fairness group, for example an API key id
    cache_salt: str = ""  # prefix cache entries are shared only between equal salts
    priority: int = 0  # larger runs first
    request_id: str = ""


class ToolCall(_Value, frozen=True, kw_only=True):
    """A complete tool call. `arguments` is the raw JSON text of an object, as the model wrote it."""

    name: str
    arguments: str = "{}"
    id: str = ""
    index: int = 0


class Message(_Value, frozen=True, kw_only=True):
    """One chat message. `images` holds encoded image or audio files (bytes)."""

    role: Role
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


class Tool(_Value, frozen=True, kw_only=True):
    """A function the model may call. `parameters` is a JSON Schema object."""

    name: str
    description: str = ""
    parameters: JsonObject = {}


class ToolChoice(_Value, frozen=True, kw_only=True):
    """`mode` none/auto/required; with `name`, only that function may be called."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str = ""
    parallel: bool = True


class GenerateRequest(_Value, frozen=True, kw_only=True, tag="generate"):
    """Continue a prompt. The prompt is used as it is: templates are applied before (or use `ChatRequest`)."""

    prompt: str | tuple[int, ...]
    suffix: str = ""  # fill-in-the-middle
    add_special: bool = True  # let the tokenizer add BOS as the model wants
    sampling: SamplingOptions = SamplingOptions()
    output: OutputOptions = OutputOptions()
    constraint: Constraint = Constraint()
    scheduling: Scheduling = Scheduling()
    truncate: bool = False  # cut a too long prompt (reported in Usage) instead of raising ContextLengthError
    n_keep: int = 4  # tokens kept at the front by truncation and context shift; -1 = the whole prompt
    echo: bool = False
    n: int = 1  # completions of this one prompt; events carry their index
    best_of: int = 0  # more than n: so many are made, the n with the best mean log probability come, all at the end


class ChatRequest(_Value, frozen=True, kw_only=True, tag="chat"):
    """Answer a conversation, rendered with the model's template."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    think: bool | ThinkLevel | None = None  # None = the model's default
    sampling: SamplingOptions = SamplingOptions()
    output: OutputOptions = OutputOptions()
    constraint: Constraint = Constraint()
    scheduling: Scheduling = Scheduling()
    template: str | None = None  # Go template for this request only
    template_kwargs: JsonObject = {}
    continue_final_message: bool = False
    truncate: bool = False  # drop oldest messages, then cut, instead of raising ContextLengthError
    n_keep: int = 4
    n: int = 1
    best_of: int = 0  # as GenerateRequest.best_of


class EmbedRequest(_Value, frozen=True, kw_only=True, tag="embed"):
    """Embed texts or token lists."""

    inputs: tuple[str | tuple[int, ...], ...]
    truncate: bool = True
    normalize: bool = True
    dimensions: int = 0  # 0 = the model's own
    pooling: EmbedPooling = ""  # none: a row for every token
    scheduling: Scheduling = Scheduling()


class RerankRequest(_Value, frozen=True, kw_only=True, tag="rerank"):
    """Score documents against a query."""

    query: str
    documents: tuple[str, ...]
    scheduling: Scheduling = Scheduling()


class ClassifyRequest(_Value, frozen=True, kw_only=True, tag="classify"):
    """Sort texts or token lists into the classes a classifier knows."""

    inputs: tuple[str | tuple[int, ...], ...]
    truncate: bool = False
    scheduling: Scheduling = Scheduling()


# --- what comes back -------------------------------------------------------------------------------------------------


class TokenLogprob(_Value, frozen=True, kw_only=True):
    """A chosen token with its log probability; `top` are the alternatives, most likely first."""

    token: str
    token_id: int
    logprob: float
    bytes_: bytes = b""
    top: tuple[TokenLogprob, ...] = ()


class Usage(_Value, frozen=True, kw_only=True, omit_defaults=False):
    """Counts and times of one request. `n_prompt_tokens` includes those served from the prefix cache."""

    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0
    n_output_tokens: int = 0
    n_thinking_tokens: int = 0
    n_draft_tokens: int = 0
    n_draft_accepted: int = 0
    n_truncated_tokens: int = 0  # cut from the prompt because it was too long
    n_dropped_messages: int = 0
    queue_s: float = 0.0
    load_s: float = 0.0
    prompt_s: float = 0.0
    output_s: float = 0.0
    total_s: float = 0.0


class Delta(_Value, frozen=True, kw_only=True, tag="delta"):
    """New output. Any of the text fields may be empty; concatenating all deltas gives the whole answer."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()  # complete calls only
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()
    index: int = 0  # which of `n` completions


class Finished(_Value, frozen=True, kw_only=True, tag="finished"):
    """One completion ended normally. The last `Finished` (or `Failed`) of a request is its terminal event."""

    reason: FinishReason
    usage: Usage
    index: int = 0
    last: bool = True  # no further event of this request follows
    stop_sequence: str = ""  # the stop string that ended it, if one did
    warnings: tuple[str, ...] = ()
    context: tuple[int, ...] = ()  # prompt and output tokens, when OutputOptions.return_context asks for them


class Failed(_Value, frozen=True, kw_only=True, tag="failed"):
    """The request ended with an error; always terminal. `kind` is a class name of `donabe.errors`."""

    kind: str
    message: str
    hint: str | None = None
    data: JsonObject = {}


Event = Delta | Finished | Failed


class EmbedResult(_Value, frozen=True, kw_only=True):
    """Embeddings, row-major float32 little-endian bytes of shape (n_rows, n_embd)."""

    n_rows: int
    n_embd: int
    data: bytes
    n_prompt_tokens: int
    n_rows_each: tuple[int, ...] = ()  # of every input, with pooling none; else an input has one row
    truncated: tuple[int, ...] = ()  # indices of inputs that were cut
    total_s: float = 0.0


class RerankResult(_Value, frozen=True, kw_only=True):
    """Relevance scores in the documents' order."""

    scores: tuple[float, ...]
    n_prompt_tokens: int
    total_s: float = 0.0


class ClassifyResult(_Value, frozen=True, kw_only=True):
    """Probabilities of the labels, for each input in order."""

    labels: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    n_prompt_tokens: int
    truncated: tuple[int, ...] = ()  # indices of inputs that were cut
    total_s: float = 0.0


class RenderedPrompt(_Value, frozen=True, kw_only=True):
    """A chat rendered to text and tokens, without running it."""

    prompt: str
    tokens: tuple[int, ...]
    n_images: int = 0


class RunnerStatus(_Value, frozen=True, kw_only=True, omit_defaults=False):
    """A snapshot of the engine, for /metrics and /api/ps. Counters only grow while the runner lives."""

    n_waiting: int = 0
    n_running: int = 0
    n_cells: int = 0
    n_cells_used: int = 0  # by running sequences and cached prefixes
    n_cells_cached: int = 0  # of these, held only by the prefix cache
    kv_bytes_per_cell: int = 0
    cache_ram_bytes: int = 0
    cache_disk_bytes: int = 0
    n_steps: int = 0
    n_graphs_reused: int = 0  # of the steps, those that ran the graph of the one before with other inputs
    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0
    n_output_tokens: int = 0
    n_draft_tokens: int = 0
    n_draft_accepted: int = 0
    n_preemptions: int = 0
    n_forks: int = 0  # sequences that began with cells of another
    step_s: float = 0.0  # sum of step times
    python_s: float = 0.0  # of these, outside the native call


class PullProgress(_Value, frozen=True, kw_only=True):
    """One progress event of a pull, push or create."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0
