"""kill -9 in the middle of changes to a store: afterwards each model is there in full, or not at all."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.registry_store import add_model

from donabe.store.check import check_store
from donabe.store.models import ModelStore

_CHILD = """
import random, sys
from pathlib import Path
from donabe.errors import DonabeError
from donabe.store.models import ModelStore
from tests.fakes.registry_store import add_model
store, chance = ModelStore(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
print("ready", flush=True)
while True:
    name = f"m{chance.randrange(4)}"
    try:
        action = chance.randrange(4)
        if action < 2:
            add_model(store, name, system=chance.randbytes(chance.randrange(200_000)))
        elif action == 2:
            store.copy(name, f"copy/{name}")
        else:
            store.delete(name)
        if chance.random() < 0.1:
            store.prune(grace_s=60)
    except DonabeError as error:
        if "not found" not in str(error) and "missing" not in str(error):
            raise
"""


def test_killed_writers_leave_a_sound_store(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    add_model(store, "kept", system=b"never touched")
    chance = random.Random(5)
    for seed in range(6):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(store.layout.root), str(seed * 2 + number)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            for number in range(2)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.05, 0.4))
        for child in children:
            assert child.poll() is None
            child.send_signal(signal.SIGKILL)
        for child in children:
            child.communicate()
        assert check_store(store, deep=True) == ()
        assert store.resolve("kept").system == "never touched"
    store.prune(grace_s=0)
    used = {layer.digest.file_name for name in store.names() for layer in store.read_manifest(name).manifest.all_layers}
    assert {path.name for path in store.blobs.files()} == used
