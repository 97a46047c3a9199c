"""Errors as values: `Failed` from an exception and back, keeping the attributes each error class declares; and which
events end a request.

Used on both sides of the process boundary, so an error reads the same whether the model runs in this process or not.
"""

from __future__ import annotations

import inspect
from typing import Any

from donabe import errors
from donabe.errors import DonabeError, RunnerError
from donabe.types import Event, Failed, Finished

# Constructor arguments that travel besides the message and the hint.
_DATA_FIELDS = (
    "field",
    "n_prompt_tokens",
    "n_ctx",
    "capability",
    "name",
    "path",
    "retry_after_s",
    "exit_reason",
    "log_tail",
    "is_out_of_memory",
    "status_code",
    "setting",
    "source",
)


def failed_from(error: BaseException) -> Failed:
    """The terminal event for this error. Foreign exceptions become RunnerError: they are our bugs, not the caller's."""
    if not isinstance(error, DonabeError):
        return Failed(kind=RunnerError.__name__, message=f"internal error: {type(error).__name__}: {error}")
    data: dict[str, Any] = {}
    for field in _DATA_FIELDS:
        value = getattr(error, field, None)
        if value is not None and value is not False and value not in ("", ()):
            data[field] = list(value) if isinstance(value, tuple) else value
    return Failed(kind=type(error).__name__, message=error.message, hint=error.hint, data=data)


def error_from(failed: Failed) -> DonabeError:
    """The exception this event stands for."""
    cls = getattr(errors, failed.kind, None)
    if not (isinstance(cls, type) and issubclass(cls, DonabeError)):
        return RunnerError(f"{failed.kind}: {failed.message}", hint=failed.hint)
    accepted = inspect.signature(cls).parameters
    data = {key: tuple(v) if isinstance(v, list) else v for key, v in failed.data.items() if key in accepted}
    try:
        return cls(failed.message, hint=failed.hint, **data)
    except TypeError:  # a required attribute is missing: better a plainer class than a hidden cause
        return RunnerError(f"{failed.kind}: {failed.message}", hint=failed.hint)


def is_terminal(event: Event) -> bool:
    """Whether no further event of its request follows."""
    return isinstance(event, Failed) or (isinstance(event, Finished) and event.last)
