"""Loading in this process as the pool does it in another: planned, and made smaller where memory is short and the user
left it open.
"""

from __future__ import annotations

import gc
import logging
import traceback

from donabe.errors import LoadError, NativeError
from donabe.runner.load import Loaded, ReportProgress, load_model
from donabe.runner.memory_plan import Planner
from donabe.runner.out_of_memory import require_memory
from donabe.runner.plans import MemoryPlan
from donabe.runner.smaller import AS_ASKED, Smaller, next_smaller
from donabe.types import LoadOptions, ModelSpec

logger = logging.getLogger("donabe.runner")


def load_fitting(spec: ModelSpec, options: LoadOptions, report: ReportProgress | None = None) -> Loaded:
    """`load_model`, smaller where it does not fit; a loud line tells what was given up.

    Raises:
        As `load_model`; where memory ran out, the error of the first attempt.
    """
    planner = Planner(spec, options)
    smaller = _planned_way(planner)
    first_error: LoadError | None = None
    while True:
        try:
            return load_model(spec, smaller.apply(options), report)
        except LoadError as error:
            if first_error is None:
                first_error = error
            step = _step_down(planner, smaller) if error.is_out_of_memory else None
            if step is None:
                raise first_error from None
            traceback.clear_frames(error.__traceback__)  # they hold what was loaded
        gc.collect()
        smaller = step


def _planned_way(planner: Planner) -> Smaller:
    """What has to be given up by the plan. What can't be planned is left to the load."""
    if planner.has_plenty:
        return AS_ASKED
    try:
        smaller, plan = planner.fit(planner.plan())
    except (NativeError, MemoryError) as error:
        logger.info("%s can't be planned: %s", planner.name, error)
        return AS_ASKED
    require_memory(planner.name, plan)
    _warn(planner.name, smaller, plan)
    return smaller


def _step_down(planner: Planner, smaller: Smaller) -> Smaller | None:
    try:
        plan = planner.plan(smaller)
    except (NativeError, MemoryError):
        return None
    step = next_smaller(planner.asked, smaller, plan, has_failed=True)
    if step is not None:
        _warn(planner.name, step, plan)
    return step


def _warn(name: str, smaller: Smaller, plan: MemoryPlan) -> None:
    if given_up := smaller.describe(plan):
        logger.warning("not enough memory for %s: %s", name, given_up)
