"""The model store: which models are here, where their files are, and removing them. Processes may share one store.

Reading needs no lock: manifests and blobs appear by rename, whole. Changing (write a manifest, delete, copy, prune)
holds the store's lock for the moment of the change. Knows nothing of where models come from. Blocking; call from
worker threads.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from donabe.errors import DonabeError, ModelNotFoundError, StoreError
from donabe.store.blobs import BlobStore
from donabe.store.digest import Digest
from donabe.store.files import remove_empty_folders, store_error, store_errors, write_atomically
from donabe.store.layout import StoreLayout
from donabe.store.locks import FileLock
from donabe.store.manifests import MAX_MANIFEST_BYTES, Manifest
from donabe.store.names import ModelName
from donabe.store.specs import build_spec
from donabe.types import ModelSpec

if TYPE_CHECKING:
    from donabe.settings import Settings

_log = logging.getLogger(__name__)

PRUNE_GRACE_S = 3600.0


class ReadOnlyModels(Protocol):
    """Models kept by someone else, used in place and never changed."""

    def names(self) -> tuple[ModelName, ...]: ...

    def spec(self, name: ModelName) -> ModelSpec: ...


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it is on disk."""

    name: ModelName
    path: Path
    data: bytes
    manifest: Manifest
    modified_at: float

    @property
    def digest(self) -> str:
        """The model's digest as listings show it: hex sha256 of the manifest's bytes."""
        return Digest.of_bytes(self.data).hex


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune removed, or why it removed nothing."""

    n_removed: int = 0
    freed_bytes: int = 0
    skipped: str = ""


class ModelStore:
    """Models in one folder, with other people's models beside it.

    Args:
        root: The store's folder. Nothing is created before something is written.
        extra: Read-only collections; a name that exists in several places means the first.
        allow_files: Whether `resolve` also takes the absolute path of a GGUF file. Only where every caller may read the
            files of this machine anyway: a name from the network must not tell which files exist.
        keep_unused: Keep the blobs of a model that is replaced.
    """

    def __init__(
        self,
        root: Path,
        extra: Sequence[ReadOnlyModels] = (),
        *,
        allow_files: bool = False,
        keep_unused: bool = False,
    ) -> None:
        self.layout = StoreLayout(Path(root).expanduser().absolute())
        self.blobs = BlobStore(self.layout)
        self._extra = tuple(extra)
        self._allow_files = allow_files
        self._keep_unused = keep_unused

    @classmethod
    def from_settings(cls, settings: Settings | None = None, *, allow_files: bool = False) -> ModelStore:
        """The user's own store, with the models other programs keep on this machine."""
        from donabe.settings import load_settings
        from donabe.store.foreign import foreign_models  # it builds on this module's pieces

        settings = settings or load_settings()
        extra = foreign_models(settings.models_dir, settings.extra_stores, settings.hf_cache)
        return cls(settings.models_dir, extra, allow_files=allow_files, keep_unused=settings.keep_unused)

    # --- reading -----------------------------------------------------------------------------------------------------

    def names(self) -> tuple[ModelName, ...]:
        """Names of all usable manifests, here and in the read-only collections."""
        with store_errors(self.layout.root):
            own = [name for name, _ in self.layout.names()]
        names = {name.key: name for name in reversed([*own, *(n for extra in self._extra for n in extra.names())])}
        return tuple(names.values())

    def list(self) -> tuple[ModelSpec, ...]:
        """Every model, newest first. A model that can't be read is left out, with a warning in the log."""
        found: list[ModelSpec] = []
        for name in self.names():
            try:
                found.append(self._spec(name, strict=False))
            except DonabeError as error:
                _log.warning("model %s is left out of the list: %s", name.short, error)
        return tuple(sorted(found, key=lambda spec: (-int(spec.modified_at), spec.name)))

    def canonical(self, name: str | ModelName) -> ModelName:
        """The name as it is spelled here, if it exists in another case."""
        parsed = ModelName.parse(name) if isinstance(name, str) else name
        return parsed.spelled_like(self.names())

    def has(self, name: str | ModelName) -> bool:
        return self.canonical(name).key in {known.key for known in self.names()}

    def resolve(self, name: str | ModelName) -> ModelSpec:
        """Everything needed to load the model. Its files have passed the validator.

        Raises:
            ModelNotFoundError: No such model; the hint offers the nearest names.
            StoreError, ModelFileError: It is there, but damaged.
        """
        if self._allow_files and isinstance(name, str):
            from donabe.store.foreign import file_spec, looks_like_file  # it builds on this module's pieces

            if looks_like_file(name) and Path(name).is_absolute():
                return file_spec(Path(name), name=name)
        canonical = self.canonical(name)
        try:
            return self._spec(canonical, strict=True)
        except ModelNotFoundError:
            raise self.not_found(name) from None

    def read_manifest(self, name: str | ModelName) -> StoredManifest:
        """A manifest of this store (not of the read-only collections).

        Raises:
            ModelNotFoundError: No such model here.
        """
        canonical = self.canonical(name)
        path = self.layout.manifest(canonical)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
                modified_at = path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self.not_found(name) from None
        except OSError as error:
            raise store_error(error, self.layout.root) from error
        try:
            return StoredManifest(canonical, path, data, Manifest.decode(data), modified_at)
        except StoreError as error:
            raise StoreError(f"{canonical.short}: {error}", hint="pull or create the model again") from error

    def read_own(self, name: str | ModelName) -> StoredManifest:
        """`read_manifest`, with its own error for a model that is listed here but kept by another program.

        Raises:
            ModelNotFoundError: No such model.
            StoreError: It belongs to a read-only collection.
        """
        canonical = self.canonical(name)
        if not self.layout.manifest(canonical).is_file() and self._is_foreign(canonical):
            raise StoreError(
                f"{canonical.short} belongs to another program's store",
                hint=f"pull it, or create a model of your own with a Modelfile FROM {canonical.short}",
            )
        return self.read_manifest(name)

    def not_found(self, name: str | ModelName) -> ModelNotFoundError:
        """The error for a name that is not here, with the nearest names as its hint."""
        shown = name if isinstance(name, str) else name.short
        return ModelNotFoundError(f"model '{shown}' not found", name=shown, hint=self._suggest(shown))

    def _suggest(self, wanted: str) -> str:
        known = {name.short: name for name in self.names()}
        by_folded = {short.lower(): short for short in known}
        by_folded |= {name.model.lower(): short for short, name in known.items()}
        close = difflib.get_close_matches(wanted.lower(), by_folded, n=3, cutoff=0.6)
        shown = list(dict.fromkeys(by_folded[match] for match in close))
        if shown:
            return f"did you mean {' or '.join(shown)}? Otherwise pull it: donabe pull {wanted}"
        return f"pull it first: donabe pull {wanted}"

    def _is_foreign(self, name: ModelName) -> bool:
        return any(known.key == name.key for extra in self._extra for known in extra.names())

    def _spec(self, name: ModelName, *, strict: bool) -> ModelSpec:
        if self.layout.manifest(name).is_file():
            stored = self.read_manifest(name)
            return build_spec(
                stored.name, stored.manifest, stored.digest, stored.modified_at, self.blobs, strict=strict
            )
        for extra in self._extra:
            if any(known.key == name.key for known in extra.names()):
                return extra.spec(name)
        raise self.not_found(name)

    # --- changing ----------------------------------------------------------------------------------------------------

    def lock(self, purpose: str = "store", timeout_s: float = 60.0) -> FileLock:
        """The lock that guards a purpose between processes; `store` guards every change of manifests."""
        return FileLock(self.layout.lock(purpose), timeout_s=timeout_s)

    def write_manifest(self, name: ModelName, data: bytes) -> tuple[Digest, ...]:
        """Make a model visible: the last step of a pull or create. All its blobs must be here already.

        Returns:
            Digests of the replaced manifest that were removed because nothing refers to them any more.

        Raises:
            StoreError: A blob is missing (the old state stays), or the store can't be written.
        """
        manifest = Manifest.decode(data)
        path = self.layout.manifest(name)
        with store_errors(self.layout.root), self.lock():
            for layer in manifest.all_layers:
                if not self.blobs.has(layer.digest):
                    raise StoreError(
                        f"blob {layer.digest.short} is missing from the store", hint="pull the model again"
                    )
            before = self._digests_of(path)
            write_atomically(path, data)
            return () if self._keep_unused else self._remove_unused(before - manifest.digests)

    def delete(self, name: str | ModelName) -> None:
        """Remove a model, and its blobs unless another model uses them.

        Raises:
            ModelNotFoundError: No such model.
            StoreError: The model belongs to a read-only collection.
        """
        canonical = self.canonical(name)
        path = self.layout.manifest(canonical)
        with store_errors(self.layout.root):
            if not path.is_file():
                if self._is_foreign(canonical):
                    raise StoreError(
                        f"{canonical.short} belongs to another program's store, which donabe never changes",
                        hint="remove it with the program that downloaded it",
                    )
                raise self.not_found(name)
            with self.lock():
                digests = self._digests_of(path)
                path.unlink(missing_ok=True)
                remove_empty_folders(self.layout.manifests)
                self._remove_unused(digests)

    def copy(self, source: str | ModelName, destination: str | ModelName) -> None:
        """Give a model a second name; its blobs are shared.

        Raises:
            ModelNotFoundError: The source is not in this store.
        """
        stored = self.read_manifest(source)
        target = self.layout.manifest(self.canonical(destination))
        if target == stored.path:
            return
        with store_errors(self.layout.root), self.lock():
            if self._digests_of(stored.path) != stored.manifest.digests:
                raise self.not_found(source)  # deleted or replaced since it was read
            write_atomically(target, stored.data)

    def prune(self, grace_s: float = PRUNE_GRACE_S, now: float | None = None) -> PruneReport:
        """Remove blobs no manifest refers to and abandoned downloads, but nothing touched within the grace period.

        Does nothing while any manifest can't be parsed: what it refers to is unknown.
        """
        now = time.time() if now is None else now
        n_removed = freed = 0
        if not self.layout.root.is_dir():
            return PruneReport()
        with store_errors(self.layout.root), self.lock():
            used, unreadable = self._used_digests()
            if unreadable:
                return PruneReport(skipped=f"the manifest of {unreadable} can't be read")
            keep = {digest.file_name for digest in used}
            for path in self.blobs.files():
                status = path.stat()
                if path.name not in keep and now - status.st_mtime >= grace_s:
                    path.unlink(missing_ok=True)
                    n_removed, freed = n_removed + 1, freed + status.st_size
            remove_empty_folders(self.layout.manifests)
        return PruneReport(n_removed, freed)

    def tidy(self) -> PruneReport:
        """What a server does once at its start: adopt blobs under old names, then prune. It never fails."""
        try:
            self.adopt_legacy_blobs()
            report = self.prune()
        except StoreError as error:
            report = PruneReport(skipped=str(error))
        if report.skipped:
            _log.warning("unused blobs are not removed: %s", report.skipped)
        elif report.n_removed:
            _log.info("removed %d unused blobs (%.1f MB)", report.n_removed, report.freed_bytes / 1e6)
        return report

    def adopt_legacy_blobs(self) -> int:
        """Rename blobs stored as `sha256:<hex>` by early versions of the reference system; returns how many."""
        renamed = 0
        with store_errors(self.layout.root):
            for path in list(self.blobs.files()):
                with contextlib.suppress(DonabeError):
                    target = self.layout.blob(Digest.parse(path.name))
                    if ":" in path.name:
                        path.replace(target)
                        renamed += 1
        return renamed

    def discard_unused(self, digests: Iterable[Digest]) -> None:
        """Remove blobs that were fetched for a model which is not to be, unless another model uses them."""
        with store_errors(self.layout.root), self.lock():
            self._remove_unused(digests)

    def _digests_of(self, path: Path) -> frozenset[Digest]:
        """What a manifest refers to; nothing if it is missing or damaged."""
        try:
            return Manifest.decode(path.read_bytes()).digests
        except (OSError, StoreError):
            return frozenset()

    def _used_digests(self) -> tuple[frozenset[Digest], str]:
        """Digests of all manifests, and the name of one that can't be read (or "")."""
        used: set[Digest] = set()
        for name, path in self.layout.names():
            try:
                used |= Manifest.decode(path.read_bytes()).digests
            except (OSError, StoreError):
                return frozenset(used), name.short
        return frozenset(used), ""

    def _remove_unused(self, digests: Iterable[Digest]) -> tuple[Digest, ...]:
        used, _ = self._used_digests()
        removed = tuple(digest for digest in digests if digest not in used)
        for digest in removed:
            self.blobs.remove(digest)
        return removed
