"""A process that is killed while it creates and deletes models leaves a store in which every model is whole."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.registry_gguf import tiny_model

from donabe.service.create import ModelCreator
from donabe.service.create_call import CreateCall
from donabe.store.check import check_store
from donabe.store.models import ModelStore

N_KILLS = 6
LOOP = """
import asyncio, itertools, sys
from pathlib import Path
from donabe.service.create import ModelCreator
from donabe.service.create_call import CreateCall
from donabe.store.models import ModelStore

store = ModelStore(Path(sys.argv[1]))
digest = str(store.blobs.add_bytes(Path(sys.argv[2]).read_bytes())[0])
creator = ModelCreator(store, pull=None)

async def create(**fields):
    async for _ in creator.create(CreateCall(**fields)):
        pass

print("ready", flush=True)
for round in itertools.count():
    text = f"{round} " * 2000
    asyncio.run(create(model="a", files={"m.gguf": digest}, system=text, template="{{ .Prompt }}", licenses=(text,)))
    asyncio.run(create(model="b", from_="a", parameters={"top_k": round % 100}, system=text + "b"))
    if round % 3 == 2:
        store.delete("b")
"""


async def create(store: ModelStore, call: CreateCall) -> None:
    async for _ in ModelCreator(store, pull=None).create(call):  # type: ignore[arg-type]  # nothing is pulled here
        pass


def test_killing_at_random_points_leaves_whole_models(tmp_path: Path) -> None:
    source = tiny_model().write(tmp_path / "m.gguf")
    root, chance = tmp_path / "store", random.Random(7)
    n_seen = 0
    for _ in range(N_KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(root), str(source)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 0.25))
        assert process.poll() is None
        process.kill()
        process.wait()
        process.stdout.close()
        store = ModelStore(root)
        assert check_store(store, deep=True) == ()
        n_seen += len(store.names())
    assert n_seen > 0
    store = ModelStore(root)
    digest = str(store.blobs.add_bytes(source.read_bytes())[0])
    asyncio.run(create(store, CreateCall(model="after", files={"m.gguf": digest})))
    store.prune(grace_s=0)
    assert check_store(store, deep=True) == ()
    used = {layer.digest.file_name for name in store.names() for layer in store.read_manifest(name).manifest.all_layers}
    assert {path.name for path in store.blobs.files()} == used
