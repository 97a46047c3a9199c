"""The quantising child seen from outside: progress, failures, cancelling; and the rules for single tensors."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from donabe.convert.quantization import quantization_type, source_type, tensor_types
from donabe.convert.quantize import QuantizeJob, quantize
from donabe.errors import InvalidRequestError, LoadError
from donabe.store import gguf_tables as tables
from donabe.store.gguf import Tensor


def job(tmp_path: Path) -> QuantizeJob:
    return QuantizeJob(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_M")


def script(text: str) -> tuple[str, ...]:
    """A child that runs this with `request` read."""
    return (sys.executable, "-c", "import json,sys,time\nrequest=json.loads(sys.stdin.readline())\n" + text)


async def run(quantizing: QuantizeJob, text: str) -> list[tuple[int, int]]:
    return [progress async for progress in quantize(quantizing, command=script(text))]


async def test_progress_is_passed_on_and_the_result_kept(tmp_path: Path) -> None:
    text = """
open(request['target'], 'w').write(request['ftype'])
print('{"done": 1, "total": 2}', flush=True)
print('{"done": 2, "total": 2}', flush=True)
print('{"result": "ok"}', flush=True)
"""
    assert await run(job(tmp_path), text) == [(1, 2), (2, 2)]
    assert job(tmp_path).target.read_text() == "Q4_K_M"


async def test_reported_error_is_raised_with_its_log_and_the_output_removed(tmp_path: Path) -> None:
    text = "open(request['target'], 'w')\nprint(json.dumps({'error': 'bad tensor', 'log': ['why']}))"
    with pytest.raises(LoadError, match="bad tensor") as caught:
        await run(job(tmp_path), text)
    assert caught.value.log_tail == ("why",)
    assert not job(tmp_path).target.exists()


async def test_child_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"ended early \(exit 3\)") as caught:
        await run(job(tmp_path), "sys.stderr.write('GGML_ASSERT\\n')\nsys.exit(3)")
    assert caught.value.log_tail == ("GGML_ASSERT",)
    with pytest.raises(LoadError, match=r"signal 6 \(SIGABRT\)"):
        await run(job(tmp_path), "import os\nos.abort()")


async def test_closing_the_iterator_kills_the_child_and_removes_its_output(tmp_path: Path) -> None:
    text = "open(request['target'], 'w')\nprint('{\"done\": 1, \"total\": 9}', flush=True)\ntime.sleep(60)"
    events = quantize(job(tmp_path), command=script(text))
    assert await anext(events) == (1, 9)
    started = time.monotonic()
    await events.aclose()
    assert time.monotonic() - started < 5
    assert not job(tmp_path).target.exists()


async def test_child_ends_when_its_parent_is_gone() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import threading,time\nfrom donabe.convert import child\n"
        "threading.Thread(target=child._exit_with_parent, daemon=True).start()\ntime.sleep(60)",
        stdin=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 10) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("q4_k", "Q4_K_M"),
        ("q4_K_M", "Q4_K_M"),
        ("Q4_K_S", "Q4_K_S"),
        ("f16", "F16"),
        ("bf16", "BF16"),
        ("q8_0", "Q8_0"),
        ("F32", "F32"),
    ],
)
def test_names_are_accepted_in_any_case(name: str, expected: str) -> None:
    assert quantization_type(name) == expected


def test_other_names_are_refused_with_the_list() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        quantization_type("q5_k_m")
    assert caught.value.message == (
        "unsupported quantization type Q5_K_M - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
    )


def tensor(name: str, kind: str, *shape: int) -> Tensor:
    found = next(known for known in tables.TENSOR_TYPES.values() if known.name == kind)
    return Tensor(name, shape or (32, 32), found, 0)


def test_built_in_parts_keep_their_type() -> None:
    found = tensor_types(
        "llama", [tensor("v.blk.0.attn_q.weight", "F16"), tensor("blk.0.attn_q.weight", "F16")], "Q8_0"
    )
    assert found == ((r"^v\.blk\.0\.attn_q\.weight$", "f16"),)


@pytest.mark.parametrize(
    ("architecture", "kinds"),
    [("llama", []), ("gemma3n", ["f16"]), ("glm4", ["f16", "f16"]), ("deepseek2", ["q8_0"]), ("qwen35", ["q8_0"])],
)
def test_some_architectures_keep_tensors_in_k_quants_only(architecture: str, kinds: list[str]) -> None:
    assert [kind for _, kind in tensor_types(architecture, [], "Q4_K_M")] == kinds
    assert tensor_types(architecture, [], "Q8_0") == ()


@pytest.mark.parametrize(
    ("declared", "kinds", "expected"),
    [
        ("F16", ["F16", "F32"], "F16"),
        ("BF16", ["BF16"], "BF16"),
        ("F32", ["F32"], "F32"),
        ("unknown", ["F16"], "F16"),
        ("unknown", ["F16", "F32"], ""),
        ("Q4_0", ["Q4_0"], ""),
        ("Q4_0", ["F16"], ""),
        ("F16", ["Q4_0"], ""),
    ],
)
def test_source_type_is_what_the_matrices_are(declared: str, kinds: list[str], expected: str) -> None:
    assert source_type(declared, [tensor(f"t{i}", kind) for i, kind in enumerate(kinds)]) == expected
