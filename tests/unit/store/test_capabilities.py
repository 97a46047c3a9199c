"""Capabilities of stored models: the template that prompts the model decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import BOOL, FakeGguf, Value, text, tiny_model, u32

from donabe.store.capabilities import model_capabilities
from donabe.store.summary import summarize
from donabe.types import Capability

GO = "{{ .prompt }}{{ if .tools }}{{ .tools }}{{ end }}{{ if .suffix }}{{ .suffix }}{{ end }}"
GO_THINKING = "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}"
JINJA = "{{ tools }} message.tool_calls <think></think> message['role'] == 'tool'"


@dataclass(frozen=True)
class FakeConfig:
    format: str = "gguf"
    family: str = "llama"
    renderer: str = ""
    capabilities: tuple[Capability, ...] = ()


@pytest.mark.parametrize(
    ("jinja", "go", "renderer", "expected"),
    [
        ("", None, "", ("completion",)),
        ("", GO, "", ("completion", "tools", "insert")),
        ("", "{{ .Prompt }}", "", ("completion",)),
        (JINJA, None, "", ("tools", "thinking", "completion")),
        (JINJA, "{{ .Prompt }}", "", ("tools", "thinking", "completion")),
        ("{{ messages }}", GO_THINKING, "", ("completion", "thinking")),
        ("{{ tools }}", GO, "", ("completion", "tools", "insert")),
        (JINJA, "{{ .Prompt }}", "qwen3", ("tools", "thinking", "completion")),
        (JINJA, "{{ broken", "", ("completion",)),
    ],
)
def test_template_in_use_decides(
    tmp_path: Path, jinja: str, go: str | None, renderer: str, expected: tuple[str, ...]
) -> None:
    extra = {"tokenizer__chat_template": text(jinja)} if jinja else {}
    summary = summarize(tiny_model(**extra).write(tmp_path / "m.gguf"))
    assert model_capabilities(FakeConfig(renderer=renderer), summary, (), go) == expected


def test_architecture_that_does_not_hear_what_it_declares(tmp_path: Path) -> None:
    summary = summarize(tiny_model(llama__audio__block_count=u32(1)).write(tmp_path / "m.gguf"))
    assert "audio" in model_capabilities(FakeConfig(), summary, (), None)
    assert "audio" not in model_capabilities(FakeConfig(family="nemotron_h_omni"), summary, (), None)


def test_declared_capabilities_come_first_and_once(tmp_path: Path) -> None:
    summary = summarize(tiny_model(llama__pooling_type=u32(1)).write(tmp_path / "m.gguf"))
    config = FakeConfig(capabilities=("vision", "embedding"), family="gptoss")
    assert model_capabilities(config, summary, (), None) == ("vision", "embedding", "thinking")


@pytest.mark.parametrize(("projector_type", "expected"), [("mlp", ("vision", "audio")), ("gemma3nv", ("vision",))])
def test_projector_that_hears_adds_audio(tmp_path: Path, projector_type: str, expected: tuple[str, ...]) -> None:
    values = {
        "general.architecture": text("clip"),
        "clip.has_audio_encoder": Value(BOOL, True),
        "clip.vision.projector_type": text(projector_type),
    }
    path = FakeGguf(tuple(values.items())).write(tmp_path / "p.gguf")
    assert model_capabilities(FakeConfig(), None, [str(path)], None) == expected
