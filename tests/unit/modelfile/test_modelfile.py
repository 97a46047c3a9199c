"""Modelfiles: the grammar with its quirks, the messages, parameters, and writing what reads back the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donabe.errors import DonabeError, InvalidRequestError
from donabe.modelfile import (
    PARAMETERS,
    Command,
    parse_commands,
    parse_modelfile,
    parse_parameters,
    quote_value,
    read_modelfile,
    spec_commands,
    write_modelfile,
)
from donabe.modelfile.parameters import float32
from donabe.service import parameters as request_parameters
from donabe.types import AdapterSpec, Message, ModelDetails, ModelSpec


def values(text: str) -> list[str]:
    return [command.value for command in parse_commands(text)]


# --- grammar ---------------------------------------------------------------------------------------------------------

VALUES = [
    ("SYSTEM hello", ["hello"]),
    ("  \t system \t hello  \t", ["hello"]),
    ("SYSTEM hello # x\n# note\n  # note\nPARSER p", ["hello # x", "p"]),
    ('SYSTEM "a"\nPARSER p', ["a", "p"]),
    ('SYSTEM "a" b"', ['a" b']),
    ('SYSTEM """a\n b\r\n"""  \t\nPARSER p', ["a\n b\r\n", "p"]),
    ('SYSTEM """"""', [""]),
    ('SYSTEM ""', [""]),
    ('SYSTEM """a"b"""', ['a"b']),
    ('SYSTEM "a\nb"', ["a\nb"]),
    ("SYSTEM 'x'", ["'x'"]),
    ('SYSTEM x "quoted"', ['x "quoted"']),
    ('SYSTEM a\\n"b', ['a\\n"b']),
    ("SYSTEM \nPARSER p", ["", "p"]),
    ("SYSTEM ", [""]),
    ("SYSTEM a\r\n\r\nPARSER p\r", ["a", "p"]),
    ('SYSTEM "a"b\nPARSER p"', ['a"b\nPARSER p']),
    ("SYSTEM a\u00a0b\u200dc\x07d\u2028e", ["abcde"]),
    ("SYSTEM \U0001f600é\u0301", ["\U0001f600é\u0301"]),
    ("", []),
    ("# only a note", []),
]


@pytest.mark.parametrize(("text", "expected"), VALUES)
def test_values_are_read_like_the_reference_does(text: str, expected: list[str]) -> None:
    assert values(text) == expected


def test_names_and_roles_are_kept_beside_the_value() -> None:
    assert parse_commands("parameter top_k 3\nMessage user hi there\nFROM x") == (
        Command("parameter", "3", "top_k"),
        Command("message", "hi there", "user"),
        Command("from", "x"),
    )


COMMANDS = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", '
    '"parameter", "message", or "requires"'
)
ROLES = 'message role must be one of "system", "user", or "assistant"'
KV_TYPES = "f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl"
ERRORS = [
    ("FROM x\nFOO bar", f"(line 2): {COMMANDS}"),
    ("FROM x\nSYSTEM\n", f"(line 3): {COMMANDS}"),
    ("FROM x\r\nFOO bar", f"(line 3): {COMMANDS}"),
    ("1 x", f"(line 1): {COMMANDS}"),
    ("FROM=x", f"(line 1): {COMMANDS}"),
    ("FROM x\nMESSAGE tool x", f"(line 2): {ROLES}"),
    ("FROM x\nMESSAGE User x", f"(line 2): {ROLES}"),
    ("FROM x\nMESSAGE  user x", f"(line 2): {ROLES}"),
    ("FROM x\nMESSAGE user\n", "unexpected EOF: user"),
    ("FROM x\nMESSAGE us3r x", "unexpected EOF: us"),
    ("FROM x\nPARAMETER temperature\n", "unexpected EOF: temperature"),
    ("FROM x\nPARAMETER top-p 1", "unexpected EOF: top"),
    ("FROM x\nPARAMETER  temperature 1", "unknown parameter ''"),
    ("FROM x\nPARAMETER foo 1", "unknown parameter 'foo'"),
    ("FROM x\nPARAMETER Temperature 1", "unknown parameter 'Temperature'"),
    ("FROM x\nPARAMETER kv_cache_type q9_9", f"parameter 'kv_cache_type' must be one of {KV_TYPES}, got q9_9"),
    ("FROM x\nPARAMETER temperature abc", "invalid float value [abc]"),
    ("FROM x\nPARAMETER temperature 1 2", "invalid float value [1 2]"),
    ("FROM x\nPARAMETER temperature nan", "invalid float value [nan]"),
    ("FROM x\nPARAMETER top_k 1.5", "invalid int value [1.5]"),
    ("FROM x\nPARAMETER top_k 99999999999999999999", "invalid int value [99999999999999999999]"),
    ("FROM x\nPARAMETER use_mmap maybe", "invalid bool value [maybe]"),
    ("FROM x\nPARAMETER top_p 2", "parameter 'top_p' must be between 0 and 1, got 2"),
    ("FROM x\nREQUIRES 1.x", "requires must be a valid semver (e.g. 0.14.0)"),
    ("SYSTEM x", "no FROM line"),
    ("", "no FROM line"),
    ('FROM x\nSYSTEM "a"b', "unexpected EOF"),
    ('FROM x\nSYSTEM """a', "unexpected EOF"),
    ("FROM", "unexpected EOF"),
    ("FROM x\nPARAMETER top", "unexpected EOF"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_bad_modelfile_is_refused_with_the_reference_text(text: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_modelfile(text)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfFROM \xc3\xa9",
        "FROM é".encode(),
        b"\xff\xfe" + "FROM é".encode("utf-16-le"),
        b"\xfe\xff" + "FROM é".encode("utf-16-be"),
    ],
)
def test_encoding_is_taken_from_the_byte_order_mark(data: bytes) -> None:
    assert parse_modelfile(data) == (Command("from", "é"),)


def test_oversized_modelfile_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="larger than"):
        parse_modelfile(b"FROM x\n" + b"#" * (16 << 20))


# --- meaning ---------------------------------------------------------------------------------------------------------


def test_commands_are_gathered_by_meaning() -> None:
    definition = read_modelfile(
        "FROM a\nFROM ./b.gguf\nTEMPLATE t1\nTEMPLATE t2\nSYSTEM s\nADAPTER x\nADAPTER y\nLICENSE l1\nLICENSE l2\n"
        "MESSAGE user hi\nMESSAGE assistant yo\nRENDERER r\nPARSER p\nREQUIRES v0.14\nDRAFT d\nPARAMETER stop a\n"
        'PARAMETER stop "b"\nPARAMETER temperature 0.5\nPARAMETER temperature 0.7\n'
        "PARAMETER use_mmap T\nPARAMETER top_k +4"
    )
    assert definition.sources == ("a", "./b.gguf")
    assert (definition.template, definition.system, definition.adapter) == ("t2", "s", "y")
    assert definition.licenses == ("l1", "l2")
    assert definition.messages == (Message(role="user", content="hi"), Message(role="assistant", content="yo"))
    assert (definition.renderer, definition.parser, definition.requires, definition.drafts) == (
        "r",
        "p",
        "0.14",
        ("d",),
    )
    assert definition.parameters == {"stop": ["a", "b"], "temperature": 0.7, "use_mmap": True, "top_k": 4}


@pytest.mark.parametrize("version", ["0", "0.14", "1.2.3", "v1.2.3-rc.1+build.5"])
def test_version_is_semantic_with_optional_v(version: str) -> None:
    assert read_modelfile(f"FROM x\nREQUIRES {version}").requires == version.removeprefix("v")


@pytest.mark.parametrize("version", ["01.2.3", "1.2.3.4", "a", "1.2-rc1", "v"])
def test_other_versions_are_refused(version: str) -> None:
    if version == "v":
        assert read_modelfile("FROM x\nREQUIRES v").requires == ""
        return
    with pytest.raises(InvalidRequestError, match="valid semver"):
        read_modelfile(f"FROM x\nREQUIRES {version}")


def test_deprecated_parameters_are_left_out_with_a_warning() -> None:
    found, warnings = parse_parameters([("mirostat", "1"), ("mirostat", "2"), ("low_vram", "x"), ("seed", "-1")])
    assert found == {"seed": -1}
    assert warnings == ("parameter mirostat is deprecated", "parameter low_vram is deprecated")


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_true_has_six_spellings(text: str) -> None:
    assert parse_parameters([("use_mmap", text)])[0] == {"use_mmap": True}


def test_list_parameter_is_bounded() -> None:
    with pytest.raises(InvalidRequestError, match="more than 256 values"):
        parse_parameters([("stop", "x")] * 257)


@pytest.mark.parametrize(
    ("value", "stored"), [(0.7, 0.7), (0.1, 0.1), (0.123456789, 0.12345679), (1e-7, 1e-7), (0.0, 0.0)]
)
def test_floats_are_stored_as_shortest_32_bit_decimals(value: float, stored: float) -> None:
    assert float32(value) == stored


def test_ranges_are_those_of_request_options() -> None:
    kinds = {"integer": "int", "float32": "float", "boolean": "bool", "array": "string", "string": "string"}
    for name, known in request_parameters.PARAMETERS.items():
        if name in PARAMETERS:
            mine = PARAMETERS[name]
            assert mine.kind == kinds[known.kind]
            if known.kind in ("integer", "float32"):
                assert mine.low == known.low
                assert mine.high in (known.high, 2**63 - 1)
            assert mine.choices == known.choices


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain", "plain"),
        ('in "quotes" it', 'in "quotes" it'),
        (" outer", '" outer"'),
        ("two\nlines", '"two\nlines"'),
        ('two "x"\nlines', '"""two "x"\nlines"""'),
        ('"starts', '""starts"'),
        ('"whole"', '""whole""'),
        ("\ttab", '"\ttab"'),
        ("cr\r", '"cr\r"'),
        ("", ""),
    ],
)
def test_values_get_the_quotes_they_need(value: str, quoted: str) -> None:
    assert quote_value(value) == quoted
    assert values(f"SYSTEM {quoted}\nPARSER p") == [value, "p"]


def test_model_is_written_in_the_reference_order() -> None:
    spec = ModelSpec(
        name="m:latest",
        paths=("/blobs/sha256-1",),
        adapters=(AdapterSpec(path="/a"),),
        draft="/d",
        projector="/p",
        template="{{ .Prompt }}\n",
        system="S",
        renderer="r",
        parser="p",
        parameters={"stop": ["<|a|>", " b"], "temperature": 1.0, "use_mmap": False, "min_p": 0.05},
        licenses=("MIT",),
        messages=(Message(role="user", content="hi"), Message(role="tool", content="x")),
        details=ModelDetails(),
    )
    assert write_modelfile(spec_commands(spec)) == (
        "FROM /blobs/sha256-1\nADAPTER /a\nDRAFT /d\nFROM /p\n"
        'TEMPLATE "{{ .Prompt }}\n"\nSYSTEM S\nRENDERER r\nPARSER p\n'
        'PARAMETER min_p 0.05\nPARAMETER stop <|a|>\nPARAMETER stop " b"\nPARAMETER temperature 1\n'
        "PARAMETER use_mmap false\nLICENSE MIT\nMESSAGE user hi\n"
    )


LINES = st.sampled_from(
    [
        *(
            "FROM m",
            "SYSTEM ",
            "TEMPLATE ",
            "PARAMETER stop ",
            "MESSAGE user ",
            "LICENSE ",
            "ADAPTER ",
            "# c",
            '"""',
            '"',
        ),
        *("\n", "\r", "\r\n", " ", "\t", "a", "é", "\u00a0", "{{ .X }}", '"b"', '"""c"""', "#", "\\", "'"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(LINES, max_size=25).map("".join))
def test_what_was_read_is_written_so_that_it_reads_the_same(text: str) -> None:
    try:
        commands = parse_commands(text)
    except DonabeError:
        return
    commands = tuple(c for c in commands if c.keyword != "from" or re.fullmatch(r"[^\s\"]+", c.value))
    written = write_modelfile(commands)
    assert parse_commands(written) == commands
    assert write_modelfile(parse_commands(written)) == written


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(LINES, max_size=20).map("".join)))
def test_any_text_parses_or_is_refused_with_a_typed_error(text: str) -> None:
    try:
        read_modelfile(text.encode("utf-8", "replace"))
    except InvalidRequestError as error:
        assert error.message


def test_document_lists_every_parameter() -> None:
    text = (Path(__file__).parents[3] / "docs" / "modelfile.md").read_text(encoding="utf-8")
    table = text[text.index("| name | type | range |") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(PARAMETERS)
