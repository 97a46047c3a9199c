"""Greedy tokens of one model on the CPU and with several parts of it on a Vulkan device; started by test_vulkan_plugin.

argv: the plug-in's library, the model, the number of layers, the prompt ("" for fixed token ids). Prints JSON:
placement -> [tokens, bytes of weights on the device, bytes of the cache there].
"""

from __future__ import annotations

import json
import sys

import numpy as np

from donabe import _core

N_TOKENS = 24


def greedy(
    path: str, prompt: str, devices: list[str], n_gpu_layers: int, offload_kqv: bool
) -> tuple[list[int], int, int]:
    params = _core.ModelParams(devices=devices, n_gpu_layers=n_gpu_layers)
    model = _core.Model(path, params)
    context = _core.Context(
        model, _core.ContextParams(n_ctx=512, n_batch=128, n_ubatch=128, n_threads=1, offload_kqv=offload_kqv)
    )
    batch = _core.Batch(128)
    new = model.vocab.tokenize(prompt) if prompt else np.arange(5, 45, dtype=np.int32)
    tokens: list[int] = []
    position = 0
    for _ in range(N_TOKENS):
        batch.clear()
        batch.add_tokens(0, new, position, "last")
        context.decode(batch)
        position += len(new)
        tokens.append(int(context.logits_view().copy()[-1].argmax()))
        new = np.array(tokens[-1:], dtype=np.int32)
    parts = [row for row in context.memory_breakdown() if row[0].startswith("Vulkan")]
    context.close()
    model.close()
    return tokens, sum(row[1] for row in parts), sum(row[2] for row in parts)


def main(library: str, path: str, n_layers: str, prompt: str) -> None:
    devices = [device.name for device in _core.init(plugins=[library]) if device.backend == "Vulkan"]
    placements = {
        "cpu": ([], 0, False),
        "all layers": (devices[:1], int(n_layers) + 1, True),
        "some layers": (devices[:1], max(1, int(n_layers) // 2), True),
        "cache in main memory": (devices[:1], int(n_layers) + 1, False),
    }
    print(json.dumps({name: greedy(path, prompt, *placement) for name, placement in placements.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
