"""How much one caller may do: requests and output tokens per minute, and requests at once. Sliding windows, per key or,
without keys, per address.

Tokens are charged as they come, so an answer that is given up counts as far as it got, and answers that run at once see
each other's tokens. Nobody knows beforehand how long an answer will be: callers pass the token limit by what their
running answers still produce, which `max_concurrent` bounds.

The table of callers is bounded. When it is full, those that did nothing for a minute are forgotten, or else one whose
limits hold back least: he has used no tokens of the minute, then no requests, then was quiet longest. Callers with
running requests never are.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from donabe.server.errors import TooManyRequestsError

WINDOW_S = 60.0
MAX_CALLERS = 10_000
GRAIN_S = 1.0  # tokens of this time are one entry of a window


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one caller; 0 is no bound."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0


@dataclass
class _Usage:
    requests: deque[float] = field(default_factory=deque)
    tokens: deque[tuple[float, int]] = field(default_factory=deque)
    n_tokens: int = 0
    n_running: int = 0
    seen_at: float = 0.0

    def held_back_by(self, since: float) -> tuple[bool, bool]:
        """Whether tokens, and whether requests of this time count: to forget them lets the caller begin anew."""
        return bool(self.tokens) and self.tokens[-1][0] > since, bool(self.requests) and self.requests[-1] > since


class CallerLimits:
    """Counts what every caller does.

    Args:
        max_callers: How many are remembered.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_callers: int = MAX_CALLERS) -> None:
        self._clock = clock
        self._max_callers = max_callers
        self._usage: OrderedDict[str, _Usage] = OrderedDict()  # the one that did nothing for longest first

    def __len__(self) -> int:
        return len(self._usage)

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
        if limits.requests_per_minute:
            usage.requests.append(now)
        usage.n_running += 1

    def end(self, caller: str) -> None:
        if caller in self._usage:
            self._usage[caller].n_running -= 1

    def charge(self, caller: str, n_tokens: int) -> None:
        """Count output tokens of a running request."""
        if n_tokens <= 0:
            return
        usage, now = self._current(caller), self._clock()
        if usage.tokens and now - usage.tokens[-1][0] < GRAIN_S:
            began, n_before = usage.tokens.pop()
            usage.tokens.append((began, n_before + n_tokens))
        else:
            usage.tokens.append((now, n_tokens))
        usage.n_tokens += n_tokens

    def _current(self, caller: str) -> _Usage:
        """The caller's usage without what is older than the window."""
        now = self._clock()
        usage = self._usage.get(caller)
        if usage is None:
            self._make_room(now - WINDOW_S)
            usage = self._usage[caller] = _Usage()
        self._usage.move_to_end(caller)
        usage.seen_at = now
        while usage.requests and usage.requests[0] <= now - WINDOW_S:
            usage.requests.popleft()
        while usage.tokens and usage.tokens[0][0] <= now - WINDOW_S:
            usage.n_tokens -= usage.tokens.popleft()[1]
        return usage

    def _make_room(self, since: float) -> None:
        """Room for one more.

        Raises:
            TooManyRequestsError: All callers have running requests.
        """
        if len(self._usage) < self._max_callers:
            return
        idle = {caller: usage for caller, usage in self._usage.items() if not usage.n_running}
        if not idle:
            raise TooManyRequestsError("too many callers at once", retry_after_s=1.0)
        forgotten = [caller for caller, usage in idle.items() if usage.seen_at <= since]
        if not forgotten:  # the first of the least: the one that was quiet longest
            forgotten = [min(idle, key=lambda caller: idle[caller].held_back_by(since))]
        for caller in forgotten:
            del self._usage[caller]
