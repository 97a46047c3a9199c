"""Experts that are kept in the machine's memory: which tensors of real mixture-of-experts files that names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from donabe.runner.native_params import _cpu_tensors
from donabe.store.gguf import GgufReader

# Routed experts as three tensors, with biases, and with gate and up in one beside experts that every token uses.
ARCHITECTURES = ("qwen3moe", "gpt-oss", "deepseek2")
EXPERT = re.compile(r"blk\.(\d+)\.ffn_(?:up|down|gate|gate_up)_exps\.")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n_cpu_moe", [1, -1])
def test_they_are_the_routed_experts_of_the_first_layers_and_nothing_else(
    tiny_model: Callable[[str], str], architecture: str, n_cpu_moe: int
) -> None:
    with GgufReader(tiny_model(architecture)) as reader:
        names = [tensor.name for tensor in reader.tensors]
    experts = {name: int(found[1]) for name in names if (found := EXPERT.match(name))}
    assert experts
    wanted = {name for name, layer in experts.items() if n_cpu_moe < 0 or layer < n_cpu_moe}
    patterns = [re.compile(pattern) for pattern in _cpu_tensors(n_cpu_moe)]
    kept = {name for name in names if any(pattern.search(name) for pattern in patterns)}
    assert kept == wanted
