"""The template language, as Go's text/template defines it: what renders to what, and what is refused with which
words.
"""

from __future__ import annotations

import datetime

import pytest

from donabe.errors import TemplateError
from donabe.template import parse_template

DATA = {
    "S": "text",
    "E": "",
    "N": 3,
    "F": 1.5,
    "T": True,
    "L": ["a", "b", "c"],
    "M": {"b": 2, "a": 1},
    "Nest": {"Inner": {"X": "x"}},
    "Nil": None,
    "Response": "",
}


def run(text: str) -> str:
    return parse_template(text + "{{/* response */}}").execute(DATA, today=datetime.date(2024, 3, 1))


RENDERS = [
    # text and trimming
    ("plain", "plain"),
    ("a {{- .S -}} b", "atextb"),
    ("a \n\t {{- .S }} b", "atext b"),
    ("a {{/* note */}}b", "a b"),
    ("a {{- /* note */ -}} b", "ab"),
    ("{{- 3}}", "3"),
    ("{{-3}}", "-3"),
    ("{{ `raw\n{{}}` }}", "raw\n{{}}"),
    ("{{\n.S\n}}", "text"),
    # literals
    ('{{ "a\\n\\x41\\u00e9\\101" }}', "a\nAéA"),
    ("{{ 'a' }} {{ '\\n' }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 017 }} {{ 1_000 }}", "97 10 31 3 15 15 1000"),
    ("{{ 1.5 }} {{ 1e3 }} {{ 1e21 }} {{ .5 }} {{ -2 }} {{ +2 }} {{ 1e6 }}", "1.5 1000 1e+21 0.5 -2 2 1e+06"),
    ("{{ true }} {{ false }}", "true false"),
    ('{{ "\\xc3" }}{{ "\\xa9" }}', "é"),
    ('{{ "\\xff" }}', "\ufffd"),
    # fields, variables, chains
    ("{{ .Nest.Inner.X }} {{ (.Nest).Inner.X }} {{ $.S }}", "x x text"),
    ("{{ .Missing }} {{ .Nil }}", "<no value> <no value>"),
    ("{{ $x := .N }}{{ $x }}{{ $x = 4 }}{{ $x }}", "34"),
    ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
    ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
    ("{{ with $n := .Nest }}{{ $n.Inner.X }}{{ end }}", "x"),
    ("{{ (index .L 1) }}{{ (print `a` `b`) | len }}", "b2"),
    ("{{ . | len }}", str(len(DATA))),
    # branches
    ("{{ if .E }}a{{ else if .T }}b{{ else }}c{{ end }}", "b"),
    ("{{ if .Missing }}a{{ else }}b{{ end }}", "b"),
    ("{{ with .E }}a{{ else with .S }}{{ . }}{{ else }}c{{ end }}", "text"),
    ("{{ with .Nest }}{{ .Inner.X }}{{ end }}", "x"),
    ("{{ if and .T .S }}y{{ end }}{{ if or .E .N }}z{{ end }}{{ if not .E }}n{{ end }}", "yzn"),
    ("{{ if 0 }}a{{ else }}b{{ end }}{{ if 0.0 }}a{{ else }}b{{ end }}", "bb"),
    # ranges
    ("{{ range .L }}{{ . }},{{ end }}", "a,b,c,"),
    ("{{ range $i, $x := .L }}{{ $i }}{{ $x }} {{ end }}", "0a 1b 2c "),
    ("{{ range $x := .L }}{{ $x }}{{ end }}", "abc"),
    ("{{ range $k, $v := .M }}{{ $k }}={{ $v }} {{ end }}", "a=1 b=2 "),
    ("{{ range .Missing }}a{{ else }}none{{ end }}", "none"),
    ("{{ range 3 }}{{ . }}{{ end }}{{ range $i, $n := 2 }}[{{ $i }}{{ $n }}]{{ end }}", "012[00][11]"),
    ("{{ range .L }}{{ if eq . `b` }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
    ("{{ range .L }}{{ if eq . `b` }}{{ break }}{{ end }}{{ . }}{{ end }}.", "a."),
    ("{{ $last := 0 }}{{ range $i, $_ := .L }}{{ $last = $i }}{{ end }}{{ $last }}", "2"),
    ("{{ $x := 0 }}{{ $y := `` }}{{ range $x, $y = .L }}{{ end }}{{ $x }}{{ $y }}", "2c"),
    ("{{ range .L }}{{ $.N }}{{ end }}", "333"),
    # definitions
    ('{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .S }}{{ template "t" }}', "<text><<no value>>"),
    ('{{ block "b" .N }}[{{ . }}]{{ end }}', "[3]"),
    ('{{ define "t" }}{{ $ }}{{ end }}{{ template "t" 7 }}', "7"),
    (
        '{{ define "d" }}{{ if . }}{{ len . }}{{ template "d" (slice . 1) }}{{ end }}{{ end }}{{ template "d" .L }}',
        "321",
    ),
    # comparisons
    (
        "{{ eq 1 2 1 }} {{ eq .S `text` }} {{ ne 1 2 }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt 1 2 }} {{ ge 2.5 2 }}",
        'true true true true true false true',
    ),
    ("{{ eq .Missing nil }} {{ eq .Nil .S }}", "true false"),
    ("{{ lt `a` `b` }} {{ and 1 0 2 }} {{ or 0 `` 5 }} {{ and .S }}", "true 0 5 text"),
    # functions
    ("{{ len .S }} {{ len `é` }} {{ len .L }} {{ len .M }}", "4 2 3 2"),
    (
        "{{ index .L 0 }} {{ index .M `a` }} {{ index .M `z` }} {{ index `A` 0 }} {{ index .Nest `Inner` `X` }}",
        'a 1 <no value> 65 x',
    ),
    ("{{ slice .S 1 3 }} {{ slice .L 1 }} {{ slice .L 0 1 }} {{ slice `é` 0 1 }}", "ex [b c] [a] \ufffd"),
    ("{{ print 1 2 `a` 3 4 }} {{ println `a` 1 }}", "1 2a3 4 a 1\n"),
    (
        '{{ printf "%s-%d-%05d|%-4s|%4s|%q|%v|%x|%t" "a" 7 42 "b" "c" "d" .L 255 true }}',
        'a-7-00042|b   |   c|"d"|[a b c]|ff|true',
    ),
    ("{{ html `<a href=\"x\">&'` }}", "&lt;a href=&#34;x&#34;&gt;&amp;&#39;"),
    ("{{ js `it's <b>=&` }}", "it\\'s \\u003Cb\\u003E\\u003D\\u0026"),
    ("{{ urlquery `a b&c/é` }}", "a+b%26c%2F%C3%A9"),
    (
        '{{ json "<a>" }}{{ json .L }}{{ json .M }}{{ json .Nil }}',
        '"\\u003ca\\u003e"["a","b","c"]{"a":1,"b":2}null',
    ),
    ("{{ currentDate }} {{ currentDate `x` 1 }} {{ yesterdayDate }}", "2024-03-01 2024-03-01 2024-02-29"),
    ("{{ .S | printf `%s %s` `a` }}", "a text"),
    ("{{ .L }} {{ .M }} {{ .F }} {{ .T }}", "[a b c] map[a:1 b:2] 1.5 true"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RENDERS)
def test_construct_renders_as_go_does(text: str, expected: str) -> None:
    assert run(text) == expected


PARSE_ERRORS = [
    ("{{ .Prompt", "template: :1: unclosed action"),
    ("a\n{{ .Prompt", "template: :2: unclosed action"),
    ("{{ if .Prompt }}", "template: :1: unexpected EOF"),
    ("{{ Prompt }}", 'template: :1: function "Prompt" not defined'),
    ("{{ end }}", "template: :1: unexpected {{end}}"),
    ("{{ else }}", "template: :1: unexpected {{else}}"),
    ("{{ if }}x{{ end }}", "template: :1: missing value for if"),
    ("{{ }}", "template: :1: missing value for command"),
    ("{{ $x }}", 'template: :1: undefined variable "$x"'),
    ("{{ if .A }}{{ $x := 1 }}{{ end }}{{ $x }}", 'template: :1: undefined variable "$x"'),
    ("{{ break }}", "template: :1: {{break}} outside {{range}}"),
    ("{{ if .A }}{{ continue }}{{ end }}", "template: :1: {{continue}} outside {{range}}"),
    ("{{ .A | 3 }}", "template: :1: non executable command in pipeline stage 2"),
    ("{{ .A | }}", "template: :1: missing value for command"),
    ("{{ (.A }}", "template: :1: unclosed left paren"),
    ("{{ .A) }}", "template: :1: unexpected right paren"),
    ('{{ "a }}', "template: :1: unterminated quoted string"),
    ("{{ `a }}", "template: :1: unterminated raw quoted string"),
    ("{{ 'ab' }}", "template: :1: malformed character constant: 'ab'"),
    ("{{ 1a }}", "template: :1: bad number syntax: '1a'"),
    ("{{ 99999999999999999999 }}", "template: :1: integer overflow: '99999999999999999999'"),
    ('{{ "\\q" }}', "template: :1: invalid syntax"),
    ("{{ .A@ }}", "template: :1: bad character U+0040 '@'"),
    ("{{ # }}", "template: :1: unrecognized character in action: U+0023 '#'"),
    ("{{/* a }}", "template: :1: unclosed comment"),
    ("{{/* a */ b }}", "template: :1: comment ends before closing delimiter"),
    ("{{ template x }}", 'template: :1: unexpected "x" in template clause'),
    ('{{ if .A }}{{ define "x" }}{{ end }}{{ end }}', "template: :1: unexpected <define> in command"),
    ('{{ define "x" }}a{{ end }}{{ define "x" }}b{{ end }}', 'template: :1: multiple definition of template "x"'),
    ("{{ $a, $b := .L }}", "template: :1: too many declarations in command"),
    ("{{ range $a, $b, $c := .L }}{{ end }}", "template: :1: too many declarations in range"),
    ("{{ true.A }}", 'template: :1: unexpected . after term "true"'),
    ("{{ if .A }}a{{ else }}b{{ else }}c{{ end }}", "template: :1: expected end; found {{else}}"),
    ("{{ .A : }}", "template: :1: expected :="),
    ("{{ range .L }}{{ break 1 }}{{ end }}", 'template: :1: unexpected "1" in {{break}}'),
]


@pytest.mark.parametrize(("text", "message"), PARSE_ERRORS)
def test_bad_syntax_is_refused_with_the_line(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(text)
    assert caught.value.message == message


EXEC_ERRORS = [
    ("{{ .S.X }}", "can't evaluate field X in type string"),
    ("{{ .Missing.X }}", "nil pointer evaluating interface {}.X"),
    ("{{ nil }}", "nil is not a command"),
    ("{{ .S 1 }}", "S is not a method but has arguments"),
    ("{{ 3 4 }}", "can't give argument to non-function 3"),
    ("{{ $x = 1 }}", "undefined variable: $x"),
    ("{{ index .L 9 }}", "error calling index: index out of range: 9"),
    ("{{ slice .S 3 1 }}", "error calling slice: invalid slice index: 3 > 1"),
    ("{{ len .N }}", "error calling len: len of type int"),
    ("{{ len .Nil }}", "error calling len: len of nil pointer"),
    ("{{ eq .L .L }}", "error calling eq: non-comparable type []interface {}"),
    ("{{ eq .S .N }}", "error calling eq: incompatible types for comparison"),
    ("{{ lt true false }}", "error calling lt: invalid type for comparison"),
    ("{{ eq 1 }}", "error calling eq: missing argument for comparison"),
    ("{{ json }}", "wrong number of args for json: want 1 got 0"),
    ("{{ printf }}", "wrong number of args for printf: want at least 1 got 0"),
    ("{{ and }}", "wrong number of args for and: want at least 1 got 0"),
    ("{{ range .S }}{{ end }}", "range can't iterate over text"),
    ('{{ template "x" . }}', 'template "x" not defined'),
    ("{{ call .S }}", "error calling call: non-function of type string"),
    ("{{ toTypeScriptType .S }}", "wrong type for value; expected api.ToolProperty; got string"),
]


@pytest.mark.parametrize(("text", "message"), EXEC_ERRORS)
def test_failing_expression_names_the_place(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        run("ab" + text)
    assert caught.value.message.startswith("template: :1:")
    assert caught.value.message.endswith(message)


def test_error_position_is_line_column_and_expression() -> None:
    with pytest.raises(TemplateError) as caught:
        run('é\nab{{ define "t" }}{{ .S.X }}{{ end }}{{ template "t" . }}')
    assert caught.value.message == ('template: :2:21: executing "t" at <.S.X>: can\'t evaluate field X in type string')


def test_short_circuit_leaves_the_rest_unevaluated() -> None:
    assert run("{{ or 1 .S.X }}{{ and 0 .S.X }}") == "10"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('"%d" "hi"', "%!d(string=hi)"),
        ('"%d"', "%!d(MISSING)"),
        ('"%d" 1 2', "1%!(EXTRA int=2)"),
        ('"%z" 1', "%!z(int=1)"),
        ('"100%"', "100%!(NOVERB)"),
        ('"%[2]s %[1]s" "a" "b"', "b a"),
        ('"%[5]d" 1', "%!d(BADINDEX)"),
        ('"%*d|" 4 7', "   7|"),
        ('"%-*d|" 4 7', "7   |"),
        ('"%.2f %8.3f %e %g" 3.14159 2.0 1500.0 1e-7', "3.14    2.000 1.500000e+03 1e-07"),
        ('"%+d % d %x %X %o %b %c %U %#x" 5 5 255 255 8 5 65 65 255', "+5  5 ff FF 10 101 A U+0041 0xff"),
        ('"%x %X %.2s" "hi" "hi" "hello"', "6869 6869 he"),
        ('"%v %T %%" nil 1.5', "<nil> float64 %"),
        ('"%s" nil', "%!s(<nil>)"),
        ('"%06.2f|%+.1e" 3.14159 12345.678', "003.14|+1.2e+04"),
        ('"%t %v" true false', "true false"),
        ('"%q %q" "a\\"b" 65', '"a\\"b" \'A\''),
    ],
)
def test_printf_follows_fmt(arguments: str, expected: str) -> None:
    assert run("{{ printf " + arguments + " }}") == expected
