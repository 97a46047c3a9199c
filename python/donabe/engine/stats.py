"""Counters of one engine, and the snapshot other threads read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Only grow. Written by the engine thread; any thread may read single numbers."""

    n_steps: int = 0
    n_prompt_tokens: int = 0  # evaluated, so without those from the prefix cache
    n_cached_tokens: int = 0
    n_output_tokens: int = 0
    n_draft_tokens: int = 0
    n_draft_accepted: int = 0
    step_s: float = 0.0
    python_s: float = 0.0  # of step_s, outside the native call
