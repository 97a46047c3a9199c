"""Native module: mechanism over llama.cpp. Policy (who runs, what is shared, when to stop) lives in Python.

Threads: `Model`, `Vocab` and `ChatTemplates` may be used from any thread. A `Context` (with its `Memory` and the views
it gave out) has one owner at a time: a call that finds another thread inside waits one second, then raises BusyError.
Calls that compute, load or wait release the GIL. After fork() in the child every call raises UnsupportedError.

Errors are the NativeError classes of `donabe.errors`; each carries the native log tail of its thread.
Ranges are half-open `[p0, p1)`; a negative p0 means 0, a negative p1 means "to the end".
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]

__version__: str

def _error_codes() -> dict[str, int]:
    """Class name in donabe.errors -> native error code; what the parity test compares."""

# --- devices, logs, build -------------------------------------------------------------------------------------------

@final
class DeviceInfo:
    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def kind(self) -> Literal["cpu", "gpu", "igpu", "accel"]: ...
    @property
    def pci_id(self) -> str: ...  # such as 0000:01:00.0; "" where the backend does not tell
    @property
    def memory_total_bytes(self) -> int: ...
    @property
    def memory_free_bytes(self) -> int: ...

def init(backend_dir: str | None = None, plugins: Sequence[str] = ()) -> list[DeviceInfo]:
    """Load backends (absolute paths only) and start llama.cpp; idempotent. Raises LoadError without a CPU device."""

def devices() -> list[DeviceInfo]: ...
def system_info() -> str: ...
def build_info() -> dict[str, Any]:
    """version, build_id, llama_version, ggml_version, ggml_commit, compiler, rpc_protocol, backend_dl, asserts,
    cpu_variant.

    cpu_variant is the one that init() chose, or DONABE_CPU_VARIANT named; "" before, and where the CPU backend is
    linked in.
    """

def rpc_add_worker(address: str) -> None:
    """Connect to the RPC worker at `host:port` and add its devices to devices(), once. Raises LoadError. ggml ends the
    process if the worker can't be reached or goes away: see donabe.devices.rpc."""

def rpc_serve_connection(connection: int, devices: Sequence[str], n_threads: int, cache_dir: str = "") -> None:
    """Lend devices to the peer of a connected socket, which is closed, until it leaves. Once per process. Raises
    LoadError, InvalidArgumentError, UnsupportedError."""

def rpc_cache_file_is_sound(path: str) -> bool:
    """Whether a file of an RPC worker's cache holds what its name, a hash, says. Raises LoadError."""

def drain_logs(max_lines: int = 1000) -> list[tuple[int, str]]:
    """Take up to max_lines (level, text) out of the log ring; levels as in ggml: 1 debug 2 info 3 warn 4 error."""

def set_log_level(level: int) -> None: ...
def max_sequences() -> int:
    """LLAMA_MAX_SEQ: upper bound of n_seq_max."""

def n_physical_cores() -> int:
    """Physical cores this process may use (affinity and container quota respected); what n_threads 0 means."""

def json_schema_to_grammar(schema: str) -> str:
    """GBNF of a JSON Schema given as JSON text. Raises GrammarError."""

def set_abort_callback_report(path: str) -> None:
    """Write a last report to this file when ggml aborts the process (read by the runner's supervisor)."""

# --- files ----------------------------------------------------------------------------------------------------------

@final
class GgufFile:
    """Metadata of a GGUF as ggml reads it. Validate untrusted files with donabe.store.gguf first."""

    def __init__(self, path: str) -> None: ...
    def meta(self) -> dict[str, Any]: ...
    def tensors(self) -> list[tuple[str, str, tuple[int, ...], int]]:
        """(name, type name, shape fastest dimension first, offset in the data section) of every tensor."""
    @property
    def version(self) -> int: ...

@final
class QuantizeParams:
    def __init__(
        self,
        *,
        ftype: str,
        n_threads: int = 0,
        output_tensor_type: str | None = None,
        token_embedding_type: str | None = None,
        tensor_types: Sequence[tuple[str, str]] = (),
        allow_requantize: bool = False,
        pure: bool = False,
        quantize_output_tensor: bool = True,
        keep_split: bool = False,
    ) -> None: ...

def quantize(source: str, target: str, params: QuantizeParams) -> None:
    """Blocks for minutes and can't be cancelled: run it in a child process. Progress is in the log lines."""

def ftype_names() -> list[str]: ...

# --- model ----------------------------------------------------------------------------------------------------------

@final
class LoadProgress:
    """Shared with a running load: read `value` (0..1) from any thread, `cancel()` stops the load."""

    def __init__(self) -> None: ...
    @property
    def value(self) -> float: ...
    def cancel(self) -> None: ...

@final
class ModelParams:
    def __init__(
        self,
        *,
        n_gpu_layers: int = -1,
        split_mode: Literal["none", "layer", "row"] = "layer",
        main_gpu: int = 0,
        tensor_split: Sequence[float] = (),
        devices: Sequence[str] | None = None,
        load_mode: Literal["auto", "none", "mmap", "mlock", "mmap_mlock"] = "auto",
        vocab_only: bool = False,
        check_tensors: bool = False,
        use_extra_bufts: bool = True,
        no_alloc: bool = False,
        cpu_tensors: Sequence[str] = (),
        kv_overrides: Mapping[str, int | float | bool | str] | None = None,
    ) -> None:
        """`no_alloc`: read no weights; such a model tells facts and takes part in plan_memory(), nothing else.
        `cpu_tensors`: regular expressions over tensor names that stay in the machine's memory."""

@final
class Adapter:
    @property
    def path(self) -> str: ...

@final
class Model:
    """A loaded model. Const after load except load_adapter (locked)."""

    def __init__(
        self, path: str | Sequence[str], params: ModelParams | None = None, progress: LoadProgress | None = None
    ) -> None: ...
    def close(self) -> None:
        """Drop this handle; memory goes when the last context and vocab handle is gone. Idempotent."""
    @property
    def vocab(self) -> Vocab: ...
    @property
    def description(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def memory_kind(self) -> Literal["dense", "iswa", "recurrent", "hybrid", "hybrid_iswa", "opaque", "none"]: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def n_params(self) -> int: ...
    @property
    def n_ctx_train(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def n_embd_out(self) -> int: ...
    @property
    def n_layer(self) -> int: ...
    @property
    def n_swa(self) -> int:
        """Size of the sliding window, 0 for memory kinds without one."""
    @property
    def n_expert(self) -> int:
        """Experts of a layer, 0 for a model without."""
    @property
    def n_cls_out(self) -> int: ...
    @property
    def has_encoder(self) -> bool: ...
    @property
    def has_decoder(self) -> bool: ...
    @property
    def is_causal(self) -> bool: ...
    @property
    def uses_mrope(self) -> bool: ...
    def meta(self) -> dict[str, str]: ...
    def chat_template(self, name: str | None = None) -> str | None: ...
    def class_labels(self) -> list[str]: ...
    def load_adapter(self, path: str) -> Adapter: ...

@final
class Vocab:
    @property
    def n_tokens(self) -> int: ...
    @property
    def kind(self) -> Literal["none", "spm", "bpe", "wpm", "ugm", "rwkv", "plamo2", "test"]: ...
    @property
    def bos(self) -> int:
        """-1 when the vocabulary has none; likewise the others."""
    @property
    def eos(self) -> int: ...
    @property
    def eot(self) -> int: ...
    @property
    def sep(self) -> int: ...
    @property
    def fim_pre(self) -> int: ...
    @property
    def fim_suf(self) -> int: ...
    @property
    def fim_mid(self) -> int: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def adds_eos(self) -> bool: ...
    def eog_tokens(self) -> frozenset[int]: ...
    def is_control(self, token: int) -> bool: ...
    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False) -> Int32Array:
        """int32 (n,). Raises InvalidArgumentError for more than 2**30 bytes."""
    def tokenize_batch(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = False
    ) -> list[Int32Array]: ...
    def piece(self, token: int, *, special: bool = False) -> bytes: ...
    def detokenize(
        self, tokens: Int32Array, *, remove_special: bool = False, unparse_special: bool = False
    ) -> bytes: ...

# --- context --------------------------------------------------------------------------------------------------------

@final
class ContextParams:
    def __init__(
        self,
        *,
        n_ctx: int = 0,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        n_outputs_max: int = 0,
        n_threads: int = 0,
        n_threads_batch: int = 0,
        poll: int = 50,
        kv_unified: bool = True,
        flash_attention: Literal["auto", "on", "off"] = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        offload_kqv: bool = True,
        op_offload: bool = True,
        swa_full: bool = False,
        embeddings: bool = False,
        pooling: Literal["unspecified", "none", "mean", "cls", "last", "rank"] = "unspecified",
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
    ) -> None:
        """n_ctx 0 = the model's own. n_outputs_max 0 = n_batch. n_threads 0 = physical cores this process may use.
        `embeddings=True` makes every token an output."""

def plan_memory(model: Model, params: ContextParams) -> dict[str, Any]:
    """What a context would take, without allocating it when the model was loaded with no_alloc: uses [(buffer type,
    device name or "", in the machine's own memory, model bytes, context bytes, compute bytes)], attention_bytes,
    window_bytes, state_bytes (parts of the context bytes), output_bytes (beside all that), n_ctx, flash_attention."""

@final
class Context:
    """One KV pool and its compute buffers. Owner: the engine thread."""

    def __init__(self, model: Model, params: ContextParams | None = None) -> None: ...
    def close(self) -> None: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_ctx_seq(self) -> int: ...
    @property
    def n_batch(self) -> int: ...
    @property
    def n_ubatch(self) -> int: ...
    @property
    def n_seq_max(self) -> int: ...
    @property
    def n_outputs_max(self) -> int: ...
    @property
    def flash_attention(self) -> bool: ...
    @property
    def kv_bytes_per_cell(self) -> int: ...
    @property
    def pooling(self) -> Literal["none", "mean", "cls", "last", "rank"]: ...
    @property
    def n_graphs_reused(self) -> int:
        """Graphs of past computations that were the one before with other inputs, instead of being built anew."""
    def decode(self, batch: Batch) -> None:
        """Run the batch. Raises KvFullError (memory unchanged), InvalidBatchError, AbortedError, ComputeError."""
    def encode(self, batch: Batch) -> None:
        """Run the encoder (or a non-causal embedding model)."""
    def decode_and_sample(
        self,
        batch: Batch,
        samplers: SamplerSet,
        *,
        n_steps: int = 1,
        max_s: float = 0.0,
        n_repeat: int = 0,
        histories: Sequence[tuple[int, Int32Array]] = (),
    ) -> StepResult:
        """decode(), then sample every output row of every sequence bound in `samplers`; one GIL release for all.

        With n_steps > 1 (batches of one output row for each of bound sequences) up to so many steps follow each other,
        each with the tokens of the one before. Ends before that after a step in which a sequence finished, max_s
        seconds after the start (0: no such limit), when request_yield() was called, when the KV cache has no room for
        another step, and when one of `histories`, (sequence, its tokens with the batch's one), ends in n_repeat tokens
        that it had before. An error of a later step is raised as one of the first: what was sampled is lost with it.
        """
    def logits_view(self) -> Float32Array:
        """(n_outputs, n_vocab) float32, zero-copy, read-only. decode() raises BusyError while a view is alive."""
    def embeddings(self, seq_ids: Int32Array) -> Float32Array:
        """(len(seq_ids), n_embd_out or n_cls_out) float32 copy of the pooled outputs of the last batch."""
    def token_embeddings(self) -> Float32Array:
        """(n_outputs, n_embd_out) float32 copy; only with pooling none."""
    def set_adapters(self, adapters: Sequence[tuple[Adapter, float]]) -> None: ...
    def set_threads(self, n_threads: int, n_threads_batch: int) -> None: ...
    def set_causal(self, causal: bool) -> None: ...
    def request_abort(self) -> None:
        """May be called from any thread; sticks until clear_abort()."""
    def clear_abort(self) -> None: ...
    def request_yield(self) -> None:
        """decode_and_sample() comes back after the step it is in; any thread; sticks until clear_yield()."""
    def clear_yield(self) -> None: ...
    def memory_breakdown(self) -> list[tuple[str, int, int, int]]:
        """(device or buffer name, model bytes, context bytes, compute bytes)."""
    def warm_up(self) -> None: ...
    def synchronize(self) -> None: ...

@final
class StateBlob:
    """Saved state of one sequence; buffer protocol, read-only. Trust only blobs this process or its HMAC wrote."""

    @staticmethod
    def from_bytes(data: bytes, *, partial: bool, n_tokens: int) -> StateBlob: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def partial(self) -> bool: ...
    @property
    def n_tokens(self) -> int:
        """pos_max + 1 of the sequence when it was saved."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Memory:
    """The KV cache or recurrent state of a context. Raises UnsupportedError on models without memory."""

    @property
    def kind(self) -> str: ...
    @property
    def can_shift(self) -> bool: ...
    def clear(self, data: bool = False) -> None: ...
    def pos_min(self, seq_id: int) -> int: ...
    def pos_max(self, seq_id: int) -> int:
        """-1 when the sequence is empty."""
    def seq_rm(self, seq_id: int, p0: int = -1, p1: int = -1) -> bool:
        """False (nothing changed) when the memory kind can't remove that range."""
    def seq_cp(self, src: int, dst: int, p0: int = -1, p1: int = -1) -> None:
        """Share cells. Refused (UnsupportedError) where llama.cpp would abort or give wrong results; prefer fork()."""
    def seq_keep(self, seq_id: int) -> None: ...
    def seq_add(self, seq_id: int, p0: int, p1: int, delta: int) -> None:
        """Shifts the positions of the cells, so of every sequence that shares them: never on shared cells."""
    def seq_div(self, seq_id: int, p0: int, p1: int, divisor: int) -> None: ...
    def fork(self, src: int, dst: int, n_tokens: int, checkpoint: StateBlob | None = None) -> bool:
        """Make dst (emptied first) equal to the first n_tokens of src, sharing what the memory kind can share.

        False leaves dst empty: the sliding window or recurrent state at n_tokens is gone and no checkpoint taken at
        exactly n_tokens was given. Never returns a fork that would compute wrong logits.
        """
    def get_state(self, seq_id: int, *, partial: bool = False) -> StateBlob:
        """`partial`: only what can't be shared by seq_cp (SWA window, recurrent state)."""
    def set_state(self, seq_id: int, blob: StateBlob) -> None:
        """Replace the sequence. Raises StateError, or KvFullError when its cells don't fit; then it is empty."""

@final
class Batch:
    """Tokens of one step, at most `capacity`; reusable."""

    def __init__(self, capacity: int) -> None: ...
    @property
    def capacity(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...
    def clear(self) -> None: ...
    def add_tokens(
        self, seq_id: int, tokens: Int32Array, pos0: int, outputs: Literal["none", "last", "all"] = "none"
    ) -> None:
        """A contiguous chunk of one sequence. Raises InvalidBatchError when it does not fit or the sequence is in."""
    def add_decode(self, seq_ids: Int32Array, tokens: Int32Array, positions: Int32Array) -> None:
        """One token and one output row for each sequence."""
    def add_draft(self, seq_id: int, tokens: Int32Array, pos0: int) -> None:
        """tokens[0] is the sequence's last sampled token, the rest are drafted; every row is an output.
        decode_and_sample() accepts the longest prefix the sampler agrees with and removes the rest from memory."""

# --- sampling -------------------------------------------------------------------------------------------------------

@final
class GrammarTrigger:
    def __init__(
        self, kind: Literal["token", "word", "pattern", "pattern_full"], value: str, token: int = -1
    ) -> None: ...
    @property
    def kind(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def token(self) -> int: ...

@final
class SamplerParams:
    """Field meanings and "off" values as in donabe.types.SamplingOptions. seed 0..2**32-2, or 2**32-1 = random."""

    def __init__(
        self,
        *,
        seed: int = 0xFFFFFFFF,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.9,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repeat_last_n: int = 64,
        repeat_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        xtc_probability: float = 0.0,
        xtc_threshold: float = 0.1,
        dry_multiplier: float = 0.0,
        dry_base: float = 1.75,
        dry_allowed_length: int = 2,
        dry_penalty_last_n: int = -1,
        dry_sequence_breakers: Sequence[str] = (),
        mirostat: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        logit_bias: Mapping[int, float] | None = None,
        n_logprobs: int = -1,
        grammar: str = "",
        grammar_lazy: bool = False,
        grammar_triggers: Sequence[GrammarTrigger] = (),
        preserved_tokens: Sequence[int] = (),
        grammar_prefill: str = "",
        thinking_start: str = "",
        thinking_ends: Sequence[str] = (),
        thinking_budget: int = -1,
    ) -> None:
        """n_logprobs -1 = none, 0 = of the chosen token only, k = also the k best. Raises InvalidArgumentError."""

@final
class OutputLimits:
    """When a sequence ends. Text of control tokens is not emitted unless they are in SamplerParams.preserved_tokens."""

    def __init__(
        self,
        *,
        max_tokens: int = -1,
        min_tokens: int = 0,
        stop: Sequence[bytes] = (),
        ignore_eos: bool = False,
        n_ctx: int = 0,
    ) -> None: ...

@final
class Sampler:
    """Sampler chain, grammar and random state of one sequence."""

    def __init__(self, model: Model, params: SamplerParams, n_ctx_train: int = 0) -> None:
        """Raises GrammarError when the grammar does not compile."""
    def accept_prompt(self, tokens: Int32Array) -> None:
        """Feed prompt tokens to the penalties (not to the grammar)."""
    def accept(self, token: int) -> None: ...
    def sample(self, logits: Float32Array) -> int:
        """Sample from one row (n_vocab,) without a context; does not accept. For tests and tools."""
    def clone(self) -> Sampler: ...
    def reset(self) -> None: ...
    def set_seed(self, seed: int) -> None: ...

@final
class SamplerSet:
    """The samplers of the running sequences and their output state (stop strings, UTF-8 tail, counters)."""

    def __init__(self, model: Model, n_threads: int = 1) -> None: ...
    def bind(self, seq_id: int, sampler: Sampler, limits: OutputLimits) -> None:
        """Raises InvalidArgumentError when the sequence is bound already."""
    def unbind(self, seq_id: int) -> bytes:
        """Forget the sequence; returns text still held back (incomplete stop-string match or UTF-8)."""
    def export(self, seq_id: int) -> SequenceOutputState:
        """Take sampler and output state out, to bind again after a preemption (also under another seq_id)."""
    def restore(self, seq_id: int, state: SequenceOutputState) -> None: ...
    def bound(self) -> list[int]: ...

@final
class SequenceOutputState:
    """Opaque."""

@final
class StepResult:
    """What one step produced. Row i of seq_ids, counts, finish and text belong together; all are valid forever."""

    @property
    def seq_ids(self) -> Int32Array: ...
    @property
    def counts(self) -> Int32Array:
        """Tokens produced by each sequence (> 1 with accepted drafts)."""
    @property
    def tokens(self) -> Int32Array:
        """All tokens, sequence after sequence. An end-of-generation token is the last one of its sequence."""
    @property
    def finish(self) -> npt.NDArray[np.uint8]:
        """0 running, 1 end of generation, 2 stop string, 3 max_tokens or n_ctx reached, 4 sampling error."""
    @property
    def text(self) -> list[bytes]:
        """New complete UTF-8 text of each sequence, without stop string; at finish everything held back is flushed."""
    @property
    def stop_index(self) -> Int32Array:
        """Index of the stop string that matched, else -1."""
    @property
    def logprobs(self) -> dict[int, list[tuple[int, float, list[tuple[int, float]]]]]:
        """seq_id -> per token (token, logprob, [(token, logprob), ...] best first), for samplers that asked."""
    @property
    def errors(self) -> dict[int, str]: ...
    @property
    def n_drafted(self) -> Int32Array: ...
    @property
    def n_accepted(self) -> Int32Array: ...
    @property
    def n_steps(self) -> int: ...
    @property
    def decode_s(self) -> float:
        """Of all steps, as sample_s."""
    @property
    def sample_s(self) -> float: ...

# --- chat -----------------------------------------------------------------------------------------------------------

@final
class ChatPrompt:
    """A rendered conversation with everything needed to constrain and parse the answer."""

    @property
    def prompt(self) -> str: ...
    @property
    def grammar(self) -> str: ...
    @property
    def grammar_lazy(self) -> bool: ...
    @property
    def grammar_triggers(self) -> list[GrammarTrigger]: ...
    @property
    def grammar_prefill(self) -> str:
        """For SamplerParams.grammar_prefill: generation_prompt, or "" when the grammar is the caller's own."""
    @property
    def preserved_tokens(self) -> list[str]: ...
    def preserved_token_ids(self, vocab: Vocab) -> list[int]:
        """Ids of those preserved_tokens that are a single token of the vocabulary."""
    @property
    def generation_prompt(self) -> str: ...
    @property
    def stops(self) -> list[str]: ...
    @property
    def format(self) -> str: ...
    @property
    def supports_thinking(self) -> bool: ...
    @property
    def thinking_start(self) -> str: ...
    @property
    def thinking_ends(self) -> list[str]: ...
    def message_starts(self, vocab: Vocab, tokens: Int32Array) -> Int32Array:
        """Token indices at which messages begin, where the template's delimiters show; checkpoint candidates."""

@final
class ChatTemplates:
    """A model's parsed Jinja chat template(s). Rendering runs without the GIL and is safe from several threads."""

    def __init__(self, model: Model, template: str | None = None) -> None:
        """Raises TemplateError; sources over 256 KiB or nested deeper than 64 are refused unparsed."""
    @property
    def source(self) -> str: ...
    @property
    def caps(self) -> dict[str, bool]: ...
    @property
    def supports_thinking(self) -> bool: ...
    def apply(self, inputs: str) -> ChatPrompt:
        """`inputs` is JSON: {"messages": [OpenAI form], "tools": [OpenAI form], "tool_choice": "auto|none|required",
        "parallel_tool_calls": bool, "json_schema": object, "grammar": str, "add_generation_prompt": bool,
        "continue_final_message": bool, "enable_thinking": bool, "template_kwargs": {name: json value}, "now": seconds}.
        Raises TemplateError, GrammarError or InvalidArgumentError."""

@final
class ChatParser:
    """Splits an answer into content, thinking and tool calls, incrementally. Not thread-safe."""

    def __init__(self, prompt: ChatPrompt, *, parse_thinking: bool = True, parse_tool_calls: bool = True) -> None: ...
    def feed(self, text: bytes) -> str:
        """Append text; JSON {"content": str, "thinking": str, "tool_calls": [{"index", "id", "name", "arguments"}]}
        with what is new since the last call (tool call arguments as deltas). Reparses all text: call per flush."""
    def finish(self) -> str:
        """Final parse: JSON {"content", "thinking", "tool_calls": [whole], "deltas": {...}, "error": str|null}.
        A text that does not parse is returned whole as content, with the reason in `error`."""
