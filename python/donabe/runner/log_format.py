"""Log lines between a runner's process and the server: `LEVEL [request id] text`, every line of a traceback too.

The child writes them to its standard error with `ChildLines`. The parent reads them with `parse_line`, which tells them
from what native code prints there.
"""

from __future__ import annotations

import logging
import re

LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_SAFE_ID = r"[A-Za-z0-9._:-]{1,128}"
_LINE = re.compile(rf"({'|'.join(LEVELS)}) (?:\[({_SAFE_ID})\] )?(.*)", re.DOTALL)


class ChildLines(logging.Formatter):
    """Puts level and id in front of every line of a record. The id is the record's `request_id`, if it has one."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        id = str(getattr(record, "request_id", ""))
        start = f"{record.levelname} [{id}]" if re.fullmatch(_SAFE_ID, id) else record.levelname
        return "\n".join(f"{start} {line}" for line in super().format(record).split("\n"))


def parse_line(line: str) -> tuple[int | None, str, str]:
    """(level, request id, text) of a line; the level is None where no logger wrote it, the id "" where it has none."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None, "", line
    return LEVELS[found[1]], found[2] or "", found[3]
