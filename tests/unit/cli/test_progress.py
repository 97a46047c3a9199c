from __future__ import annotations

import io

from donabe.cli.progress import Bar, Progress, Spinner


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_line_has_the_width_of_the_terminal() -> None:
    bar = Bar("pulling dde5aa3fc5ff:", 2019393189, clock=0)
    bar.set(2019393189 // 2, clock=0.5)
    line = bar.line(80, 0)
    assert line.startswith("pulling dde5aa3fc5ff:  50% ▕█████")
    assert "▏ 1.0 GB/2.0 GB" in line
    assert len(line) == 80 - 1


def test_bar_shows_rate_and_time_left() -> None:
    bar = Bar("x", 10_000, clock=0)
    bar.set(2000, clock=1)
    bar.set(4000, clock=2)
    assert bar.rate() == 2000
    assert bar.line(80, 0).endswith("  4 KB/ 10 KB    2 KB/s      3s")


def test_complete_bar_shows_the_total_once() -> None:
    bar = Bar("x", 10_000, clock=0)
    bar.set(10_000, clock=5)
    assert bar.line(60, 0).rstrip().endswith("▏  10 KB")
    assert "100%" in bar.line(60, 0)


def test_spinner_turns_until_stopped() -> None:
    spinner = Spinner("pulling manifest")
    assert spinner.line(80, 0) != spinner.line(80, 1)
    spinner.is_stopped = True
    assert spinner.line(80, 0) == "pulling manifest "


def test_terminal_gets_frames_and_a_last_line() -> None:
    stream = Terminal()
    with Progress(stream) as progress:
        progress.status("pulling manifest")
        progress.bar("k", "pulling x:", 5, 10)
    text = stream.getvalue()
    assert "\x1b[?25l" in text
    assert "pulling manifest" in text
    assert "▕" in text
    assert text.endswith("\x1b[?25h\x1b[?2026l\n")


def test_cleared_progress_leaves_nothing_behind() -> None:
    stream = Terminal()
    progress = Progress(stream).__enter__()
    progress.status("")
    progress.stop(clear=True)
    assert stream.getvalue().endswith("\x1b[2K\x1b[1G\x1b[?25h")


def test_small_terminal_gets_no_negative_bar() -> None:
    bar = Bar("pulling dde5aa3fc5ff:", 100, clock=0)
    bar.set(50, clock=0)
    assert "▕▏" in bar.line(10, 0)
