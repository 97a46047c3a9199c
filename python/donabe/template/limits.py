"""Bounds of one template: how large, how deep, how long. A render that passes them fails alone, with a TemplateError.

Templates come from model files and requests, so they are untrusted programs. `Budget` is the running account of one
render; it belongs to one thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from donabe.errors import TemplateError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one parse or render may use.

    `max_depth` bounds nesting in the source (blocks and parentheses together), `max_exec_depth` nesting while rendering
    (blocks inside called templates count on). `max_work_chars` bounds all text made on the way to the output.
    """

    max_source_chars: int = 256 * 1024
    max_depth: int = 64
    max_exec_depth: int = 100
    max_output_chars: int = 32 * 1024 * 1024
    max_work_chars: int = 96 * 1024 * 1024
    max_steps: int = 5_000_000
    max_time_s: float = 10.0


DEFAULT_LIMITS = Limits()

_CLOCK_EVERY = 1024  # steps between two looks at the clock


class Budget:
    """What is left of the limits during one render."""

    __slots__ = ("_deadline", "_limits", "_n_out", "_n_steps", "_n_work")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._n_steps = 0
        self._n_out = 0
        self._n_work = 0
        self._deadline = time.monotonic() + limits.max_time_s

    def step(self) -> None:
        """Count one evaluated node or loop round."""
        self._n_steps += 1
        if self._n_steps > self._limits.max_steps:
            raise TemplateError(
                f"template takes more than {self._limits.max_steps} steps", hint="shorten the conversation or its loops"
            )
        if self._n_steps % _CLOCK_EVERY == 0 and time.monotonic() > self._deadline:
            raise TemplateError(f"template runs longer than {self._limits.max_time_s:g} s")

    def output(self, n_chars: int) -> None:
        """Count text that goes to the output."""
        self._n_out += n_chars
        if self._n_out > self._limits.max_output_chars:
            raise TemplateError(f"template output is longer than {self._limits.max_output_chars} characters")

    def work(self, n_chars: int) -> None:
        """Count text made by a function; call before making it where the size is known."""
        self._n_work += n_chars
        if self._n_work > self._limits.max_work_chars:
            raise TemplateError(f"template builds more than {self._limits.max_work_chars} characters of text")

    @property
    def max_exec_depth(self) -> int:
        return self._limits.max_exec_depth
