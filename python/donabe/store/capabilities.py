"""What a stored model can do, from its config, its GGUF, its projectors and the template that prompts it.

The template in use decides about tools and thinking: the stored Go template, or the GGUF's own chat template when there
is no other or it expresses more. The chat layer chooses by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from donabe.errors import ModelFileError, TemplateError
from donabe.store.gguf import GgufReader
from donabe.store.summary import GgufSummary, ordered, template_capabilities
from donabe.types import Capability


class Config(Protocol):
    """The config keys that matter here."""

    @property
    def format(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def renderer(self) -> str: ...

    @property
    def capabilities(self) -> tuple[Capability, ...]: ...


def model_capabilities(
    config: Config, summary: GgufSummary | None, projectors: Sequence[str], template: str | None
) -> tuple[Capability, ...]:
    """Capabilities in the order the API shows them.

    Args:
        projectors: Paths of projector files.
        template: The stored Go template, or None.
    """
    found: list[Capability] = list(config.capabilities)
    jinja = summary.chat_template if summary is not None else ""
    go = _go_capabilities(template, jinja) if template is not None and not (config.renderer and jinja) else None
    if summary is not None and config.format in {"", "gguf"}:
        hidden = template_capabilities(jinja) if go is not None else ()
        found += [capability for capability in summary.capabilities if capability not in hidden]
    if projectors:
        found.append("vision")
        found += ["audio"] if _projector_hears(projectors) else []
    found += go or ()
    if config.family in {"gptoss", "gpt-oss"}:
        found.append("thinking")
    if "nemotron_h_omni" in {config.family, summary.architecture if summary is not None else ""}:
        found = [capability for capability in found if capability != "audio"]  # listed, but nothing hears
    return ordered(found)


@lru_cache(maxsize=256)
def _go_capabilities(template: str, jinja: str) -> tuple[Capability, ...] | None:
    """What the Go template can express; None when the chat template is used instead. One that is broken can nothing."""
    from donabe.template import parse_template, prefers_chat_template

    try:
        go = parse_template(template)
    except TemplateError:
        return ()
    return None if jinja and prefers_chat_template(jinja, go) else go.capabilities()


def _projector_hears(projectors: Sequence[str]) -> bool:
    for path in projectors:
        try:
            with GgufReader(path) as reader:
                hears = any(key.endswith("has_audio_encoder") and reader.get(key) is True for key in reader.entries)
                if hears and reader.text("clip.vision.projector_type") != "gemma3nv":
                    return True
        except ModelFileError:
            continue
    return False
