"""Creating models: from another model, from uploaded GGUF files or as a stub of a remote one; quantised on the way
if asked.

Every step ends with whole blobs in the store; the manifest, written last, makes the model visible, so a crash leaves
either the old model or the new one. File work runs in worker threads, quantising in a child process; nothing blocks the
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from donabe.convert.gguf_write import merge_gguf
from donabe.convert.quantization import FLOAT_TYPES, tensor_types
from donabe.convert.quantize import QuantizeJob, quantize
from donabe.errors import InvalidRequestError, LoadError, ModelNotFoundError
from donabe.service.contracts import PullModel
from donabe.service.create_call import CreateCall, CreatePlan, check_create
from donabe.service.create_files import GgufPart, complete_set, group_splits, inspect_blob, inspect_file, joined
from donabe.service.create_layers import (
    LayerDraft,
    ModelDraft,
    apply_texts,
    build_config,
    default_parameters,
    finish_manifest,
    json_blob,
    stored_parameters,
)
from donabe.store.digest import Digest
from donabe.store.files import require_space, store_errors
from donabe.store.manifests import LAYER_PREFIX, Layer
from donabe.store.models import ModelStore
from donabe.store.specs import ModelConfig
from donabe.template import detect_template
from donabe.types import JsonObject, ModelSpec, PullProgress

Events = AsyncGenerator[PullProgress, None]

_STALE_FOLDER_S = 86_400.0
_NO_DIGEST = "0" * 19  # what the reference sends in place of a digest while a file is being made
_GGUF_KINDS = ("model", "adapter", "projector", "draft")


class Quantize(Protocol):
    """Runs a job, yielding (tensors done, tensors in all)."""

    def __call__(self, job: QuantizeJob) -> AsyncGenerator[tuple[int, int], None]: ...


class ModelCreator:
    """Creates models in one store.

    Args:
        store: Where models and uploaded blobs are.
        pull: Gets a base model that is not there.
        quantize: Runs a quantisation job.
    """

    def __init__(self, store: ModelStore, *, pull: PullModel, quantize: Quantize = quantize) -> None:
        self._store = store
        self._pull = pull
        self._quantize = quantize

    def create(self, call: CreateCall) -> Events:
        """Create a model; the last event is `success`. Closing the iterator stops the work and leaves no model.

        Raises:
            InvalidRequestError, InvalidNameError: At once, for what can be checked without files.
            ModelFileError, StoreError, SourceError, LoadError: From the iterator.
        """
        plan = check_create(call)
        return self._run(plan)

    async def _run(self, plan: CreatePlan) -> Events:
        for name in plan.unknown_parameters:
            yield PullProgress(status=f'warning: parameter "{name}" is not known and will have no effect')
        draft = ModelDraft(self._store.blobs)
        with _work_folder(self._store) as folder:
            steps = (
                self._inherit(plan, draft),
                self._add_files(plan, draft, folder),
                self._quantize_layers(plan, draft, folder),
                self._finish(plan, draft),
            )
            for step in steps:
                async with contextlib.aclosing(step) as events:
                    async for event in events:
                        yield event

    # --- from another model ------------------------------------------------------------------------------------------

    async def _inherit(self, plan: CreatePlan, draft: ModelDraft) -> Events:
        """Take over the base model's layers, if there is one; pull it first if it is not here."""
        if not plan.base:
            return
        if not await asyncio.to_thread(self._store.has, plan.base):
            async for event in self._pull(plan.base):
                if event.status != "success":
                    yield event
        await asyncio.to_thread(self._inherit_layers, plan.base, draft)

    def _inherit_layers(self, base: str, draft: ModelDraft) -> None:
        try:
            stored = self._store.read_manifest(base)
        except ModelNotFoundError:
            self._copy_foreign(self._store.resolve(base), draft)
            return
        for layer in stored.manifest.layers:
            part = None
            if layer.kind in _GGUF_KINDS:
                part = inspect_blob(draft.blobs, f"{stored.name.short} ({layer.kind})", layer.digest)
            draft.blobs.touch(layer.digest)
            draft.layers.append(LayerDraft(replace(layer, from_=stored.name.short), False, part))
        _require_whole_sets(draft)
        config = ModelConfig.decode(draft.blobs.read_small(stored.manifest.config.digest))
        kept = ("model_format", "renderer", "parser", "requires", "capabilities")
        draft.inherited = {key: config.raw[key] for key in kept if key in config.raw}
        if not draft.parts("model"):
            draft.inherited = dict(config.raw)
        draft.base_parameters = stored_parameters(draft.blobs, stored.manifest.of_kind("params"))

    def _copy_foreign(self, spec: ModelSpec, draft: ModelDraft) -> None:
        """Copy a model another program keeps: our manifest may only name blobs of our store."""
        files = [("model", path) for path in spec.paths]
        files += [("projector", spec.projector)] if spec.projector else []
        files += [("adapter", adapter.path) for adapter in spec.adapters]
        files += [("draft", spec.draft)] if spec.draft else []
        for kind, path in files:
            digest, size = self._copy_in(Path(path))
            part = inspect_blob(draft.blobs, f"{spec.name} ({kind})", digest)
            draft.add_blob(kind, digest, size, from_=spec.name, part=part)
        texts = [("template", spec.template), ("system", spec.system), *(("license", text) for text in spec.licenses)]
        for kind, text in texts:
            if text:
                draft.add_bytes(kind, text.encode("utf-8", "replace"))
        if spec.parameters:
            draft.add_bytes("params", json_blob(spec.parameters))
        draft.inherited = {key: value for key in ("renderer", "parser") if (value := getattr(spec, key))}
        draft.base_parameters = dict(spec.parameters)

    def _copy_in(self, path: Path) -> tuple[Digest, int]:
        size = path.stat().st_size
        require_space(self._store.layout.root, size)
        with self._store.blobs.writer() as writer, open(path, "rb") as source:
            while chunk := source.read(1 << 20):
                writer.write(chunk)
            digest, _is_new = writer.commit()
        return digest, size

    # --- from files --------------------------------------------------------------------------------------------------

    async def _add_files(self, plan: CreatePlan, draft: ModelDraft, folder: Path) -> Events:
        """Model, projector and adapter layers of the request's files, then its adapters, then its draft model."""
        parts: list[GgufPart] = []
        for name, digest in plan.files:
            if _is_side_file(name):
                continue
            yield PullProgress(status="parsing GGUF")
            parts.append(await asyncio.to_thread(inspect_blob, draft.blobs, name, digest))
        if plan.files and not parts:
            raise InvalidRequestError("unknown type", field="files", hint="none of the files is a GGUF")
        for group in group_splits(parts):
            async for event in self._add_group(draft, group[0].kind, group, folder):
                yield event
        adapters = [await asyncio.to_thread(inspect_blob, draft.blobs, *item) for item in plan.adapters]
        if len(adapters) > 1:
            raise InvalidRequestError("only one adapter is currently supported", field="adapters")
        for part in adapters:
            _require_kind(part, "adapter")
            yield PullProgress(status="parsing GGUF")
            draft.add_blob("adapter", part.digest, part.path.stat().st_size, from_=part.name, part=part)
        drafts = [await asyncio.to_thread(inspect_blob, draft.blobs, *item) for item in plan.drafts]
        for group in group_splits(drafts):
            _require_kind(group[0], "model")
            yield PullProgress(status="parsing GGUF")
            async for event in self._add_group(draft, "draft", group, folder):
                yield event

    async def _add_group(self, draft: ModelDraft, kind: str, group: tuple[GgufPart, ...], folder: Path) -> Events:
        """One file, or the parts of a split one merged into a new file."""
        part = group[0]
        if len(group) > 1:
            yield PullProgress(status="merging split GGUF")
            await asyncio.to_thread(self._merge, draft, kind, group, folder, {})
        elif part.needs_projector_type:
            yield PullProgress(status="updating GGUF projector metadata")
            await asyncio.to_thread(self._merge, draft, kind, group, folder, {"clip.projector_type": "mlp"})
        else:
            # A text model made from files has no origin worth naming; other files keep their own name.
            from_ = part.name if kind != "model" or part.has_embedded_parts else ""
            draft.add_blob(kind, part.digest, part.path.stat().st_size, from_=from_, part=part)

    def _merge(
        self, draft: ModelDraft, kind: str, group: tuple[GgufPart, ...], folder: Path, texts: dict[str, str]
    ) -> None:
        target = folder / "merged.gguf"
        self._merge_files(group, target, texts)
        draft.layers.append(self._adopt(kind, target, group[0].name))

    def _merge_files(self, group: Sequence[GgufPart], target: Path, texts: dict[str, str]) -> None:
        require_space(target.parent, sum(part.path.stat().st_size for part in group))
        with store_errors(self._store.layout.root):
            merge_gguf([part.path for part in group], target, add_texts=texts)

    def _adopt(self, kind: str, path: Path, name: str) -> LayerDraft:
        """A layer of a file made here. The file is validated before it becomes a blob."""
        part = inspect_file(path, name, Digest.of_bytes(b""))
        size = path.stat().st_size
        digest, is_new = self._store.blobs.adopt(path)
        part = replace(part, digest=digest, path=self._store.blobs.path(digest))
        return LayerDraft(Layer(LAYER_PREFIX + kind, digest, size), is_new, part)

    # --- quantising --------------------------------------------------------------------------------------------------

    async def _quantize_layers(self, plan: CreatePlan, draft: ModelDraft, folder: Path) -> Events:
        """Replace the model (and draft) layers by quantised ones, if the request asks for it."""
        for kind, target in (("model", plan.quantization), ("draft", plan.draft_quantization)):
            if not target:
                continue
            for layers in draft.sets(kind):
                async with contextlib.aclosing(self._quantize_set(draft, layers, target, folder)) as events:
                    async for event in events:
                        yield event

    async def _quantize_set(self, draft: ModelDraft, layers: Sequence[LayerDraft], target: str, folder: Path) -> Events:
        """Quantise one file, or a split set, which becomes one file on the way."""
        parts = [layer.part for layer in layers if layer.part]
        part, kind, size = joined(parts), layers[0].layer.kind, sum(layer.layer.size for layer in layers)
        source = part.source_type
        if not source:
            raise _quantized_source(kind, part)
        if source == target:
            return
        await asyncio.to_thread(require_space, folder, size * min(len(parts), 2))
        if len(parts) > 1:
            yield PullProgress(status="merging split GGUF")
            part = replace(part, path=folder / "merged.gguf")
            await asyncio.to_thread(self._merge_files, parts, part.path, {})
        output = folder / "quantized.gguf"
        job = QuantizeJob(part.path, output, target, tensor_types(part.summary.architecture, part.tensors, target))
        status = f"quantizing {source} model to {target}"
        try:
            async with contextlib.aclosing(self._quantize(job)) as progress:
                async for done, total in progress:
                    completed = size * done // max(total, 1)
                    yield PullProgress(status=status, digest=_NO_DIGEST, total=size, completed=completed)
        except LoadError as error:
            raise _failed_quantisation(part, target, error) from error
        yield PullProgress(status="verifying conversion")
        draft.put(layers, await asyncio.to_thread(self._adopt, kind, output, part.name))

    # --- the rest ----------------------------------------------------------------------------------------------------

    async def _finish(self, plan: CreatePlan, draft: ModelDraft) -> Events:
        """Texts, config and manifest."""
        detected = _detected_template(plan, draft)
        if detected is not None:
            name, template, stop = detected
            yield PullProgress(status=f"using autodetected template {name}")
            await asyncio.to_thread(draft.add_bytes, "template", template.encode())
            await asyncio.to_thread(draft.add_bytes, "params", json_blob({"stop": list(stop)}))
            draft.base_parameters = {"stop": list(stop)}
        requested = default_parameters(draft, plan) | plan.parameters
        merged = draft.base_parameters | requested if requested else {}
        await asyncio.to_thread(apply_texts, draft, plan, merged)
        config: JsonObject = build_config(draft, plan)
        manifest, config_layer = await asyncio.to_thread(finish_manifest, draft, config)
        for item in (*draft.layers, config_layer):
            yield PullProgress(status=item.status)
        yield PullProgress(status="writing manifest")
        name_here = await asyncio.to_thread(self._store.canonical, plan.name)
        await asyncio.to_thread(self._store.write_manifest, name_here, manifest.encode())
        yield PullProgress(status="success")


def _detected_template(plan: CreatePlan, draft: ModelDraft) -> tuple[str, str, tuple[str, ...]] | None:
    """(name, text, stop) of the bundled template for a model made from files."""
    if not plan.files:
        return None
    for part in draft.parts("model"):
        found = detect_template(part.summary.chat_template) if part.summary.chat_template else None
        if found is not None:
            return found.name, found.text, found.stop
    return None


def _is_side_file(name: str) -> bool:
    """Configuration that comes along with weights; GGUFs hold all of it themselves."""
    return name.endswith((".json", ".jinja", ".txt", ".md", "tokenizer.model"))


def _require_kind(part: GgufPart, kind: str) -> None:
    if part.kind != kind:
        field = "adapters" if kind == "adapter" else "draft_files"
        raise InvalidRequestError(f"{part.name} is a {part.kind}, not {_WITH_ARTICLE[kind]}", field=field)


_WITH_ARTICLE = {"adapter": "a LoRA adapter", "model": "a model"}


def _require_whole_sets(draft: ModelDraft) -> None:
    """Refuse a base model that lacks files of its split set."""
    for kind in _GGUF_KINDS:
        for layers in draft.sets(kind):
            if any(layer.part and layer.part.split for layer in layers):
                complete_set([layer.part for layer in layers if layer.part])


def _quantized_source(kind: str, part: GgufPart) -> InvalidRequestError:
    if kind == "draft":
        return InvalidRequestError(
            f"draft quantization requires an unquantized draft model, got {part.summary.file_type}",
            field="draft_quantize",
        )
    return InvalidRequestError(
        "quantization is only supported for F16, BF16 and F32 models",
        field="quantize",
        hint=f"{part.name} is {part.summary.file_type}; start from one of {', '.join(sorted(FLOAT_TYPES))}",
    )


def _failed_quantisation(part: GgufPart, target: str, error: LoadError) -> LoadError:
    """The failure under the caller's name of the file; paths of the store are nobody else's business."""
    reason = (error.log_tail[0] if error.log_tail else error.message).replace(str(part.path), part.name)
    reason = reason.replace(part.path.name, part.name).replace(f"{part.path.parent}{os.sep}", "")
    return LoadError(f"{part.name} can't be quantized to {target}: {reason}", log_tail=error.log_tail)


@contextlib.contextmanager
def _work_folder(store: ModelStore) -> Iterator[Path]:
    """A folder on the store's disk for files being made; those a killed process left are removed after a day."""
    parent = store.layout.root / ".donabe" / "create"
    with store_errors(store.layout.root):
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.iterdir():
            if time.time() - old.stat().st_mtime > _STALE_FOLDER_S:
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
