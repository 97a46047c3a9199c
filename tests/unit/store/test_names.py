"""Model names: the grammar as cases, display forms, comparison and suffixes."""

from __future__ import annotations

import pytest

from donabe.errors import InvalidNameError, InvalidRequestError
from donabe.store.names import ModelName, has_explicit_tag, split_where

VALID = [
    ("mistral", "registry.ollama.ai", "library", "mistral", "latest"),
    ("user/m", "registry.ollama.ai", "user", "m", "latest"),
    ("h:5000/n/m", "h:5000", "n", "m", "latest"),
    ("h:5000/n/m:t", "h:5000", "n", "m", "t"),
    ("http://h:1/n/m:t", "h:1", "n", "m", "t"),
    ("scheme://host:port/namespace/model:tag", "host:port", "namespace", "model", "tag"),
    ("_why/_the/_lucky:_stiff", "_why", "_the", "_lucky", "_stiff"),
    ("h/nn/mm:t", "h", "nn", "mm", "t"),
    ("host:https/namespace/model:tag", "host:https", "namespace", "model", "tag"),
    ("hf.co/u/r.gguf:Q4_K_M", "hf.co", "u", "r.gguf", "Q4_K_M"),
    ("a" * 80, "registry.ollama.ai", "library", "a" * 80, "latest"),
    (f"{'h' * 350}/n/m", "h" * 350, "n", "m", "latest"),
    (f"{'a' * 80}/n/m", "a" * 80, "n", "m", "latest"),
    ("Foo", "registry.ollama.ai", "library", "Foo", "latest"),
]

INVALID = [
    *("", " ", "mm:", ":t", "/n/m", "//m", "n//m", "hh//", "/nn/mm", "m/", "a/b/c/d", "m:t:u", "n.s/m"),
    *("host/name:space/model:tag", "m@d", "@", "^", "-hh/nn/mm:tt", "hh/nn/mm:-tt", "hh/-nn/mm", ".", "..", "-x"),
    *("../../etc/passwd", "a/../b", "./m", "m:..", "m:.hidden", "h/n/.hidden", "m\0", "m\n", "a b", "m:t/u/v/w/x"),
    *("\u00e4", "m\u00e9", "m:\u212a", "m\uff0e", "ｍ", "C:\\m", "m:a\\b", "%2e%2e/m", "!MISSING!/m", "m:!MISSING!"),
    *("a" * 81, f"{'n' * 81}/m", f"m:{'t' * 81}", f"{'h' * 351}/n/m", "://n/m", "http:///n/m", "h://", "m:\t"),
    "m@sha256:" + "0" * 64,
]


@pytest.mark.parametrize(("text", "host", "namespace", "model", "tag"), VALID, ids=[case[0][:40] for case in VALID])
def test_parse_valid_name(text: str, host: str, namespace: str, model: str, tag: str) -> None:
    assert ModelName.parse(text).parts == (host, namespace, model, tag)


@pytest.mark.parametrize("text", INVALID)
def test_parse_invalid_name_raises_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidNameError, match=r"^invalid model name$") as caught:
        ModelName.parse(text)
    assert caught.value.hint


def test_constructor_checks_parts_too() -> None:
    with pytest.raises(InvalidNameError):
        ModelName("host", "..", "model", "tag")


@pytest.mark.parametrize(
    ("text", "short", "full"),
    [
        ("llama3", "llama3:latest", "registry.ollama.ai/library/llama3:latest"),
        ("u/m:t", "u/m:t", "registry.ollama.ai/u/m:t"),
        ("h/library/m:t", "h/library/m:t", "h/library/m:t"),
        ("REGISTRY.OLLAMA.AI/Library/m", "m:latest", "REGISTRY.OLLAMA.AI/Library/m:latest"),
        ("https://h:1/n/m", "h:1/n/m:latest", "h:1/n/m:latest"),
    ],
)
def test_display_forms(text: str, short: str, full: str) -> None:
    name = ModelName.parse(text)
    assert (name.short, name.full) == (short, full)


def test_short_form_parses_back_to_the_same_model() -> None:
    for text, *_ in VALID:
        name = ModelName.parse(text)
        assert ModelName.parse(name.short).key == name.key


def test_base_url_keeps_the_scheme() -> None:
    assert ModelName.parse("http://host:port/n/m").base_url == "http://host:port"
    assert ModelName.parse("h/n/m").base_url == "https://h"


def test_key_folds_case_only() -> None:
    assert ModelName.parse("Foo").key == ModelName.parse("fOO:LATEST").key
    assert ModelName.parse("foo").key != ModelName.parse("foo:x").key


def test_spelled_like_replaces_parts_one_by_one() -> None:
    stored = (ModelName.parse("Foo/bar:x"), ModelName.parse("foo/BAZ:y"))
    assert ModelName.parse("FOO/baz:X").spelled_like(stored).short == "Foo/BAZ:x"


def test_spelled_like_keeps_a_name_without_match() -> None:
    assert ModelName.parse("New:Tag").spelled_like((ModelName.parse("other:x"),)).short == "New:Tag"


@pytest.mark.parametrize(
    ("text", "base", "where"),
    [
        ("gpt-oss:20b:cloud", "gpt-oss:20b", "cloud"),
        ("gpt-oss:20b-cloud", "gpt-oss:20b", "cloud"),
        ("qwen3:8b:local", "qwen3:8b", "local"),
        ("qwen3:CLOUD", "qwen3", "cloud"),
        ("my-cloud-model", "my-cloud-model", ""),
        ("foo:bar-cloud/baz", "foo:bar-cloud/baz", ""),
        ("  plain  ", "plain", ""),
    ],
)
def test_split_where(text: str, base: str, where: str) -> None:
    assert split_where(text) == (base, where)


@pytest.mark.parametrize("text", ["m:cloud:local", "m:local:cloud", "m:7b-cloud:local"])
def test_split_where_refuses_two_suffixes(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=f'use either :local or :cloud, not both: "{text}"'):
        split_where(text)


def test_split_where_refuses_nothing() -> None:
    with pytest.raises(InvalidRequestError, match="model is required"):
        split_where("  ")


@pytest.mark.parametrize(
    ("text", "explicit"),
    [("registry.example.com:5000/some-model", False), ("registry.example.com:5000/m:9b", True), ("m", False)],
)
def test_has_explicit_tag(text: str, explicit: bool) -> None:
    assert has_explicit_tag(text) is explicit
