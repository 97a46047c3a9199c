"""One load's way into memory, over all its attempts: what is unloaded for it, and what it gives up itself.

As planned first: idle models on the devices where memory is short go, the least recently used first, then automatic
values shrink. Plans are not exact, and other programs take memory too: where a load runs out of it all the same, every
idle model goes, then each attempt is a step smaller than the one before. A number of the user's never changes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

import msgspec

from donabe.errors import DonabeError
from donabe.runner.admission import AskPlan
from donabe.runner.messages import Plan
from donabe.runner.out_of_memory import require_memory
from donabe.runner.plans import MemoryPlan
from donabe.runner.smaller import Smaller, next_smaller
from donabe.types import LoadOptions

logger = logging.getLogger(__name__)

# Unloads the idle model used longest ago that is on one of these devices, or every idle one; whether there was any.
Evict = Callable[[Collection[str] | None], Awaitable[bool]]


class LoadAdmission:
    """Implements `donabe.runner.admission.Admission`."""

    def __init__(self, name: str, evict: Evict) -> None:
        self._name = name
        self._evict = evict
        self._smaller = Smaller()
        self._plan: MemoryPlan | None = None  # of the way tried last
        self._was_asked = False
        self._must_shrink = False
        self._can_shrink = True
        self._is_hopeless = False
        self._first_error: DonabeError | None = None

    @property
    def note(self) -> str:
        """What was given up, for those who use the model; "" is nothing."""
        given_up = self._smaller.describe(self._plan)
        if given_up:
            return f"not enough memory for {self._name}: {given_up}"
        missing = self._plan.missing_bytes() if self._plan is not None else {}
        lacks = ", ".join(f"{n_bytes // 1_000_000} MB of {_memory(device)}" for device, n_bytes in missing.items())
        return f"not enough memory for {self._name}: it lacks {lacks}" if lacks else ""

    async def settle(self, asked: Plan, ask: AskPlan) -> LoadOptions:
        self._was_asked = True
        try:
            if self._first_error is None:
                await self._settle_first(asked, ask)
            elif self._must_shrink:
                await self._settle_smaller(asked, ask)
        except DonabeError:  # what can't be planned can't be made smaller
            self._can_shrink = False
            raise
        return self._smaller.apply(asked.options)

    async def goes_on(self, error: DonabeError) -> bool:
        """Whether another attempt is worth it after this error; if not, `first_error` is the load's."""
        is_first = self._first_error is None
        self._first_error = self._first_error or error
        if not error.is_out_of_memory or not self._was_asked or self._is_hopeless:
            return False
        logger.warning("%s ran out of memory while loading: %s", self._name, error)
        self._must_shrink = not (is_first and await self._evict(None))
        return self._can_shrink or not self._must_shrink

    @property
    def first_error(self) -> DonabeError:
        assert self._first_error is not None  # goes_on was called
        return self._first_error

    async def _settle_first(self, asked: Plan, ask: AskPlan) -> None:
        planned = await ask(msgspec.structs.replace(asked, is_quick=True))
        while planned.plan is not None and (missing := planned.plan.missing_bytes()):
            if not await self._evict(missing.keys()):
                planned = await ask(msgspec.structs.replace(asked, may_shrink=True))
                break
            planned = await ask(asked)
        self._smaller, self._plan = planned.smaller, planned.plan
        if self._plan is not None:
            self._is_hopeless = self._plan.exceeds_memory
            require_memory(self._name, self._plan)
        if self.note:
            logger.warning("%s", self.note)

    async def _settle_smaller(self, asked: Plan, ask: AskPlan) -> None:
        planned = await ask(msgspec.structs.replace(asked, smaller=self._smaller))
        step = None
        if planned.plan is not None:
            step = next_smaller(asked.options, self._smaller, planned.plan, has_failed=True)
        if step is None:
            self._is_hopeless = True
            raise self.first_error
        self._smaller, self._plan = step, planned.plan
        logger.warning("%s", self.note)


def _memory(device: str) -> str:
    return "main memory" if device == "CPU" else device
