"""How numbers, times and tables look in the terminal. Pure functions; the formats are those Ollama's users know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from donabe.setting_values import parse_duration

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
_GAP = "    "


def format_bytes(n_bytes: int) -> str:
    """Decimal size: `2.0 GB`, `522 MB`, `4 GB`, `384 B`."""
    for unit, factor in _UNITS:
        if n_bytes >= factor:
            value = n_bytes / factor
            if value >= 10 or n_bytes % factor == 0:
                return f"{int(value)} {unit}"
            return f"{value:.1f} {unit}"
    return f"{n_bytes} B"


def format_count(count: float) -> str:
    """Parameter count: `7B`, `3.2B`, `134.52M`, `12K`."""
    if count >= 1e9:
        return f"{count / 1e9:.0f}B" if count % 1e9 == 0 else f"{count / 1e9:.1f}B"
    if count >= 1e6:
        return f"{count / 1e6:.0f}M" if count % 1e6 == 0 else f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.0f}K" if count >= 1e3 else f"{count:.0f}"


def parse_timestamp(text: str) -> datetime | None:
    """An RFC 3339 time of the API (up to nanoseconds), or None if it is none."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    seconds, fraction, zone = match.groups()
    moment = datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone))
    return moment + timedelta(seconds=float(fraction or 0))


def format_relative(moment: datetime | None, now: datetime | None = None) -> str:
    """`5 hours ago`, `4 minutes from now`, `Never`, `Forever`."""
    if moment is None or moment.year <= 1:
        return "Never"
    seconds = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    if seconds > 20 * 365 * 86400:
        return "Forever"
    return f"{_span(abs(seconds))} {'from now' if seconds > 0 else 'ago'}"


def _span(seconds: float) -> str:
    whole, minutes, hours = int(seconds), int(seconds // 60), int(seconds / 3600 + 0.5)
    steps = (
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 14 * 24, f"{hours // 24} days"),
        (hours < 60 * 24, f"{hours // (24 * 7)} weeks"),
        (hours < 2 * 365 * 24, f"{hours // (24 * 30)} months"),
    )
    return next((text for applies, text in steps if applies), f"{hours // (24 * 365)} years")


def format_duration(nanoseconds: int) -> str:
    """`4.648158584s`, `325.953ms`, `1m30s`, `0s`."""
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 10**9:
        for unit, factor in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if rest >= factor:
                return f"{sign}{_decimal(rest, factor)}{unit}"
        return "0s"
    minutes, rest = divmod(rest, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 10**9)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _decimal(value: int, factor: int) -> str:
    whole, fraction = divmod(value, factor)
    digits = f"{fraction:0{len(str(factor)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def normalize_keep_alive(text: str) -> str:
    """Check a duration with units, as `5m`, and write it the long way (`5m0s`).

    Raises:
        ValueError: It is no duration, or a number without a unit.
    """
    stripped = text.strip()
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", stripped) and float(stripped) != 0:
        raise ValueError(f'time: missing unit in duration "{text}"')
    try:
        seconds = parse_duration(stripped)
    except ValueError:
        raise ValueError(f'time: invalid duration "{text}"') from None
    return format_duration(round(seconds * 1e9))


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, four blanks apart, no borders; the header's line comes always."""
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    head = [name.ljust(width) for name, width in zip(headers, widths, strict=True)]
    lines = [_GAP.join(head) + " "]
    lines += ["".join(cell.ljust(width) + _GAP for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines) + "\n"
