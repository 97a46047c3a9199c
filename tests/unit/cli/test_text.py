from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from donabe.cli.text import (
    format_bytes,
    format_count,
    format_duration,
    format_relative,
    format_table,
    normalize_keep_alive,
    parse_timestamp,
)

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (384, "384 B"),
        (2019393189, "2.0 GB"),
        (522653767, "522 MB"),
        (4000000000, "4 GB"),
        (9990000000, "10.0 GB"),
        (1999, "2.0 KB"),
        (0, "0 B"),
        (2 * 10**15, "2000 TB"),
    ],
)
def test_bytes(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(7e9, "7B"), (3.21e9, "3.2B"), (134515008, "134.52M"), (2e6, "2M"), (12345, "12K"), (9, "9")]
)
def test_count(count: float, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (5 * 3600, "5 hours"),
        (20 * 86400, "2 weeks"),
        (13 * 86400, "13 days"),
        (100 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_relative_past(seconds: float, text: str) -> None:
    assert format_relative(NOW - timedelta(seconds=seconds), NOW) == f"{text} ago"


def test_relative_future_never_and_forever() -> None:
    assert format_relative(NOW + timedelta(minutes=4, seconds=30), NOW) == "4 minutes from now"
    assert format_relative(NOW + timedelta(days=50 * 365), NOW) == "Forever"
    assert format_relative(parse_timestamp("0001-01-01T00:00:00Z"), NOW) == "Never"


def test_timestamps_with_nanoseconds_and_zones() -> None:
    moment = parse_timestamp("2025-12-31T23:30:00.123456789-01:00")
    assert moment is not None
    assert (moment - NOW).total_seconds() == pytest.approx(1800.123457)
    assert parse_timestamp("yesterday") is None


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (5, "5ns"),
        (1500, "1.5µs"),
        (4071084, "4.071084ms"),
        (325953000, "325.953ms"),
        (4648158584, "4.648158584s"),
        (90 * 10**9, "1m30s"),
        (600 * 10**9, "10m0s"),
        (3600 * 10**9, "1h0m0s"),
        (-300 * 10**9, "-5m0s"),
    ],
)
def test_duration(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@pytest.mark.parametrize(("given", "sent"), [("10m", "10m0s"), ("1h30m", "1h30m0s"), ("0", "0s"), ("-1s", "-1s")])
def test_keep_alive_is_normalised(given: str, sent: str) -> None:
    assert normalize_keep_alive(given) == sent


def test_keep_alive_without_unit_is_refused() -> None:
    with pytest.raises(ValueError, match='missing unit in duration "5"'):
        normalize_keep_alive("5")
    with pytest.raises(ValueError, match='invalid duration "abc"'):
        normalize_keep_alive("abc")


def test_table_pads_cells_and_prints_an_empty_header() -> None:
    assert format_table(("NAME", "ID"), []) == "NAME    ID \n"
    assert format_table(("NAME", "ID"), [("longer", "1")]) == "NAME      ID \nlonger    1     \n"
