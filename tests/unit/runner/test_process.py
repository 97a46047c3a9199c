"""What the parent makes of a child's output."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from donabe.runner.log_format import ChildLines, parse_line
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
    assert list(child.output_tail) == ["donabe.devices: running on the CPU", "GGML_ASSERT(false) failed"]


FAILURE = """
import logging, sys
from donabe.runner.log_format import ChildLines
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(ChildLines())
logging.basicConfig(handlers=[handler])
try:
    raise ValueError("no")
except ValueError:
    logging.getLogger("donabe.runner").exception("preparing failed", extra={"request_id": "req_7"})
"""


async def test_every_line_about_a_request_carries_its_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="donabe.runner"):
        child = await ChildProcess.spawn((sys.executable, "-c", FAILURE))
        await asyncio.wait_for(child._output_task, 60)
        await child.dispose()
    assert {(record.levelname, vars(record)["request_id"]) for record in caplog.records} == {("ERROR", "req_7")}
    told = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert told[0] == "donabe.runner: preparing failed"
    assert told[-1] == child.output_tail[-1] == "ValueError: no"


@pytest.mark.parametrize(
    ("id", "expected"), [("req_7", "req_7"), ("a.b:c-d", "a.b:c-d"), ("", ""), ("two words", ""), ("x] y", "")]
)
def test_only_plain_ids_cross(id: str, expected: str) -> None:
    made = logging.LogRecord("donabe.x", logging.WARNING, "x.py", 1, "[odd] text\nmore", None, None)
    made.request_id = id
    lines = [parse_line(line) for line in ChildLines().format(made).split("\n")]
    assert lines == [(logging.WARNING, expected, "donabe.x: [odd] text"), (logging.WARNING, expected, "more")]


@pytest.mark.parametrize("line", ["ggml: ERROR said", "ERRORS: 3", "", "[req_7] x"])
def test_what_native_code_prints_has_no_level(line: str) -> None:
    assert parse_line(line) == (None, "", line)
