"""Progress on stderr: spinners for statuses, bars for downloads. On a terminal a thread redraws them; elsewhere each
status, and each tenth of a bar, is one plain line.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterable
from typing import TextIO

from typing_extensions import Self

from donabe.cli.text import format_bytes
from donabe.types import JsonObject

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TICK_S = 0.1
_MAX_BUCKETS = 10


class Spinner:
    """A status line; it turns until the next one comes."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.is_stopped = False

    def line(self, _width: int, tick: int) -> str:
        text = f"{self.message} " if self.message else ""
        return text if self.is_stopped else f"{text}{_FRAMES[tick % len(_FRAMES)]} "


class Bar:
    """A download: percentage, bar, amounts, rate and time left."""

    def __init__(self, message: str, total: int, clock: float | None = None) -> None:
        self.message = message
        self.total = total
        self.completed = 0
        self._buckets: list[tuple[float, int]] = []
        self._last_tenth = -1
        self.set(0, clock)

    @property
    def is_complete(self) -> bool:
        return self.completed >= self.total

    @property
    def percent(self) -> int:
        return 100 if self.is_complete else min(round(self.completed * 100 / self.total), 99)

    def set(self, completed: int, clock: float | None = None) -> None:
        self.completed = min(completed, self.total)
        now = time.monotonic() if clock is None else clock
        if not self._buckets or now - self._buckets[-1][0] >= 1 or self.is_complete:
            self._buckets = [*self._buckets[1 - _MAX_BUCKETS :], (now, self.completed)]

    def rate(self) -> float:
        """Bytes per second over the last buckets; 0 while unknown."""
        (first_s, first), (last_s, last) = self._buckets[0], self._buckets[-1]
        elapsed = int(last_s - first_s)
        return (last - first) / elapsed if elapsed else 0.0

    def new_tenth(self) -> bool:
        """Whether the bar passed a tenth since the last call."""
        tenth = self.percent // 10
        is_new, self._last_tenth = tenth > self._last_tenth, tenth
        return is_new

    def line(self, width: int, _tick: int) -> str:
        prefix = f"{self.message} {self.percent:3d}%"
        suffix = self._suffix()
        room = max(width - len(prefix) - len(suffix) - 5, 0)
        filled = room * self.completed // self.total if self.total else room
        return f"{prefix} ▕{'█' * filled}{' ' * (room - filled)}▏ {suffix}"

    def _suffix(self) -> str:
        total = f"{format_bytes(self.total):>6}"
        amounts = f"{total}       " if self.is_complete else f"{format_bytes(self.completed):>6}/{total}"
        rate = 0.0 if self.is_complete else self.rate()
        if rate <= 0:
            return amounts + " " * 18
        left = _time_left((self.total - self.completed) / rate)
        return f"{amounts}  {format_bytes(int(rate)):>6}/s  {left:>6}"


def _time_left(seconds: float) -> str:
    whole = round(seconds)
    if whole >= 100 * 3600:
        return "99h+"
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"


class Progress:
    """The lines in progress. Use as a context manager; leaving it draws them a last time."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._items: dict[str, Spinner | Bar] = {}
        self._n_drawn = 0
        self._tick = 0
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._is_terminal:
            self._thread = threading.Thread(target=self._redraw, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def status(self, message: str) -> None:
        """Show a status; the one before stops turning."""
        with self._lock:
            spinners = [item for item in self._items.values() if isinstance(item, Spinner)]
            if spinners and spinners[-1].message == message and not spinners[-1].is_stopped:
                return
            for item in spinners:
                item.is_stopped = True
            self._items[f"status {len(self._items)}"] = Spinner(message)
        if message:
            self._plain(message)

    def bar(self, key: str, label: str, completed: int, total: int) -> None:
        """Show or move the bar of `key`."""
        with self._lock:
            item = self._items.get(key)
            if not isinstance(item, Bar):
                if completed == 0:
                    return  # nothing of it yet
                for other in self._items.values():
                    if isinstance(other, Spinner):
                        other.is_stopped = True
                item = self._items[key] = Bar(label, total)
            item.set(completed)
            is_new = item.new_tenth()
        if is_new:
            self._plain(f"{label} {item.percent:3d}% {format_bytes(item.completed)}/{format_bytes(item.total)}")

    def stop(self, *, clear: bool = False) -> None:
        """Draw a last time, or remove everything with `clear`; idempotent."""
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        self._thread = None
        if clear:
            up = "\x1b[A\x1b[2K" * max(self._n_drawn - 1, 0)
            self._write("\x1b[2K" + up + "\x1b[1G\x1b[?25h")
            return
        for item in self._items.values():
            if isinstance(item, Spinner):
                item.is_stopped = True
        self._draw()
        self._write("\n" if self._n_drawn else "")

    def _plain(self, line: str) -> None:
        if not self._is_terminal:
            self._write(line + "\n")

    def _redraw(self) -> None:
        while not self._done.wait(_TICK_S):
            self._tick += 1
            self._draw()

    def _draw(self) -> None:
        size = shutil.get_terminal_size((80, 24))
        with self._lock:
            lines = [item.line(size.columns, self._tick) for item in self._items.values()][-size.lines :]
        back = "\x1b[A" * max(self._n_drawn - 1, 0)
        body = "\x1b[K\n".join(lines) + "\x1b[K" if lines else ""
        # The cursor rests in column 1: a typed ^C at the end of a full line would scroll the frame.
        self._write(f"\x1b[?2026h\x1b[?25l{back}\x1b[1G{body}\x1b[1G\x1b[?25h\x1b[?2026l")
        self._n_drawn = len(lines)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def show_progress(events: Iterable[JsonObject], stream: TextIO | None = None) -> None:
    """Show the events of a pull (or push, create) until they end; errors in the stream are raised by it."""
    with Progress(stream) as progress:
        show_events(events, progress)


def show_events(events: Iterable[JsonObject], progress: Progress) -> None:
    """Add events to lines that are shown already."""
    for event in events:
        total, status = event.get("total") or 0, str(event.get("status", ""))
        if total:
            key, label = _bar_name(status, str(event.get("digest") or ""))
            progress.bar(key, label, int(event.get("completed") or 0), int(total))
        else:
            progress.status(status)


def _bar_name(status: str, digest: str) -> tuple[str, str]:
    short = digest.removeprefix("sha256:")[:12]
    if status.startswith("pulling") and short:
        return digest, f"pulling {short}:"
    return f"{status} {digest}", status
