"""How a load asks for memory: what the pool says between a runner's plan and its load. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from donabe.runner.messages import Plan, Planned
from donabe.types import LoadOptions

AskPlan = Callable[[Plan], Awaitable[Planned]]


class Admission(Protocol):
    """Makes room for one load and says how it is done."""

    async def settle(self, asked: Plan, ask: AskPlan) -> LoadOptions:
        """The options to load with.

        Args:
            asked: The plan of the load as the user wants it, for `ask`.
            ask: Has the runner plan a way to load.

        Raises:
            DonabeError: The load is given up.
        """
