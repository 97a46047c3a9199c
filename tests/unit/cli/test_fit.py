"""`donabe fit` over a made-up answer of the child, and the child's errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from donabe.cli.app import root
from donabe.cli.native_child import ask_child
from donabe.errors import RunnerDiedError, RunnerError
from donabe.types import ModelDetails, ModelSpec

PLAN = {
    "n_ctx": 8192,
    "n_ctx_per_request": 4096,
    "n_parallel": 8,
    "n_gpu_layers": 12,
    "n_cpu_moe": 0,
    "attention_bytes": 2_000_000_000,
    "window_bytes": 0,
    "state_bytes": 0,
    "output_bytes": 1_000_000,
    "process_bytes": 60_000_000,
    "resident_bytes": 3_000_000_000,
    "prefix_cache_bytes": 256_000_000,
    "devices": [
        {
            "name": "CPU",
            "weights_bytes": 1_000_000_000,
            "cache_bytes": 0,
            "compute_bytes": 0,
            "draft_bytes": 0,
            "free_bytes": 8_000_000_000,
        },
        {
            "name": "CUDA0",
            "weights_bytes": 4_000_000_000,
            "cache_bytes": 2_000_000_000,
            "compute_bytes": 0,
            "draft_bytes": 0,
            "free_bytes": 5_000_000_000,
        },
    ],
    "fits": False,
    "projector": None,
}
PROJECTOR = {"file_bytes": 800_000_000, "is_loaded": False}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = []
    spec = ModelSpec(
        name="m",
        paths=("/m.gguf",),
        parameters={"num_ctx": 1000, "num_gpu": 12, "kv_cache_type": "q8_0"},
        details=ModelDetails(context_length=2048),
    )

    def answer(_module: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        requests.append(request)
        return {"plan": PLAN, "given_up": "", "contexts": [PLAN]}

    monkeypatch.setenv("DONABE_HOME", str(tmp_path))
    monkeypatch.setattr("donabe.store.resolve.resolve_model", lambda name, pull: spec)
    monkeypatch.setattr("donabe.cli.commands.fit.ask_child", answer)
    return requests


def test_plan_is_shown_and_its_verdict_is_the_exit_code(asked: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(root, ["fit", "m"])
    assert result.exit_code == 1
    assert "8 requests at once, 4096 tokens each at most, 8192 in the pool" in result.output
    assert ["cache,", "attention", "2", "GB"] in [line.split() for line in result.output.splitlines()]
    assert "CUDA0     6 GB     5 GB    does not fit" in result.output
    assert "sliding window" not in result.output
    assert asked[0]["options"]["n_ctx_per_request"] == 1000
    assert asked[0]["options"]["n_gpu_layers"] == 12
    assert asked[0]["options"]["type_k"] == asked[0]["options"]["type_v"] == "q8_0"


def test_what_is_not_loaded_and_what_a_load_would_give_up_is_said(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = CliRunner().invoke(root, ["fit", "m"]).output
    assert "projector" not in plain
    assert "made to fit" not in plain
    answer = {"plan": PLAN | {"projector": PROJECTOR}, "given_up": "its context is only 4096 tokens", "contexts": []}
    monkeypatch.setattr("donabe.cli.commands.fit.ask_child", lambda *_, **__: answer)
    text = CliRunner().invoke(root, ["fit", "m"]).output
    assert "its projector (800 MB) is not loaded: this version runs text only\n" in text
    assert "a load would be made to fit: its context is only 4096 tokens\n" in text
    value = json.loads(CliRunner().invoke(root, ["fit", "m", "--json"]).output)
    assert value["plan"]["projector"] == PROJECTOR


def test_json_has_the_bytes(asked: list[dict[str, Any]]) -> None:
    result = CliRunner().invoke(root, ["fit", "m", "--json", "--parallel", "2"])
    value = json.loads(result.output)
    assert value["model"] == "m"
    assert value["plan"]["resident_bytes"] == 3_000_000_000
    assert asked[0]["options"]["n_parallel"] == 2


def test_context_is_asked_for_up_to_the_trained_one(asked: list[dict[str, Any]]) -> None:
    CliRunner().invoke(root, ["fit", "m", "--context", "1500"])
    CliRunner().invoke(root, ["fit", "m", "--context", "9000"])
    assert [request["options"]["n_ctx_per_request"] for request in asked] == [1500, 2048]
    assert CliRunner().invoke(root, ["fit", "m", "--context", "1"]).exit_code == 2


def test_errors_of_the_child_are_told() -> None:
    spec = {"name": "m", "paths": ["/nowhere/m.gguf"], "details": {}}
    with pytest.raises(RunnerError, match=r"model file m\.gguf does not exist"):
        ask_child("donabe.runner.plan_child", {"spec": spec}, timeout_s=60)
    with pytest.raises(RunnerDiedError, match="No module named"):
        ask_child("donabe.no_such_module", {}, timeout_s=60)
