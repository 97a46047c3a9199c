"""What the parent makes of a child's output."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from donabe.runner.process import ChildProcess

LINES = """
import sys
for line in ("INFO donabe.x: quiet", "WARNING donabe.devices: running on the CPU", "GGML_ASSERT(false) failed"):
    print(line, file=sys.stderr)
"""


async def test_lines_of_a_child_are_as_loud_as_it_meant_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="donabe.runner"):
        child = await ChildProcess.spawn((sys.executable, "-c", LINES))
        await asyncio.wait_for(child._output_task, 60)
        await child.dispose()
    told = [(record.levelname, record.getMessage().partition(": ")[2]) for record in caplog.records]
    assert told == [
        ("INFO", "donabe.x: quiet"),
        ("WARNING", "donabe.devices: running on the CPU"),
        ("INFO", "GGML_ASSERT(false) failed"),
    ]
    assert list(child.output_tail) == ["WARNING donabe.devices: running on the CPU", "GGML_ASSERT(false) failed"]
