"""Lenient reading of request bodies: keys, nulls, types and the texts of their errors; durations and timestamps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donabe.api.body import Fields, decode_base64, parse_json
from donabe.api.durations import TimestampWriter, local_timestamp, parse_duration, parse_keep_alive
from donabe.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"a"', "unexpected EOF"),
        (b'{"a": "b', "unexpected EOF"),
        (b"{]", "invalid character ']'"),
        (b'{"a": NaN}', "invalid character 'N'"),
        (b"\xff\xfe", "invalid character"),
    ],
)
def test_malformed_bodies(body, message):
    with pytest.raises(InvalidRequestError) as caught:
        parse_json(body)
    assert str(caught.value).startswith(message)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(body):
    try:
        parse_json(body)
    except InvalidRequestError as error:
        assert str(error)


def test_keys_match_in_any_case_and_the_last_wins():
    assert Fields(parse_json(b'{"A": 1, "a": 2}'), "X").integer("a") == 2


def test_null_is_absence():
    fields = Fields({"a": None, "b": None, "c": None}, "X")
    assert (fields.string("a", "x"), fields.boolean("b", True), fields.array("c")) == ("x", True, [])


@pytest.mark.parametrize(
    ("read", "value", "text"),
    [
        ("string", 5, "cannot unmarshal number into Go struct field X.a of type string"),
        ("boolean", "x", "cannot unmarshal string into Go struct field X.a of type bool"),
        ("integer", 1.5, "cannot unmarshal number 1.5 into Go struct field X.a of type int"),
        ("integer", True, "cannot unmarshal bool into Go struct field X.a of type int"),
        ("integer", 2**70, f"cannot unmarshal number {2**70} into Go struct field X.a of type int"),
        ("array", {}, "cannot unmarshal object into Go struct field X.a of type []any"),
        ("mapping", [], "cannot unmarshal array into Go struct field X.a of type map[string]interface {}"),
    ],
)
def test_wrong_types_name_the_field(read, value, text):
    with pytest.raises(InvalidRequestError) as caught:
        getattr(Fields({"a": value}, "X"), read)("a")
    assert str(caught.value) == f"json: {text}"
    assert caught.value.field == "a"


def test_nested_fields_are_named_with_their_path():
    fields = Fields({"m": [{"content": 5}]}, "X")
    with pytest.raises(InvalidRequestError, match=r"X\.m\.content of type string"):
        fields.objects("m", "[]M", lambda inner: inner.string("content"))


def test_rest_is_what_nobody_asked_for():
    fields = Fields({"a": 1, "B": 2, "c": 3}, "X")
    fields.take("a")
    fields.ignore("c")
    assert fields.rest == ("b",)


@pytest.mark.parametrize(("text", "data"), [("aGk=", b"hi"), ("aG\r\nk=", b"hi"), ("", b"")])
def test_base64(text, data):
    assert decode_base64(text, "images") == data


@pytest.mark.parametrize(("text", "position"), [("!!!", 0), ("aG!=", 2), ("aGk", 3)])
def test_bad_base64_says_where(text, position):
    with pytest.raises(InvalidRequestError, match=f"illegal base64 data at input byte {position}"):
        decode_base64(text, "images")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("1h30m", 5400), ("1.5h", 5400), ("-1m", -60), ("+2s", 2), ("0", 0), ("1us", 1e-6), (".5s", 0.5)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "abc", "5", "1x", "s", "-", "1h2", "1 h"])
def test_bad_durations(text):
    with pytest.raises(InvalidRequestError, match=r"^time: "):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), (0, 0.0), (2.5, 2.5), (-1, math.inf), ("-1s", math.inf), ("10m", 600.0)]
)
def test_keep_alive(value, seconds):
    assert parse_keep_alive(value) == seconds


def test_timestamps_are_utc_and_trimmed():
    assert TimestampWriter().now().endswith("Z")
    assert local_timestamp(0.5)[19:21] == ".5"
    assert "." not in local_timestamp(0.0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_integers_that_are_not_finite_are_refused(value):
    with pytest.raises(InvalidRequestError, match=r"X\.a of type int"):
        Fields({"a": value}, "X").integer("a")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 399, "9" * 5000, "-" + "9" * 5000])
@pytest.mark.parametrize("form", ['{{"a": {{"b": [{}]}}}}', '{{"a": {{"b": [{}]}}}} rest'])
def test_numbers_that_no_float_holds_are_refused_by_name(number, form):
    with pytest.raises(InvalidRequestError, match=r"^a\.b holds a number that is too large") as caught:
        parse_json(form.format(number).encode())
    assert caught.value.field == "a.b"


@pytest.mark.parametrize("end", ["", " rest"])
def test_integers_of_more_than_64_bits_become_floats(end):
    text = f'{{"a": [{2**64}, {2**64 - 1}, {-(2**63)}, {-(2**63) - 1}], "b": "{2**70}"}}{end}'
    found = parse_json(text.encode())
    assert found == {"a": [2.0**64, 2**64 - 1, -(2**63), math.nextafter(-(2.0**63), -math.inf)], "b": str(2**70)}
    assert [type(item) for item in found["a"]] == [float, int, int, float]
