from __future__ import annotations

import math

import pytest

from donabe.setting_values import Duration, HostAddress, Size, parse_duration, parse_host


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:99", "http://1.2.3.4:99"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("[::]:99", "http://[::1]:99"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:99", "http://[::1]:99"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:1/prefix/", "https://box:1/prefix"),
        ("box:0", "http://box:0"),
        (' "box:7" ', "http://box:7"),
    ],
)
def test_host_grammar(text: str, url: str) -> None:
    assert parse_host(text).url == url


@pytest.mark.parametrize(
    "text", ["box:x", "box:-1", "box:65536", "ws://box", "[::1", "[::1]x", "a b", "user@box", "box:१"]
)
def test_bad_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_host(text)


@pytest.mark.parametrize(
    ("host", "loopback", "wildcard"),
    [
        ("127.0.0.1", True, False),
        ("localhost", True, False),
        ("::1", True, False),
        ("", False, True),
        ("0.0.0.0", False, True),
        ("10.0.0.1", False, False),
    ],
)
def test_address_knows_who_can_reach_it(host: str, loopback: bool, wildcard: bool) -> None:
    address = HostAddress(host=host)
    assert (address.is_loopback, address.is_wildcard) == (loopback, wildcard)


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ("90", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("300ms", 0.3),
        ("-1", -1),
        ("-5m", -300),
        (7, 7),
        ("0", 0),
    ],
)
def test_duration(raw: object, seconds: float) -> None:
    assert parse_duration(raw) == pytest.approx(seconds)


@pytest.mark.parametrize("raw", ["", "m", "5x", "5m3", "1h 5m", True, None, "1e3", "--1"])
def test_bad_duration_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(raw)


def test_duration_kinds_map_special_values() -> None:
    assert Duration()("-1") == math.inf
    assert Duration()("0") == 0
    assert Duration(zero_is_forever=True)("0") == math.inf
    assert Duration(auto=True)("auto") is None


@pytest.mark.parametrize(
    ("raw", "n_bytes"), [("0", 0), ("512", 512), ("1kb", 1000), ("1.5 GiB", 1610612736), ("2G", 2_000_000_000), (3, 3)]
)
def test_size(raw: object, n_bytes: int) -> None:
    assert Size()(raw) == n_bytes
