"""How much one caller may do: requests and output tokens per minute, and requests at once. Sliding windows, per key or,
without keys, per address. Callers that did nothing for a minute are forgotten.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from donabe.server.errors import TooManyRequestsError

WINDOW_S = 60.0
MAX_CALLERS = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one caller; 0 is no bound."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0

    @property
    def is_unlimited(self) -> bool:
        return not (self.requests_per_minute or self.tokens_per_minute or self.max_concurrent)


@dataclass
class _Usage:
    requests: deque[float] = field(default_factory=deque)
    tokens: deque[tuple[float, int]] = field(default_factory=deque)
    n_tokens: int = 0
    n_running: int = 0


class CallerLimits:
    """Counts what every caller does."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    def begin(self, caller: str, limits: Limits) -> None:
        """Count a request that begins; call `end` when it has ended.

        Raises:
            TooManyRequestsError: A limit is reached; nothing was counted.
        """
        usage, now = self._current(caller), self._clock()
        if limits.max_concurrent and usage.n_running >= limits.max_concurrent:
            raise TooManyRequestsError(f"only {limits.max_concurrent} requests at once are allowed", retry_after_s=1.0)
        if limits.requests_per_minute and len(usage.requests) >= limits.requests_per_minute:
            raise TooManyRequestsError(
                f"the limit of {limits.requests_per_minute} requests per minute is reached",
                retry_after_s=usage.requests[0] + WINDOW_S - now,
            )
        if limits.tokens_per_minute and usage.n_tokens >= limits.tokens_per_minute:
            raise TooManyRequestsError(
                f"the limit of {limits.tokens_per_minute} output tokens per minute is reached",
                retry_after_s=usage.tokens[0][0] + WINDOW_S - now,
            )
        usage.requests.append(now)
        usage.n_running += 1

    def end(self, caller: str) -> None:
        if caller in self._usage:
            self._usage[caller].n_running -= 1

    def charge(self, caller: str, n_tokens: int) -> None:
        """Count output tokens."""
        if n_tokens > 0:
            usage = self._current(caller)
            usage.tokens.append((self._clock(), n_tokens))
            usage.n_tokens += n_tokens

    def _current(self, caller: str) -> _Usage:
        """The caller's usage without what is older than the window."""
        since = self._clock() - WINDOW_S
        if caller not in self._usage and len(self._usage) >= MAX_CALLERS:
            self._forget_idle(since)
        usage = self._usage.setdefault(caller, _Usage())
        while usage.requests and usage.requests[0] <= since:
            usage.requests.popleft()
        while usage.tokens and usage.tokens[0][0] <= since:
            usage.n_tokens -= usage.tokens.popleft()[1]
        return usage

    def _forget_idle(self, since: float) -> None:
        idle = [
            caller
            for caller, usage in self._usage.items()
            if not usage.n_running and (not usage.requests or usage.requests[-1] <= since)
        ]
        for caller in idle:
            del self._usage[caller]
