"""The layers and the config of a model being created, in the reference system's order and bytes. Blocking store
calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from donabe.service.create_call import CreatePlan
from donabe.service.create_files import GgufPart, joined
from donabe.store.blobs import BlobStore
from donabe.store.digest import Digest
from donabe.store.manifests import CONFIG_TYPE, LAYER_PREFIX, Layer, Manifest, encode_json
from donabe.store.summary import human_count
from donabe.template.gojson import go_json
from donabe.types import JsonObject, Message

# Renderer and parser of architectures that stored models name them for.
_ARCHITECTURE_DEFAULTS = {
    "gemma4": "gemma4",
    "laguna": "laguna",
    "nemotron_h": "nemotron-3-nano",
    "nemotron_h_moe": "nemotron-3-nano",
    "nemotron_h_omni": "nemotron-3-nano",
}
_GEMMA4_STOP = "<turn|>"


@dataclass(frozen=True, slots=True)
class LayerDraft:
    """A layer of the new manifest and what to say of it. `part` is set for GGUFs that count for the config."""

    layer: Layer
    is_new: bool
    part: GgufPart | None = None

    @property
    def status(self) -> str:
        return f"{'creating new' if self.is_new else 'using existing'} layer {self.layer.digest}"


@dataclass(slots=True)
class ModelDraft:
    """A model in the making."""

    blobs: BlobStore
    layers: list[LayerDraft] = field(default_factory=list)
    inherited: JsonObject = field(default_factory=dict)  # config of the base model
    base_parameters: JsonObject = field(default_factory=dict)

    def add_blob(self, kind: str, digest: Digest, size: int, *, from_: str = "", part: GgufPart | None = None) -> None:
        """A layer whose blob is in the store already."""
        self.blobs.touch(digest)
        self.layers.append(LayerDraft(Layer(LAYER_PREFIX + kind, digest, size, from_), False, part))

    def add_bytes(self, kind: str, data: bytes) -> None:
        digest, is_new = self.blobs.add_bytes(data)
        self.layers.append(LayerDraft(Layer(LAYER_PREFIX + kind, digest, len(data)), is_new))

    def replace(self, kinds: Iterable[str], kind: str, data: bytes) -> None:
        """Take the layers of some kinds out and add one at the end."""
        removed = set(kinds)
        self.layers = [draft for draft in self.layers if draft.layer.kind not in removed]
        self.add_bytes(kind, data)

    def of_kind(self, kind: str) -> list[LayerDraft]:
        return [draft for draft in self.layers if draft.layer.kind == kind]

    def put(self, old: Sequence[LayerDraft], new: LayerDraft) -> None:
        """Put a layer where others were."""
        place = self.layers.index(old[0])
        self.layers = [layer for layer in self.layers if layer not in old]
        self.layers.insert(place, new)

    def sets(self, *kinds: str) -> list[tuple[LayerDraft, ...]]:
        """The GGUF layers of some kinds, in layer order; those of a split set together, in the order of the set."""
        groups: dict[tuple[int, int], list[LayerDraft]] = {}
        for index, layer in enumerate(self.layers):
            if layer.part is not None and layer.layer.kind in kinds:
                key = (layer.part.split[1], 0) if layer.part.split else (1, index)
                group = groups.setdefault(key, [])
                group += [layer] if layer not in group else []  # a manifest may name a file of a set twice
        return [tuple(sorted(group, key=_set_order)) for group in groups.values()]

    def parts(self, *kinds: str) -> list[GgufPart]:
        """The GGUFs of layers of some kinds, in layer order. A split set is one."""
        return [joined([layer.part for layer in group if layer.part]) for group in self.sets(*kinds)]


def _set_order(layer: LayerDraft) -> int:
    return layer.part.split[0] if layer.part and layer.part.split else 0


def apply_texts(draft: ModelDraft, plan: CreatePlan, parameters: JsonObject) -> None:
    """Template, system, licenses, parameters and messages of the request, in that order.

    Args:
        parameters: Already merged with what they replace; {} leaves the inherited ones alone.
    """
    call = plan.call
    if call.template:
        draft.replace(("template", "prompt"), "template", call.template.encode("utf-8", "replace"))
    if call.system:
        draft.replace(("system",), "system", call.system.encode("utf-8", "replace"))
    for text in call.licenses:
        draft.add_bytes("license", text.encode("utf-8", "replace"))
    if parameters:
        draft.replace(("params",), "params", json_blob(parameters))
    if call.messages:
        draft.replace(("messages",), "messages", encode_json([_message(message) for message in call.messages]))


def json_blob(value: JsonObject) -> bytes:
    """Parameters as stored in a layer: sorted by name, numbers in Go's form, and a newline."""
    return go_json(value).encode("utf-8", "replace") + b"\n"


def _message(message: Message) -> JsonObject:
    value = {"role": _clean(message.role), "content": _clean(message.content)}
    return value | ({"thinking": _clean(message.thinking)} if message.thinking else {})


def _clean(text: str) -> str:
    """Without lone surrogates, which no stored text can hold."""
    return text.encode("utf-8", "replace").decode()


def stored_parameters(blobs: BlobStore, layers: Sequence[Layer]) -> JsonObject:
    """The merged parameters of a base model's layers; a damaged layer counts as empty."""
    merged: JsonObject = {}
    for layer in layers:
        try:
            value = json.loads(blobs.read_small(layer.digest))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            merged |= value
    return merged


# --- config ----------------------------------------------------------------------------------------------------------


def build_config(draft: ModelDraft, plan: CreatePlan) -> JsonObject:
    """The config object, keys in stored order. What the request says wins, then the files, then the base model."""
    call, info, base = plan.call, plan.call.info, draft.inherited
    parts = draft.parts("model", "projector") or draft.parts("adapter")
    facts = _file_facts(parts) if parts else _remote_facts(plan, base)
    renderer, parser = _renderer_and_parser(draft, plan)
    capabilities = [*(base.get("capabilities") or ()), *(info.get("capabilities") or ())]
    family = info.get("model_family") or facts["model_family"]
    optional = {
        "renderer": renderer,
        "parser": parser,
        "requires": call.requires or base.get("requires", ""),
        "remote_host": plan.remote_host,
        "remote_model": plan.remote_model,
        "capabilities": list(dict.fromkeys(capabilities)),
        "context_length": int(info.get("context_length") or 0),
        "embedding_length": int(info.get("embedding_length") or 0),
        "base_name": info.get("base_name", ""),
        "draft": _draft_facts(draft),
    }
    return {
        "model_format": facts["model_format"],
        "model_family": family,
        "model_families": [family] if info.get("model_family") else facts["model_families"],
        "model_type": info.get("parameter_size") or facts["model_type"],
        "file_type": info.get("quantization_level") or facts["file_type"],
        **{key: value for key, value in optional.items() if value},
        "architecture": "amd64",
        "os": "linux",
    }


def _file_facts(parts: Sequence[GgufPart]) -> JsonObject:
    main = next((part for part in parts if part.kind == "model"), parts[0]).summary
    families = [part.summary.architecture for part in parts]
    return {
        "model_format": "gguf",
        "model_family": main.architecture,
        "model_families": list(dict.fromkeys(families)),
        "model_type": human_count(main.n_params),
        "file_type": main.file_type,
    }


def _remote_facts(plan: CreatePlan, base: JsonObject) -> JsonObject:
    """Of a model without files of its own: only what its base says."""
    empty: JsonObject = {
        "model_format": "",
        "model_family": "",
        "model_families": None,
        "model_type": "",
        "file_type": "",
    }
    return empty if plan.remote_model else empty | {key: base[key] for key in empty if key in base}


def _draft_facts(draft: ModelDraft) -> JsonObject | None:
    drafts = draft.parts("draft")
    return {"model_format": "gguf", "architecture": drafts[-1].summary.architecture} if drafts else None


def _renderer_and_parser(draft: ModelDraft, plan: CreatePlan) -> tuple[str, str]:
    base = draft.inherited
    renderer = plan.call.renderer or base.get("renderer", "")
    parser = plan.call.parser or base.get("parser", "")
    default = _ARCHITECTURE_DEFAULTS.get(main_architecture(draft), "")
    return str(renderer or default), str(parser or default)


def main_architecture(draft: ModelDraft) -> str:
    """The architecture of the model's GGUF, or ""."""
    return next((part.summary.architecture for part in draft.parts("model")), "")


def default_parameters(draft: ModelDraft, plan: CreatePlan) -> JsonObject:
    """Parameters that follow from the architecture, for a model that names neither renderer nor parser."""
    call, base = plan.call, draft.inherited
    named = (call.renderer or base.get("renderer")) and (call.parser or base.get("parser"))
    if main_architecture(draft) != "gemma4" or named or "stop" in plan.parameters:
        return {}
    return {"stop": [_GEMMA4_STOP]}


def finish_manifest(draft: ModelDraft, config: JsonObject) -> tuple[Manifest, LayerDraft]:
    """Store the config and put the manifest together; the second value is the config's layer."""
    data = encode_json(config)
    digest, is_new = draft.blobs.add_bytes(data)
    layer = Layer(CONFIG_TYPE, digest, len(data))
    return Manifest(layer, tuple(item.layer for item in draft.layers)), LayerDraft(layer, is_new)
