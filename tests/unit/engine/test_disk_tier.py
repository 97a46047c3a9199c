"""The disk tier under an engine: what was stored is found again by the next engine, and nothing else is."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time

import numpy as np
import pytest
from tests.fakes import native
from tests.fakes.engine_harness import KINDS, EngineHarness, fake_model, plain_answer, prompt

from donabe.engine.disk_container import KEY_FILE
from donabe.engine.disk_exchange import INDEX_WAIT_S
from donabe.engine.disk_tier import FOLDER, MIN_STORE_TOKENS, DiskTier
from donabe.engine.kinds import memory_kind
from donabe.errors import StateError

FINGERPRINT = {"model": "m", "type_k": "f16"}
BIG = 1 << 30
RESTORING = [kind for kind in KINDS if kind != "none"]


class Home:
    """A folder and the engines that live in it one after the other."""

    def __init__(self, path, kind: str = "dense") -> None:
        self.path = path
        self.kind = kind
        self.harness: EngineHarness | None = None

    def tier(self, budget: int = BIG, **fingerprint) -> DiskTier:
        can_cut = memory_kind(self.kind, 24).can_cut
        return DiskTier(self.path, FINGERPRINT | fingerprint, budget, can_cut=can_cut, native=native)

    def start(self, budget: int = BIG, options: dict | None = None, **fingerprint) -> EngineHarness:
        self.stop()
        self.harness = EngineHarness(self.kind, disk=self.tier(budget, **fingerprint), **(options or {}))
        self.harness.cache.disk.tier.wait_for_index(5)
        return self.harness

    def stop(self) -> None:
        if self.harness is not None:
            self.harness.engine.close()
            self.harness = None

    def files(self):
        return sorted(self.path.glob(f"{FOLDER}/*/*"))

    def file(self):
        (file,) = self.files()
        return file


@pytest.fixture(params=["dense"])
def home(tmp_path, request):
    home = Home(tmp_path, request.param)
    yield home
    home.stop()


every_kind = pytest.mark.parametrize("home", RESTORING, indirect=True)


def cached(h: EngineHarness) -> int:
    return h.engine.status().n_cached_tokens


@every_kind
def test_a_prefix_survives_a_restart_and_answers_are_the_same(home):
    system = prompt(300, 1)
    first, second = system + prompt(20, 2), system + prompt(25, 3)
    options = {"boundaries": (300,)}
    home.start().answer(first, **options)
    h = home.start()
    assert h.engine.status().cache_disk_bytes == home.file().stat().st_size > 0
    assert h.answer(second, **options) == plain_answer(h.model, second)
    if home.kind != "opaque":  # which has no checkpoints: only what goes on at the end
        assert cached(h) == 300
    assert h.answer(first, **options) == plain_answer(h.model, first)


@every_kind
def test_a_conversation_goes_on_after_a_restart(home):
    turn = prompt(300, 1)
    answer = home.start().answer(turn)
    more = turn + answer + prompt(20, 2)
    h = home.start()
    assert h.answer(more) == plain_answer(h.model, more)
    assert cached(h) >= 300


def test_nothing_is_made_before_it_is_needed(home):
    home.start().answer(prompt(MIN_STORE_TOKENS - 30))
    home.stop()
    assert not os.listdir(home.path)


def test_folders_and_files_are_private(home):
    home.start().answer(prompt(300))
    home.stop()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (home.file(), home.path / KEY_FILE)}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(home.file().parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((home.path / FOLDER).stat().st_mode) == 0o700


def refused(home: Home, **fingerprint) -> None:
    """A new engine computes the prompt again, and the file is gone."""
    bad = home.file()
    h = home.start(**fingerprint)
    tokens = prompt(320, 5)
    assert h.answer(tokens) == plain_answer(h.model, tokens)
    assert cached(h) == 0
    assert not bad.exists()


@pytest.mark.parametrize("position", [0, 9, 20, 200, -1500, -1])
def test_a_changed_file_is_refused_and_deleted(home, position):
    home.start().answer(prompt(320, 5))
    home.stop()
    data = bytearray(home.file().read_bytes())
    data[position] ^= 4
    home.file().write_bytes(data)
    refused(home)


@pytest.mark.parametrize("n_bytes", [0, 10, 1000, -1])
def test_a_cut_file_is_refused_and_deleted(home, n_bytes):
    home.start().answer(prompt(320, 5))
    home.stop()
    home.file().write_bytes(home.file().read_bytes()[:n_bytes])
    refused(home)


def test_a_file_of_another_installation_is_refused(home):
    home.start().answer(prompt(320, 5))
    home.stop()
    (home.path / KEY_FILE).unlink()
    refused(home)


def test_a_file_of_another_fingerprint_is_not_found_and_refused_where_it_does_not_belong(home):
    home.start(type_k="q8_0").answer(prompt(320, 5))
    home.stop()
    theirs = home.file()
    h = home.start()
    h.answer(prompt(320, 5))
    assert cached(h) == 0 and theirs.exists()
    home.stop()
    (mine,) = [path for path in home.files() if path != theirs]
    shutil.copy(theirs, mine)
    theirs.unlink()
    refused(home)


def test_a_file_changed_after_it_was_indexed_is_refused(home):
    home.start().answer(prompt(320, 5))
    h = home.start()
    assert h.engine.status().cache_disk_bytes
    data = bytearray(home.file().read_bytes())
    data[-1] ^= 1
    bad = home.file()
    bad.write_bytes(data)
    assert h.answer(prompt(320, 5)) == plain_answer(h.model, prompt(320, 5))
    assert cached(h) == 0 and not bad.exists()


def test_a_state_the_context_does_not_take_is_refused(home, monkeypatch):
    home.start().answer(prompt(320, 5))
    h = home.start()
    bad = home.file()

    def set_state(seq_id, blob):
        raise StateError("the state does not fit this context")

    monkeypatch.setattr(h.context.memory, "set_state", set_state)
    assert h.answer(prompt(320, 5)) == plain_answer(h.model, prompt(320, 5))
    assert cached(h) == 0 and not bad.exists()


def test_other_salts_and_requests_without_cache_find_nothing(home):
    tokens = prompt(320, 5)
    home.start().answer(tokens, cache_salt="mine")
    h = home.start()
    for fields in ({"cache_salt": "yours"}, {}, {"use_cache": False, "cache_salt": "mine"}):
        h.answer(tokens, **fields)
        assert cached(h) == 0
    h.answer(tokens, cache_salt="mine")
    assert cached(h) == 319


def test_requests_without_cache_leave_nothing(home):
    home.start().answer(prompt(320), use_cache=False)
    home.stop()
    assert not home.files()


def test_tokens_decide_even_when_all_digests_collide(home, monkeypatch):
    monkeypatch.setattr("donabe.engine.disk_container.scope_of", lambda *_: b"same")
    home.start().answer(prompt(320, 5))
    h = home.start()
    other = prompt(320, 6)
    assert h.answer(other) == plain_answer(h.model, other)
    assert cached(h) == 0


def test_the_budget_is_kept_and_the_oldest_goes_first(home):
    home.start().answer(prompt(320, 0))
    home.stop()
    size = home.file().stat().st_size
    budget = size * 3 + size // 2
    for i in range(1, 6):
        home.start(budget).answer(prompt(320, i))
        home.stop()
        for age, path in enumerate(sorted(home.files(), key=lambda p: -p.stat().st_mtime_ns)):
            os.utime(path, (1e9 - age, 1e9 - age))  # clocks of file systems are coarse
        assert sum(path.stat().st_size for path in home.files()) <= budget
    h = home.start(budget)
    for i, n_cached in ((0, 0), (3, 319), (5, 319)):
        before = cached(h)
        h.answer(prompt(320, i))
        assert cached(h) - before == n_cached


def test_what_is_larger_than_half_the_budget_is_not_stored(home):
    home.start(4_000).answer(prompt(320))
    home.stop()
    assert not home.files()


def test_idle_branches_are_stored_once_after_a_while(home):
    h = home.start()
    h.answer(prompt(320))
    h.engine.idle()
    assert not h.engine.status().cache_disk_bytes, "too early"
    h.clock.now += 10
    h.engine.idle()
    assert home.harness.cache.disk.tier.flush(5)
    first = home.file()
    h.answer([*prompt(320), *prompt(8, 1)])  # a little longer: not worth another file
    h.clock.now += 10
    h.engine.idle()
    home.stop()
    assert home.file() == first


def test_a_longer_path_replaces_its_prefix(home):
    answer = home.start().answer(prompt(320))
    home.start().answer([*prompt(320), *answer, *prompt(200, 1)])
    home.stop()
    home.file()
    h = home.start()
    h.answer(prompt(320))
    assert cached(h) == 319


def test_evicted_prefixes_are_stored(home):
    h = home.start(options={"n_ctx": 512, "cache_ram_bytes": 0, "n_parallel": 1})
    for i in range(3):
        h.answer(prompt(320, i))
    assert h.cache.disk.tier.flush(5)
    before = cached(h)
    assert h.answer(prompt(320, 0)) == plain_answer(h.model, prompt(320, 0))
    assert cached(h) - before == 319


def test_running_answers_go_on_while_a_file_is_read(home, monkeypatch):
    tokens = prompt(320, 5)
    home.start().answer(tokens)
    h = home.start()
    tier = h.cache.disk.tier
    gate = threading.Event()
    read = tier._read
    monkeypatch.setattr(tier, "_read", lambda stored: gate.wait(5) and read(stored))
    h.submit("running", prompt(20, 9), max_tokens=100)
    h.step(3)
    h.submit("late", tokens)
    h.step(5)
    assert len(h.tokens["running"][0]) >= 7 and not h.tokens["late"]
    open_gate(h, gate)
    h.run()
    assert h.tokens["late"][0] == plain_answer(h.model, tokens)
    assert cached(h) == 319


def open_gate(h: EngineHarness, gate: threading.Event) -> None:
    """Wait for the reading in real time: the engine's clock runs faster than that."""
    gate.set()
    h.cache.disk._reading.future.result(5)


@pytest.fixture
def gate(monkeypatch):
    """Holds back every reading of a file until it is set."""
    gate = threading.Event()
    read = DiskTier._read
    monkeypatch.setattr(DiskTier, "_read", lambda tier, stored: gate.wait(20) and read(tier, stored))
    yield gate
    gate.set()


def test_others_are_admitted_while_a_file_is_read_and_the_first_is_not_forgotten(home, gate):
    tokens = prompt(320, 5)
    home.start().answer(tokens)
    h = home.start(options={"n_parallel": 2})
    h.submit("first", tokens)
    h.step()
    assert not h.scheduler.running
    for i in range(4):
        h.submit(str(i), prompt(20, i), max_tokens=6)
    h.step(10)
    assert "0" in h.finals and not h.tokens["first"]
    open_gate(h, gate)
    while "first" not in h.finals:
        h.step()
    h.run()
    assert h.tokens["first"][0] == plain_answer(h.model, tokens)
    assert cached(h) == 319


def test_waiting_for_a_file_preempts_nobody(home, gate):
    tokens = prompt(320, 5)
    home.start().answer(tokens)
    h = home.start(options={"n_parallel": 1})
    h.submit("low", prompt(20, 9), max_tokens=30)
    h.step(3)
    h.submit("high", tokens, priority=5)
    h.step(10)
    assert h.engine.status().n_preemptions == 0 and len(h.tokens["low"][0]) >= 10
    open_gate(h, gate)
    h.run()
    assert list(h.finals) == ["high", "low"]


def test_a_file_that_takes_too_long_is_given_up_and_the_prompt_computed(home, gate):
    tokens = prompt(320, 5)
    home.start().answer(tokens)
    h = home.start()
    h.submit("a", tokens)
    h.step(2)
    assert not h.scheduler.running
    h.clock.now += 10
    h.run()
    assert h.tokens["a"][0] == plain_answer(h.model, tokens)
    for branch in list(h.cache.tree.branches):
        h.cache.drop(branch)
    h.submit("b", tokens)
    h.step()  # the reader still hangs: nobody waits for it again
    assert h.scheduler.running
    h.run()
    assert cached(h) == 0


def test_the_engine_thread_never_waits_for_the_index(home, monkeypatch):
    tokens = prompt(320, 5)
    home.start().answer(tokens)
    home.stop()
    gate = threading.Event()
    index = DiskTier._load_index
    monkeypatch.setattr(DiskTier, "_load_index", lambda tier: gate.wait(20) and index(tier))
    h = home.harness = EngineHarness(disk=home.tier())
    h.submit("long", tokens)
    h.submit("short", prompt(20, 1))
    started = time.monotonic()
    h.step(8)
    assert time.monotonic() - started < 5
    assert "short" in h.finals and not h.tokens["long"]
    h.clock.now += INDEX_WAIT_S
    h.run()
    assert h.tokens["long"][0] == plain_answer(h.model, tokens)
    gate.set()


def test_a_full_disk_only_costs_the_cache(home, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("donabe.engine.disk_container.write_container", full)
    h = home.start()
    assert h.answer(prompt(320)) == plain_answer(h.model, prompt(320))
    home.stop()
    assert not home.files()
    assert h.engine.status().cache_disk_bytes == 0


@every_kind
@pytest.mark.parametrize("seed", range(3))
def test_random_restarts_never_change_an_answer(home, seed):
    random = np.random.default_rng(seed)
    model = fake_model(home.kind)
    trunks = [prompt(280, i) for i in range(2)]
    for _ in range(3):
        h = home.start(budget=int(random.choice([BIG, 12_000])))
        for _ in range(4):
            trunk = trunks[random.integers(2)][: random.integers(250, 281)]
            tokens = trunk + prompt(int(random.integers(1, 40)), int(random.integers(3)))
            assert h.answer(tokens, boundaries=(250,)) == plain_answer(model, tokens)
            h.clock.now += float(random.choice([0.1, 10]))
            h.engine.idle()
