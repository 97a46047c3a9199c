"""Layers and shares as users write them."""

from __future__ import annotations

import pytest

from donabe.errors import SettingsError
from donabe.settings import BACKENDS, load_settings


def test_backends_are_those_of_the_selection() -> None:
    from donabe.devices.selection import BACKEND_NAMES

    assert BACKENDS == BACKEND_NAMES


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("DONABE_GPU_LAYERS", "all", "gpu_layers", -1),
        ("DONABE_GPU_LAYERS", "auto", "gpu_layers", None),
        ("DONABE_GPU_LAYERS", "0", "gpu_layers", 0),
        ("DONABE_CPU_MOE", "12", "cpu_moe", 12),
        ("DONABE_TENSOR_SPLIT", "3, 1.5", "tensor_split", (3.0, 1.5)),
        ("DONABE_MAIN_GPU", "1", "main_gpu", 1),
        ("DONABE_BACKEND", "Vulkan", "backend", "vulkan"),
        ("DONABE_BACKEND", "auto", "backend", None),
        ("DONABE_DEVICES", "CUDA0,CUDA1", "devices", ("CUDA0", "CUDA1")),
        ("DONABE_RPC", "10.0.0.2:5000, box-2.lan", "rpc", ("10.0.0.2:5000", "box-2.lan:50052")),
        ("DONABE_RPC", "", "rpc", ()),
    ],
)
def test_good_values(variable: str, text: str, name: str, expected: object) -> None:
    assert getattr(load_settings(environ={variable: text, "DONABE_HOME": "/nowhere"}), name) == expected


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DONABE_GPU_LAYERS", "-1"),
        ("DONABE_GPU_LAYERS", "many"),
        ("DONABE_CPU_MOE", "1.5"),
        ("DONABE_TENSOR_SPLIT", "1,x"),
        ("DONABE_TENSOR_SPLIT", "0,0"),
        ("DONABE_TENSOR_SPLIT", "1,-1"),
        ("DONABE_TENSOR_SPLIT", "1,nan"),
        ("DONABE_MAIN_GPU", "256"),
        ("DONABE_BACKEND", "tpu"),
        ("DONABE_RPC", "10.0.0.2:0"),
        ("DONABE_RPC", "10.0.0.2:65536"),
        ("DONABE_RPC", "10.0.0.2:"),
        ("DONABE_RPC", ":50052"),
        ("DONABE_RPC", "a b:1"),
        ("DONABE_RPC", "[::1]:50052"),
        ("DONABE_RPC", "::1"),
        ("DONABE_RPC", "http://10.0.0.2:1"),
        ("DONABE_RPC", "-x:1"),
        ("DONABE_RPC", "a:1,a:1"),
        ("DONABE_RPC", ",".join(f"a{i}:1" for i in range(17))),
    ],
)
def test_bad_values(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        load_settings(environ={variable: text, "DONABE_HOME": "/nowhere"})
