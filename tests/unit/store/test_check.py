"""Checking a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.registry_store import add_model

from donabe.store.check import check_store
from donabe.store.digest import Digest
from donabe.store.models import ModelStore
from donabe.store.names import ModelName


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path)


def test_sound_store_has_no_problems(store: ModelStore) -> None:
    assert check_store(store) == ()
    add_model(store, "m", system=b"x")
    store.layout.partial(Digest.of_bytes(b"y")).write_bytes(b"half")
    assert check_store(store, deep=True) == ()


def test_each_kind_of_damage_is_found(store: ModelStore) -> None:
    digest = add_model(store, "gone", system=b"x")
    store.blobs.remove(Digest.of_bytes(b"x"))
    path = store.layout.manifest(ModelName.parse("broken"))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    problems = {problem.model: problem.message for problem in check_store(store)}
    assert problems["gone:latest"] == f"blob {Digest.of_bytes(b'x').short} is missing"
    assert problems["broken:latest"] == "manifest is not JSON"
    store.layout.blob(digest).write_bytes(b"GGUF")
    assert any("does not have the" in problem.message for problem in check_store(store))


def test_flipped_bit_is_found_by_the_deep_check_only(store: ModelStore) -> None:
    add_model(store, "m", system=b"good")
    store.layout.blob(Digest.of_bytes(b"good")).write_bytes(b"evil")
    assert check_store(store) == ()
    (problem,) = check_store(store, deep=True)
    assert problem.message.endswith("is damaged")
