"""Every error donabe raises, in one tree. Pure data: knows nothing of HTTP, exit codes or the native module.

The native module maps its C++ error codes to the classes under `NativeError` by name (csrc/base/errors.h), so a class
here and a code there come and go together (tests/native/test_module.py). HTTP statuses and exit codes are tables in
`donabe.server.errors` and `donabe.cli.errors`, looked up by MRO.

    DonabeError
    ├── NativeError               raised by the extension; carries the native log tail
    │   ├── LoadError             a model, adapter or projector could not be loaded
    │   ├── InvalidBatchError     (ValueError) a batch that llama.cpp would reject or abort on
    │   ├── InvalidArgumentError  (ValueError) any other argument out of range for the native side
    │   ├── KvFullError           no room in the KV cache for the batch
    │   ├── AbortedError          the computation was aborted on request
    │   ├── ComputeError          the backend failed while computing
    │   ├── StateError            a state blob that does not fit this context
    │   ├── GrammarError          a grammar or JSON schema that does not compile
    │   ├── TemplateError         a chat template that does not parse or render
    │   ├── UnsupportedError      this model or context can't do that
    │   ├── ClosedError           the object was used after close()
    │   └── BusyError             another thread is inside this context
    ├── RequestError              this request can't be served as it is; nothing else is affected
    │   ├── InvalidRequestError   a field is missing, of the wrong type or out of range
    │   ├── InvalidNameError      not a model name
    │   ├── ContextLengthError    the prompt is longer than the context
    │   ├── CapabilityError       the model can't do what was asked (tools, vision, thinking, embedding, ...)
    │   ├── ModelNotFoundError    no such model here (or, for a pull, there)
    │   ├── RemoteModelError      the name asks for a model that a hosted service runs
    │   └── CancelledError        the request was cancelled by its caller
    ├── ModelFileError            a file is not a usable model
    ├── StoreError                the model store can't be read or written
    │   └── DiskFullError
    ├── SourceError               a model source (registry, package index, URL) failed
    │   ├── SourceUnreachableError
    │   ├── SourceAuthError
    │   └── VerificationError     what arrived is not what was announced
    ├── ServerBusyError           a queue is full; retry later
    ├── RunnerError               a model's process failed
    │   ├── RunnerStartError
    │   └── RunnerDiedError
    ├── ServerUnavailableError    (client) no server answers at the address
    ├── ResponseError             (client) the server answered with an error
    └── SettingsError             a setting has a bad value
"""

from __future__ import annotations


class DonabeError(Exception):
    """Base of every error donabe raises.

    Attributes:
        hint: What the caller can do about it, or None.
        is_out_of_memory: Memory was short; the same in a smaller way may work.
    """

    is_out_of_memory = False

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""


class NativeError(DonabeError):
    """Raised by the extension module.

    Attributes:
        log_tail: The last warning and error lines the native code logged on this thread, oldest first.
    """

    def __init__(self, message: str = "", *, hint: str | None = None, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail


class LoadError(NativeError):
    """A model, adapter or projector file could not be loaded."""

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        log_tail: tuple[str, ...] = (),
        is_out_of_memory: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, log_tail=log_tail)
        self.is_out_of_memory = is_out_of_memory


class InvalidBatchError(NativeError, ValueError):
    """The batch breaks a rule that llama.cpp would abort or fail on; memory is untouched."""


class InvalidArgumentError(NativeError, ValueError):
    """A native call got an argument outside its range."""


class KvFullError(NativeError):
    """The KV cache has no room for the batch; memory is untouched."""


class AbortedError(NativeError):
    """The computation was aborted by request_abort(). Sequences of the batch that had recurrent state are gone."""


class ComputeError(NativeError):
    """The backend failed while computing. Treat the context as broken."""


class StateError(NativeError):
    """A state blob is truncated, or belongs to another model or context layout."""


class GrammarError(NativeError):
    """A grammar or JSON schema does not compile."""


class TemplateError(NativeError):
    """A chat template does not parse, or failed to render these messages."""


class UnsupportedError(NativeError):
    """This model or context has no such ability (for example K-shift on M-RoPE)."""


class ClosedError(NativeError):
    """The native object was used after close()."""


class BusyError(NativeError):
    """Another thread has been inside this context for more than a second."""


class RequestError(DonabeError):
    """This request can't be served as it is; the runner and other requests are unaffected."""


class InvalidRequestError(RequestError, ValueError):
    """A request field is missing, of the wrong type or out of range.

    Attributes:
        field: Dotted path of the field, as the caller wrote it (`options.num_ctx`), or None.
    """

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class InvalidNameError(RequestError, ValueError):
    """The text is not a model name."""


class ContextLengthError(RequestError):
    """The prompt does not fit the context.

    Attributes:
        n_prompt_tokens: Length of the prompt.
        n_ctx: Tokens the context can hold for one request.
    """

    def __init__(self, message: str, *, n_prompt_tokens: int, n_ctx: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.n_prompt_tokens = n_prompt_tokens
        self.n_ctx = n_ctx


class CapabilityError(RequestError):
    """The model lacks a capability the request needs.

    Attributes:
        capability: One of `donabe.types.Capability`.
    """

    def __init__(self, message: str, *, capability: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.capability = capability


class ModelNotFoundError(RequestError):
    """No model of that name.

    Attributes:
        name: The name as asked for.
    """

    def __init__(self, message: str, *, name: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.name = name


class RemoteModelError(RequestError):
    """The name asks for a model that runs on a hosted service; donabe runs local models only."""


class CancelledError(RequestError):
    """The request was cancelled by its caller before it finished."""


class ModelFileError(DonabeError):
    """A file is not a usable model (missing, truncated, not GGUF, malformed).

    Attributes:
        path: File name without its folder, safe to show to a remote caller.
    """

    def __init__(self, message: str, *, path: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class StoreError(DonabeError):
    """The model store can't be read or written."""


class DiskFullError(StoreError):
    """The disk that holds the store is full."""


class SourceError(DonabeError):
    """A model source (registry, package index, file) failed."""


class SourceUnreachableError(SourceError):
    """The source's host does not answer."""


class SourceAuthError(SourceError):
    """The source wants credentials, or refuses the ones given."""


class VerificationError(SourceError):
    """A downloaded file's digest or size is not the announced one."""


class ServerBusyError(DonabeError):
    """A bounded queue is full.

    Attributes:
        retry_after_s: Seconds after which a retry is worth it.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class RunnerError(DonabeError):
    """A model's runner process failed.

    Attributes:
        exit_reason: How the process ended (`exit 1`, `signal 9 (SIGKILL)`, `deadline`), or "".
        log_tail: Last native log lines, oldest first.
    """

    def __init__(
        self, message: str, *, exit_reason: str = "", log_tail: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_reason = exit_reason
        self.log_tail = log_tail


class RunnerStartError(RunnerError):
    """The runner process did not come up, or the model did not load in it."""

    def __init__(
        self,
        message: str,
        *,
        exit_reason: str = "",
        log_tail: tuple[str, ...] = (),
        hint: str | None = None,
        is_out_of_memory: bool = False,
    ) -> None:
        super().__init__(message, exit_reason=exit_reason, log_tail=log_tail, hint=hint)
        self.is_out_of_memory = is_out_of_memory


class RunnerDiedError(RunnerError):
    """The runner process ended while it had work."""


class ServerUnavailableError(DonabeError):
    """No donabe server answers at the address."""


class ResponseError(DonabeError):
    """The server answered with an error.

    Attributes:
        status_code: HTTP status, or 200 for an error inside a stream.
    """

    def __init__(self, message: str, *, status_code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status_code = status_code


class SettingsError(DonabeError, ValueError):
    """A setting has a bad value.

    Attributes:
        setting: Its name.
        source: Where the value came from (`environment DONABE_PORT`, `config file`, `flag --port`).
    """

    def __init__(self, message: str, *, setting: str, source: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.setting = setting
        self.source = source
