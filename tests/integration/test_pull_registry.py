"""Pulling from and pushing to a model registry, honest or hostile. Everything on loopback."""

from __future__ import annotations

import gzip
import hashlib
import json
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.fakes.registry_gguf import FakeGguf, FakeTensor, split_model, tiny_model
from tests.fakes.registry_http import Reply, Request
from tests.fakes.registry_oci import FakeRegistry, fake_registry, sha256, signature_parts
from tests.fakes.registry_store import add_config, add_layer, add_model

from donabe.errors import (
    DonabeError,
    ModelFileError,
    ModelNotFoundError,
    SourceAuthError,
    SourceError,
    SourceUnreachableError,
    VerificationError,
)
from donabe.registry import parts as plans
from donabe.registry.download import Patience, RateLimit
from donabe.registry.jobs import Puller, Pusher, pull_model_sync
from donabe.registry.references import parse_reference
from donabe.registry.sources import PullOptions
from donabe.store.digest import Digest
from donabe.store.manifests import Manifest
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import PullProgress

WEIGHTS = tiny_model().encode()
_BIG = FakeGguf(tiny_model().values, (FakeTensor("token_embd.weight", (4, 100_000)),), data_bytes=0).encode()
BIG = _BIG + bytes(range(256)) * 6_250


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with fake_registry() as state:
        yield state


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "area" / "models")


@pytest.fixture
def options(registry: FakeRegistry, tmp_path: Path) -> PullOptions:
    return PullOptions(
        insecure=True,
        private_hosts=(registry.host, registry.storage.host),
        key_folder=tmp_path / "home",
        patience=Patience(n_tries=3, stall_s=0.3, backoff_s=0.01),
    )


def _pull(store: ModelStore, name: str, options: PullOptions) -> list[PullProgress]:
    return list(pull_model_sync(parse_reference(name), store, options))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_pull_follows_the_known_order(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    data = registry.add_model("lib/m:t", WEIGHTS, layers={"system": b"Say hi!"})
    statuses = [event.status for event in _pull(store, f"{registry.host}/lib/m:t", options)]
    order = list(dict.fromkeys(statuses))
    blobs = [f"pulling {hashlib.sha256(blob).hexdigest()[:12]}" for blob in registry.blobs.values()]
    assert order[0] == "pulling manifest"
    assert sorted(order[1:4]) == sorted(blobs)
    assert order[1].endswith(hashlib.sha256(WEIGHTS).hexdigest()[:12])
    assert order[4:] == ["verifying sha256 digest", "writing manifest", "success"]
    stored = store.read_manifest(f"{registry.host}/lib/m:t")
    assert stored.data == data
    assert store.resolve(stored.name).system == "Say hi!"
    (asked,) = registry.server.seen("GET", "/v2/lib/m/manifests/")
    assert asked.headers["accept"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_second_pull_fetches_the_manifest_only(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.add_model("lib/m:t", WEIGHTS)
    _pull(store, f"{registry.host}/lib/m:t", options)
    n_before = len(registry.server.requests)
    events = _pull(store, f"{registry.host}/lib/m:t", options)
    assert len(registry.server.requests) == n_before + 1
    assert all(event.completed == event.total for event in events if event.digest)


def test_new_content_replaces_the_old_layers(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.add_model("lib/m:t", WEIGHTS, layers={"system": b"old"})
    _pull(store, f"{registry.host}/lib/m:t", options)
    registry.add_model("lib/m:t", WEIGHTS, layers={"system": b"new"})
    events = _pull(store, f"{registry.host}/lib/m:t", options)
    assert "removing unused layers" in [event.status for event in events]
    assert not store.blobs.has(Digest.of_bytes(b"old"))


def test_missing_model(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^pull model manifest: file does not exist$") as caught:
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert caught.value.hint
    assert not store.layout.manifests.exists()


def test_registry_that_does_not_answer(store: ModelStore, options: PullOptions) -> None:
    with pytest.raises(SourceUnreachableError, match=r"pull model manifest: 127\.0\.0\.1:9 can't be reached"):
        _pull(store, "127.0.0.1:9/lib/m", PullOptions(insecure=True, private_hosts=("*",), patience=options.patience))


def test_plain_http_needs_the_flag(registry: FakeRegistry, store: ModelStore) -> None:
    with pytest.raises(SourceError, match="insecure protocol http"):
        _pull(store, f"http://{registry.host}/lib/m", PullOptions(private_hosts=("*",)))
    assert registry.server.requests == []


def test_parallel_parts_are_put_together(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MIN_PART_BYTES", 200_000)
    registry.add_model("lib/m:t", BIG)
    registry.server.cut_after = [50_000, 150_000]
    _pull(store, f"{registry.host}/lib/m:t", options)
    assert Path(store.resolve(f"{registry.host}/lib/m:t").paths[0]).read_bytes() == BIG
    ranges = {request.headers.get("range") for request in registry.server.seen("GET", f"/v2/lib/m/blobs/{sha256(BIG)}")}
    assert {"bytes=0-199999", "bytes=200000-399999"} <= ranges


def test_server_without_ranges_is_read_in_one_piece(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MIN_PART_BYTES", 200_000)
    registry.server.supports_ranges = False
    registry.add_model("lib/m:t", BIG)
    _pull(store, f"{registry.host}/lib/m:t", options)
    assert Path(store.resolve(f"{registry.host}/lib/m:t").paths[0]).read_bytes() == BIG


def test_rate_limit_is_kept(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.add_model("lib/m:t", BIG)
    started = time.monotonic()
    _pull(store, f"{registry.host}/lib/m:t", replace(options, rate_limit=len(BIG) * 2))
    assert time.monotonic() - started > 0.4


async def test_call_may_lower_the_limit_and_not_lift_it(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    monkeypatch.setattr("donabe.registry.oci.RateLimit", lambda rate: limits.append(rate) or RateLimit(0))
    monkeypatch.setattr("donabe.registry.push.RateLimit", lambda rate: limits.append(rate) or RateLimit(0))
    registry.add_model("lib/m:t", WEIGHTS)
    name = f"{registry.host}/lib/m:t"
    for setting, asked in ((0, 0), (0, 7_000), (9_000, 0), (9_000, 7_000), (9_000, 99_000)):
        limited = replace(options, rate_limit=setting)
        for transfer in (Puller(store, limited), Pusher(store, limited)):
            assert [event async for event in transfer(name, limit_rate=asked)][-1].status == "success"
    assert limits == [0, 0, 7_000, 7_000, 9_000, 9_000, 7_000, 7_000, 9_000, 9_000]


@pytest.mark.parametrize("status", [302, 307])
def test_redirect_to_storage_carries_no_credentials(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, status: int
) -> None:
    registry.token, registry.redirect_blobs = "secret", status
    registry.add_model("lib/m:t", WEIGHTS)
    _pull(store, f"{registry.host}/lib/m:t", options)
    assert store.resolve(f"{registry.host}/lib/m:t")
    assert registry.storage.requests
    assert all("authorization" not in request.headers for request in registry.storage.requests)
    assert all("cookie" not in request.headers for request in registry.storage.requests)


def test_token_request_is_signed_with_the_users_key(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    registry.token = "secret"
    registry.add_model("lib/m:t", WEIGHTS)
    _pull(store, f"{registry.host}/lib/m:t", options)
    (asked,) = registry.server.seen("GET", "/token")
    assert asked.query["service"] == ["fake"]
    assert asked.query["scope"] == ["repository:lib/m:pull"]
    key, signature = signature_parts(asked.headers["authorization"])
    query = "&".join(
        f"{name}={value[0].replace('/', '%2F').replace(':', '%3A')}" for name, value in sorted(asked.query.items())
    )
    empty_body = "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ=="
    message = f"GET,{registry.server.url}/token?{query},{empty_body}"
    Ed25519PublicKey.from_public_bytes(key[-32:]).verify(signature, message.encode())
    assert (options.key_folder / "id_ed25519").stat().st_mode & 0o777 == 0o600
    assert (options.key_folder / "id_ed25519.pub").read_text().startswith("ssh-ed25519 ")


def test_refused_token_is_asked_for_once(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.token = "secret"
    registry.server.routes["/token"] = lambda _: Reply(200, b'{"token":"wrong"}')
    registry.add_model("lib/m:t", WEIGHTS)
    with pytest.raises(SourceAuthError, match="unauthorized: access denied"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert len(registry.server.seen("GET", "/token")) == 1


def test_unreachable_source_gives_way_to_the_next(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    from donabe.registry import catalogue

    registry.add_model("lib/m:t", WEIGHTS)
    sources = tuple(
        catalogue.CatalogueSource(registry=ModelName.parse(text))
        for text in ("127.0.0.1:9/x/y:z", f"{registry.host}/lib/m:t")
    )
    model = catalogue.CatalogueModel(ModelName.parse("short"), "", "", 1, sources)
    monkeypatch.setattr(catalogue, "find", lambda _: model)
    events = _pull(store, "short", replace(options, private_hosts=("*",)))
    (note,) = [event.status for event in events if "trying" in event.status]
    assert note.startswith("127.0.0.1:9/x/y:z: pull model manifest: 127.0.0.1:9 can't be reached")
    assert note.endswith(f"; trying {registry.host}/lib/m:t")
    assert store.resolve("short").name == "short:latest"


# --- hostile registries ----------------------------------------------------------------------------------------------

HOSTILE_REALMS = [
    "http://{storage}/token", "https://{host}/token", "http://{host}.evil.example/token", "http://user:pw@{host}/token",
    "http://{host}@{storage}/token", "//{storage}/token", "file:///etc/passwd", "http://127.0.0.1:1/token", "token", "",
    "http://{host}\\@{storage}/token", "http://xn--e1afmkfd.example/token",
]  # fmt: skip


@pytest.mark.parametrize("realm", HOSTILE_REALMS)
def test_no_credential_leaves_for_another_host(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, realm: str
) -> None:
    registry.token = "secret"
    registry.realm = realm.format(host=registry.host, storage=registry.storage.host) or " "
    registry.add_model("lib/m:t", WEIGHTS)
    with pytest.raises(SourceAuthError, match="realm"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert registry.storage.requests == []
    assert all("authorization" not in request.headers for request in registry.server.requests)
    assert not (options.key_folder / "id_ed25519").exists()


GOOD = sha256(WEIGHTS)
HOSTILE_DIGESTS: list[object] = [
    "", "sha256:", GOOD[:-1], GOOD + "0", "sha256:../../../../x", "sha256-../../x", "sha256:" + "../" * 21 + "x",
    "/etc/passwd", GOOD[:-1] + "\0", "sha512:" + "0" * 128, "sha256:" + "\uff10" * 64, GOOD + "/../../../x", None, 5,
    [GOOD], {"a": GOOD}, "..", "sha256:" + "/" * 64, "sha256%3A" + "0" * 64, GOOD.replace("sha256:", "sha256:\n"),
]  # fmt: skip


@pytest.mark.parametrize("digest", HOSTILE_DIGESTS, ids=[repr(digest)[:30] for digest in HOSTILE_DIGESTS])
@pytest.mark.parametrize("where", ["layer", "config"])
def test_hostile_digest_is_refused_before_anything_is_written(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, digest: object, where: str
) -> None:
    add_model(store, "kept")
    area = store.layout.root.parent
    (area / "x").write_text("outside")
    value: dict[str, Any] = json.loads(registry.add_model("lib/m:t", WEIGHTS))
    target = value["layers"][0] if where == "layer" else value["config"]
    target["digest"] = digest
    registry.manifests["lib/m:t"] = json.dumps(value).encode()
    before = _files(area)
    with pytest.raises(SourceError, match="digest"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    after = {name: data for name, data in _files(area).items() if not name.endswith(".lock")}
    assert after == {name: data for name, data in before.items() if not name.endswith(".lock")}
    assert len(registry.server.seen("GET", "/v2/lib/m/blobs/")) == 0


def _serve(registry: FakeRegistry, manifest: bytes, **headers: str) -> None:
    registry.server.routes["/v2/lib/m/manifests/"] = lambda _: Reply(200, manifest, headers)


@pytest.mark.parametrize(
    "manifest",
    [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"layers":null}', b'{"config":{},"layers":[]}', b"<html>",
     b'{"layers":[{}]}', b'{"config":null,"layers":[null]}', b" " * (5 << 20)],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_broken_manifest_is_one_error(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, manifest: bytes
) -> None:
    _serve(registry, manifest)
    with pytest.raises(SourceError, match="pull model manifest: the registry's") as caught:
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert "\n" not in str(caught.value)
    assert store.names() == ()


def test_compression_bomb_is_not_unpacked(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    _serve(registry, bomb, **{"Content-Encoding": "gzip"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match="compressed"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_compressed_blob_is_refused(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.add_model("lib/m:t", WEIGHTS)
    squeezed = gzip.compress(WEIGHTS)
    registry.server.routes["/v2/lib/m/blobs/"] = lambda _: Reply(200, squeezed, {"Content-Encoding": "gzip"})
    with pytest.raises(SourceError, match="compressed"):
        _pull(store, f"{registry.host}/lib/m:t", options)


def test_endless_token_answer_is_cut(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.token = "secret"
    registry.server.routes["/token"] = lambda _: Reply(200, b"x" * 1_000_000)
    with pytest.raises(SourceError, match="longer than"):
        _pull(store, f"{registry.host}/lib/m:t", options)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "\u00e4", "", 5, None, ["x"]])
def test_token_that_is_none_is_refused(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, token: object
) -> None:
    registry.token = "secret"
    registry.server.routes["/token"] = lambda _: Reply(200, json.dumps({"token": token}).encode())
    with pytest.raises(SourceAuthError, match="holds no token"):
        _pull(store, f"{registry.host}/lib/m:t", options)


def test_blob_with_other_content_is_refused_and_only_it_is_removed(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    kept = add_model(store, "kept")
    registry.add_model("lib/m:t", BIG)
    registry.blobs[sha256(BIG)] = BIG[:-1] + b"!"
    with pytest.raises(VerificationError, match=r"digest mismatch, file must be downloaded again: want .*, got "):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert store.blobs.has(kept)
    assert [name.short for name in store.names()] == ["kept:latest"]
    assert not store.layout.partial(Digest.of_bytes(BIG)).exists()


@pytest.mark.parametrize("size", [1, len(WEIGHTS) - 1, len(WEIGHTS) + 1, len(WEIGHTS) * 100])
def test_wrong_announced_size_is_refused(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, size: int
) -> None:
    registry.add_model("lib/m:t", WEIGHTS, size=size)
    with pytest.raises(VerificationError):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert store.names() == ()


def test_announced_size_beyond_the_disk_is_refused_at_once(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    registry.add_model("lib/m:t", WEIGHTS, size=1 << 45)
    with pytest.raises(DonabeError, match="not enough space"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert list(store.blobs.files()) == []


@pytest.mark.parametrize("kind", ["model", "projector", "adapter", "draft"])
def test_malformed_gguf_never_becomes_a_model(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, kind: str
) -> None:
    evil = WEIGHTS[:-30]
    layers = {} if kind == "model" else {kind: evil}
    registry.add_model("lib/m:t", evil if kind == "model" else WEIGHTS, layers=layers)
    with pytest.raises(ModelFileError, match="cut off"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert store.names() == ()
    assert not store.blobs.has(Digest.of_bytes(evil))


@pytest.mark.parametrize("location", [
    "file:///etc/passwd", "ftp://x/y", "http://user:pw@127.0.0.1/x", "http://", "gopher://127.0.0.1:70/", "http://[::1",
    "http://127.0.0.1:99999/x",
])  # fmt: skip
def test_redirect_to_an_odd_address_is_refused(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, location: str
) -> None:
    registry.server.routes["/v2/lib/m/manifests/"] = lambda _: Reply(307, b"", {"Location": location})
    with pytest.raises(SourceError, match=r"address|Invalid URL|maximum redirects"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert registry.storage.requests == []


def test_redirect_to_a_private_address_is_refused(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    registry.redirect_blobs = 307
    registry.add_model("lib/m:t", WEIGHTS)
    with pytest.raises(SourceError, match="private network"):
        _pull(store, f"{registry.host}/lib/m:t", replace(options, private_hosts=(registry.host,)))
    assert registry.storage.requests == []


def test_endless_redirects_end(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.server.routes["/v2/lib/m/manifests/"] = lambda request: Reply(307, b"", {"Location": request.path})
    with pytest.raises(SourceError, match=r"maximum redirects exceeded \(10\)"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert len(registry.server.requests) == 11


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "0.0.0.0", "192.168.1.1"])
def test_private_registries_are_refused_by_default(store: ModelStore, host: str) -> None:
    with pytest.raises(SourceError, match="private network") as caught:
        _pull(store, f"{host}:80/lib/m:t", PullOptions(insecure=True))
    assert "DONABE_PRIVATE_REGISTRIES" in str(caught.value.hint)


def test_error_text_of_a_registry_is_made_harmless(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    registry.server.routes["/v2/lib/m/manifests/"] = lambda _: Reply(418, b"\x1b[2Jevil\r\nlog line" + b"x" * 10_000)
    with pytest.raises(SourceError) as caught:
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert "evil" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


# --- pushing ---------------------------------------------------------------------------------------------------------


async def _push(store: ModelStore, name: str, options: PullOptions) -> list[PullProgress]:
    return [event async for event in Pusher(store, options)(name)]


async def test_push_then_pull_elsewhere_gives_the_same_model(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, tmp_path: Path
) -> None:
    name = f"{registry.host}/lib/m:t"
    add_model(store, name, system=b"Say hi!", license=b"")
    events = await _push(store, name, options)
    assert events[0].status == "retrieving manifest"
    assert [event.status for event in events[-2:]] == ["pushing manifest", "success"]
    pushed = {event.status: event for event in events if event.digest}
    assert len(pushed) == 4
    assert all(event.completed == event.total for event in pushed.values())
    other = ModelStore(tmp_path / "other")
    assert [event async for event in Puller(other, options)(name)][-1].status == "success"
    assert other.read_manifest(name).digest == store.read_manifest(name).digest


async def test_push_sends_only_what_is_missing(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    name = f"{registry.host}/lib/m:t"
    add_model(store, name)
    registry.add_blob(WEIGHTS)
    await _push(store, name, options)
    assert len(registry.server.seen("POST")) == 1  # the config


async def test_push_sends_the_parts_checksum(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    name = f"{registry.host}/lib/m:t"
    add_model(store, name)
    await _push(store, name, options)
    etags = {query["digest"][0]: query["etag"][0] for query in registry.finished}
    assert etags[sha256(WEIGHTS)] == f"{hashlib.md5(hashlib.md5(WEIGHTS).digest()).hexdigest()}-1"
    patch = registry.server.seen("PATCH")[0]
    assert patch.headers["content-range"] == f"0-{len(WEIGHTS) - 1}"
    assert patch.query["_state"] == ["a=b"]


async def test_push_in_parts(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MIN_PART_BYTES", 700_000)
    name = f"{registry.host}/lib/m:t"
    add_model(store, name, license=BIG)
    await _push(store, name, options)
    assert registry.blobs[sha256(BIG)] == BIG


async def test_push_to_redirected_storage_sends_no_credentials(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    registry.token, registry.redirect_uploads = "secret", True
    name = f"{registry.host}/lib/m:t"
    add_model(store, name)
    await _push(store, name, options)
    assert registry.blobs[sha256(WEIGHTS)] == WEIGHTS
    assert all("authorization" not in request.headers for request in registry.storage.requests)


async def test_push_mounts_layers_of_another_repository(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:

    base = add_layer(store, "model", WEIGHTS)
    inherited = type(base)(base.media_type, base.digest, base.size, from_=f"{registry.host}/lib/base:t")
    name = ModelName.parse(f"{registry.host}/lib/m:t")
    store.write_manifest(name, Manifest(add_config(store, model_format="gguf"), (inherited,)).encode())
    registry.mountable["lib/base"] = {str(base.digest)}
    await _push(store, name.short, options)
    assert registry.blobs[str(base.digest)] == b"mounted"


async def test_push_of_a_missing_model(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    with pytest.raises(ModelNotFoundError):
        await _push(store, f"{registry.host}/lib/m:t", options)
    assert registry.server.requests == []


def _breaking(registry: FakeRegistry, *kept: Any) -> list[Request]:
    """Let uploads break off: of each PATCH in turn the registry keeps what `kept` makes of its bytes."""
    patches: list[Request] = []
    kinds = list(kept)

    def answer(request: Request) -> Reply:
        if request.method == "PATCH":
            patches.append(request)
            if kinds and len(request.body) > 600_000:
                session = request.path.rpartition("/")[2]
                registry.sessions[session] += kinds.pop(0)(request.body)
                return Reply(503)
        return registry.answer(request)

    registry.server.routes["/"] = answer
    return patches


async def test_push_goes_on_where_it_broke_off(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MIN_PART_BYTES", 1_100_000)
    name = f"{registry.host}/lib/m:t"
    add_model(store, name, license=BIG)
    patches = _breaking(registry, lambda body: body[:400_000], lambda body: body)
    await _push(store, name, options)
    ranges = [request.headers["content-range"].split("-")[0] for request in patches if len(request.body) > 100_000]
    assert ranges == ["0", "400000", "1100000"]
    assert registry.blobs[sha256(BIG)] == BIG
    assert len(registry.sessions) == 3  # weights, license, config: nothing was started twice
    parts = [BIG[start : start + 1_100_000] for start in range(0, len(BIG), 1_100_000)]
    joint = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    etags = {query["digest"][0]: query["etag"][0] for query in registry.finished}
    assert etags[sha256(BIG)] == f"{joint}-{len(parts)}"


@pytest.mark.parametrize("damage", [lambda body: bytes(500_000), lambda body: body + body, lambda body: b""])
async def test_push_starts_again_where_it_cannot_go_on(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, damage: Any
) -> None:
    name = f"{registry.host}/lib/m:t"
    add_model(store, name, license=BIG)
    _breaking(registry, damage)
    await _push(store, name, options)
    assert registry.blobs[sha256(BIG)] == BIG


async def test_push_retries_a_broken_session(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    name = f"{registry.host}/lib/m:t"
    add_model(store, name)
    failures = [503, 503]
    answer = registry.answer

    def flaky(request: Any) -> Reply:
        if request.method == "PATCH" and failures:
            return Reply(failures.pop())
        return answer(request)

    registry.server.routes["/"] = flaky
    await _push(store, name, options)
    assert registry.blobs[sha256(WEIGHTS)] == WEIGHTS


def test_two_pulls_at_once_share_the_work(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    registry.add_model("lib/m:t", BIG)
    registry.server.chunk_delay_s = 0.005
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(_pull(store, f"{registry.host}/lib/m:t", options)[-1].status))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["success"] * 4
    assert len(registry.server.seen("GET", f"/v2/lib/m/blobs/{sha256(BIG)}")) == 1


# --- split models ----------------------------------------------------------------------------------------------------


def test_split_set_of_several_layers(registry: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    parts = split_model(3)
    data = registry.add_files("lib/big:t", [parts[1], parts[0], parts[2]])
    name = f"{registry.host}/lib/big:t"
    assert _pull(store, name, options)[-1].status == "success"
    assert store.read_manifest(name).data == data
    assert [Path(path).read_bytes() for path in store.resolve(name).paths] == parts


@pytest.mark.parametrize("chosen", [(0,), (1,), (0, 2), (0, 1, 1), (0, 1, 2, 2)])
def test_split_set_that_is_not_whole_is_refused(
    registry: FakeRegistry, store: ModelStore, options: PullOptions, chosen: tuple[int, ...]
) -> None:
    parts = split_model(3)
    registry.add_files("lib/big:t", [parts[index] for index in chosen])
    if chosen == (0, 1, 2, 2):  # one file named twice is still the whole set
        assert _pull(store, f"{registry.host}/lib/big:t", options)[-1].status == "success"
        return
    with pytest.raises(ModelFileError, match="split into 3 files"):
        _pull(store, f"{registry.host}/lib/big:t", options)
    assert store.names() == ()
    assert list(store.blobs.files()) == []


def _publish_on_hugging_face(registry: FakeRegistry, files: dict[str, bytes]) -> None:
    """What hf.co says of a repository with split models: no manifest, but a list of files, which lie elsewhere."""
    listing = [
        {"type": "file", "path": path, "size": len(data), "lfs": {"oid": sha256(data)[7:], "size": len(data)}}
        for path, data in files.items()
    ]
    refusal = json.dumps({"error": "The specified tag is a sharded GGUF."}).encode()
    registry.server.routes["/v2/org/big/manifests/"] = lambda _: Reply(400, refusal)
    registry.server.routes["/api/models/org/big/tree/main"] = lambda _: Reply(200, json.dumps(listing).encode())
    for path, data in files.items():
        registry.add_blob(data)
        location = {"Location": f"{registry.storage.url}/blobs/{sha256(data)}"}
        registry.server.routes[f"/org/big/resolve/main/{path}"] = lambda _, to=location: Reply(302, b"", to)


@pytest.fixture
def hugging_face(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    monkeypatch.setattr("donabe.registry.pull.HOSTS", frozenset({registry.host}))
    return registry


@pytest.mark.parametrize("tag", [":q8_0", ":Q8_0", ""])
def test_split_set_on_hugging_face(
    hugging_face: FakeRegistry, store: ModelStore, options: PullOptions, tag: str
) -> None:
    parts = split_model(2)
    files = {f"Q8_0/Big-Q8_0-0000{number}-of-00002.gguf": parts[number - 1] for number in (2, 1)}
    _publish_on_hugging_face(hugging_face, files | {"README.md": b"x", "mmproj-Q8_0-00001-of-00001.gguf": b"x"})
    name = f"{hugging_face.host}/org/big{tag}"
    assert _pull(store, name, options)[-1].status == "success"
    assert [Path(path).read_bytes() for path in store.resolve(name).paths] == parts
    n_before = len(hugging_face.storage.requests)
    _pull(store, name, options)
    assert len(hugging_face.storage.requests) == n_before


def test_split_set_missing_on_hugging_face_names_the_others(
    hugging_face: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    _publish_on_hugging_face(hugging_face, {"Big-Q8_0-00001-of-00002.gguf": b"x"})
    with pytest.raises(ModelNotFoundError) as caught:
        _pull(store, f"{hugging_face.host}/org/big:q4_0", options)
    assert "Q8_0" in str(caught.value.hint)
    with pytest.raises(SourceError, match="has 1 of the 2 files"):
        _pull(store, f"{hugging_face.host}/org/big:q8_0", options)


@pytest.mark.parametrize("change", [
    {"lfs": {"oid": "../../etc/passwd"}}, {"lfs": None}, {"size": -1}, {"size": "1"}, {"size": 1 << 60},
])  # fmt: skip
def test_hostile_split_set_listing_changes_nothing(
    hugging_face: FakeRegistry, store: ModelStore, options: PullOptions, change: dict[str, Any]
) -> None:
    part = split_model(2)[0]
    _publish_on_hugging_face(hugging_face, {"Big-Q8_0-00001-of-00002.gguf": part})
    entry = {"path": "Big-Q8_0-00001-of-00002.gguf", "size": 5, "lfs": {"oid": sha256(part)[7:]}} | change
    answer = json.dumps([entry]).encode()
    hugging_face.server.routes["/api/models/org/big/tree/main"] = lambda _: Reply(200, answer)
    with pytest.raises(SourceError, match="the list of the repository's files"):
        _pull(store, f"{hugging_face.host}/org/big:q8_0", options)
    assert not store.layout.root.exists() or list(store.blobs.files()) == []


# --- refused before the weights come ---------------------------------------------------------------------------------


def test_model_of_another_engine_is_refused_by_its_config(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    value: dict[str, Any] = json.loads(registry.add_model("lib/m:t", WEIGHTS))
    config = json.dumps({"model_format": "gguf", "model_family": "mllama"}).encode()
    value["config"] |= {"digest": registry.add_blob(config), "size": len(config)}
    registry.manifests["lib/m:t"] = json.dumps(value).encode()
    with pytest.raises(ModelFileError, match=r"laid out for Ollama's own engine \(architecture mllama\)") as caught:
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert "llama.cpp" in str(caught.value.hint)
    asked = [request.path for request in registry.server.seen("GET", "/v2/lib/m/blobs/")]
    assert asked == [f"/v2/lib/m/blobs/{sha256(config)}"]
    assert not store.layout.blobs.exists()


def test_safetensors_model_is_refused_by_its_manifest(
    registry: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    registry.add_model("lib/m:t", WEIGHTS, mediaType="application/vnd.ollama.image.tensor")
    with pytest.raises(SourceError, match="stored as safetensors"):
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert registry.server.seen("GET", "/v2/lib/m/blobs/") == []


def test_unreachable_registry_still_gets_the_nearest_names(
    store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(SourceUnreachableError) as caught:
        _pull(store, "smollm2:136m", options)
    assert "did you mean smollm2:135m" in str(caught.value.hint)
