"""Push to and pull from a real registry server: same digests, resume after kill -9, shared pulls."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import FakeGguf, FakeTensor, tiny_model
from tests.fakes.registry_store import add_model
from tests.registry_program import real_registry

from donabe.errors import ModelNotFoundError
from donabe.registry.download import Download, Patience
from donabe.registry.jobs import Pusher, pull_model_sync
from donabe.registry.references import parse_reference
from donabe.registry.sources import PullOptions
from donabe.store.check import check_store
from donabe.store.models import ModelStore

N_BYTES = 48_000_000


def _big_model(n_bytes: int = N_BYTES, seed: int = 2) -> FakeGguf:
    model = tiny_model()
    return FakeGguf(
        model.values,
        (FakeTensor("token_embd.weight", (4, n_bytes // 16)),),
        data_bytes=0,
        tail=random.Random(seed).randbytes(n_bytes),
    )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def pushed(host: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ModelStore]:
    """A model that was pushed, and the store it came from."""
    store = ModelStore(tmp_path_factory.mktemp("origin"))
    name = f"{host}/team/big:v1"
    add_model(store, name, _big_model(), system=b"Say hi!", license=b"MIT", params=b'{"top_k":10}\n')

    async def push() -> list[str]:
        return [event.status async for event in Pusher(store, _options(host))(name)]

    statuses = asyncio.run(push())
    assert statuses[-2:] == ["pushing manifest", "success"]
    return name, store


def _options(host: str, rate_limit: int = 0) -> PullOptions:
    return PullOptions(insecure=True, private_hosts=(host,), rate_limit=rate_limit)


def test_pull_gives_the_digests_that_were_pushed(host: str, pushed: tuple[str, ModelStore], tmp_path: Path) -> None:
    name, origin = pushed
    store = ModelStore(tmp_path / "models")
    events = list(pull_model_sync(parse_reference(name), store, _options(host)))
    assert events[-1].status == "success"
    assert store.read_manifest(name).digest == origin.read_manifest(name).digest
    assert store.resolve(name).system == "Say hi!"
    assert {path.name for path in store.blobs.files()} == {path.name for path in origin.blobs.files()}


def test_pushing_again_sends_no_blob(host: str, pushed: tuple[str, ModelStore]) -> None:
    name, store = pushed

    async def push() -> int:
        started = time.monotonic()
        events = [event async for event in Pusher(store, _options(host))(name)]
        assert time.monotonic() - started < 5
        return sum(1 for event in events if event.digest and 0 < event.completed < event.total)

    assert asyncio.run(push()) == 0


def test_missing_tag(host: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="file does not exist"):
        list(pull_model_sync(parse_reference(f"{host}/team/big:absent"), ModelStore(tmp_path), _options(host)))


_CHILD = """
import sys
from pathlib import Path
from donabe.registry.jobs import pull_model_sync
from donabe.registry.references import parse_reference
from donabe.registry.sources import PullOptions
from donabe.store.models import ModelStore
folder, name, host = sys.argv[1:]
options = PullOptions(insecure=True, private_hosts=(host,), rate_limit=25_000_000)
for event in pull_model_sync(parse_reference(name), ModelStore(Path(folder)), options):
    print(event.completed, flush=True)
"""


_PUSHING_CHILD = """
import asyncio, sys
from pathlib import Path
from donabe.registry.jobs import Pusher
from donabe.registry.sources import PullOptions
from donabe.store.models import ModelStore
folder, name, host = sys.argv[1:]
options = PullOptions(insecure=True, private_hosts=(host,), rate_limit=25_000_000)
async def push():
    async for event in Pusher(ModelStore(Path(folder)), options)(name):
        print(event.digest or "-", event.completed, flush=True)
asyncio.run(push())
"""


def _push_until_killed(store: ModelStore, name: str, host: str, digest: str, offset: int) -> None:
    """Push in a process that is killed when so many bytes of a blob are sent."""
    child = subprocess.Popen(
        [sys.executable, "-c", _PUSHING_CHILD, str(store.layout.root), name, host], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.split()[0] == digest and int(line.split()[1]) >= offset:
            break
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL


async def test_killed_pushes_leave_no_model_and_keep_what_arrived(host: str, tmp_path: Path) -> None:
    name, chance = f"{host}/team/killed:v1", random.Random(4)
    store = ModelStore(tmp_path / "origin")
    draft = _big_model(N_BYTES // 3, seed=3).encode()
    add_model(store, name, _big_model(N_BYTES // 3, seed=4), draft=draft)
    first, second = store.read_manifest(name).manifest.layers
    other = ModelStore(tmp_path / "other")
    for layer in (first, second):
        _push_until_killed(store, name, host, str(layer.digest), chance.randrange(1, N_BYTES // 4))
        with pytest.raises(ModelNotFoundError):
            await asyncio.to_thread(lambda: list(pull_model_sync(parse_reference(name), other, _options(host))))
    events = [event async for event in Pusher(store, _options(host))(name)]
    assert events[-1].status == "success"
    assert {event.completed for event in events if event.digest == str(first.digest)} <= {0, first.size}
    (*_, last) = await asyncio.to_thread(lambda: list(pull_model_sync(parse_reference(name), other, _options(host))))
    assert last.status == "success"
    assert other.read_manifest(name).digest == store.read_manifest(name).digest
    assert check_store(other, deep=True) == ()


@contextmanager
def _cutting_relay(host: str, cut_after: int) -> Iterator[tuple[str, list[int]]]:
    """A way to the registry that breaks once, after so many bytes; (its address, bytes sent on each connection)."""
    sent: list[int] = []
    target, _, port = host.partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    ends, threads = [listener], []

    def pump(source: socket.socket, sink: socket.socket, index: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
                if index is not None:
                    sent[index] += len(data)
                    if sent[index] > cut_after and sum(count > cut_after for count in sent) == 1:
                        break
        _shut(source, sink)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((target, int(port)))
                sent.append(0)
                ends.extend((client, server))
                start(pump, client, server, len(sent) - 1)
                start(pump, server, client, None)

    def start(work: Callable[..., None], *arguments: object) -> None:
        threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        threads[-1].start()

    start(accept)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", sent
    finally:
        _shut(*ends)
        for thread in threads:
            thread.join()
        for end in ends:
            end.close()


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


async def test_push_survives_a_breaking_connection(host: str, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "origin")
    with _cutting_relay(host, N_BYTES // 2) as (relay, sent):
        name = f"{relay}/team/cut:v1"
        add_model(store, name, _big_model(seed=5))
        options = replace(_options(relay), patience=Patience(backoff_s=0.05))
        assert [event.status async for event in Pusher(store, options)(name)][-1] == "success"
        assert (
            sum(count > N_BYTES // 2 for count in sent) == 2
        )  # this registry wants a blob that broke off from its start
    other = ModelStore(tmp_path / "other")
    copied = f"{host}/team/cut:v1"
    (*_, last) = await asyncio.to_thread(lambda: list(pull_model_sync(parse_reference(copied), other, _options(host))))
    assert last.status == "success"
    assert other.read_manifest(copied).digest == store.read_manifest(name).digest


def test_kill_at_random_offsets_then_resume(host: str, pushed: tuple[str, ModelStore], tmp_path: Path) -> None:
    name, origin = pushed
    store = ModelStore(tmp_path / "models")
    chance = random.Random(3)
    reached = 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(store.layout.root), name, host], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        counts = [int(child.stdout.readline() or 0) for _ in range(2)]
        offset = reached + chance.randrange(1_000_000, 8_000_000)
        while counts[-1] < offset:
            counts.append(int(child.stdout.readline()))
        child.send_signal(signal.SIGKILL)
        counts += [int(line) for line in child.communicate()[0].split()]
        assert counts[1] >= reached - 5_000_000  # 0.2 s at the limit: records are written more often than that
        reached = max(counts)
        assert store.names() == () or store.resolve(name)
        assert check_store(store, deep=True) == ()
    assert 4_000_000 < reached < N_BYTES
    (*_, last) = pull_model_sync(parse_reference(name), store, _options(host))
    assert last.status == "success"
    assert store.read_manifest(name).digest == origin.read_manifest(name).digest
    store.prune(grace_s=0)
    assert {path.name for path in store.blobs.files()} == {path.name for path in origin.blobs.files()}


def test_two_pulls_at_once_share_the_work(
    host: str, pushed: tuple[str, ModelStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, origin = pushed
    store = ModelStore(tmp_path / "models")
    downloaded: list[str] = []
    run = Download.run

    async def counted(download: Download) -> Path:
        downloaded.append(str(download.digest))
        return await run(download)

    monkeypatch.setattr(Download, "run", counted)
    results: list[str] = []

    def pull() -> None:
        *_, last = pull_model_sync(parse_reference(name), store, _options(host, rate_limit=50_000_000))
        results.append(last.status)

    threads = [threading.Thread(target=pull) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["success"] * 3
    assert sorted(downloaded) == sorted(str(layer.digest) for layer in origin.read_manifest(name).manifest.all_layers)
