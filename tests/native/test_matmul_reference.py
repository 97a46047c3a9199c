"""Matrix products of repacked weights (patches 0007, 0008, 0011) against double precision: every remainder of rows, odd
shapes.

The lab draws the shapes. Activations are whole numbers that Q8_0 holds exactly, so only the order of float sums is left
between the kernel and the reference. DONABE_MATMUL_CASES asks for more of them than the quick default.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from typing import Any

import pytest
from tests.native.conftest import HOW, TOOLS

LAB = TOOLS / "donabe-matmul-lab"
N_CASES = int(os.environ.get("DONABE_MATMUL_CASES", "60"))  # the first 40 have 1 to 40 rows
# Where, on x86, a row's bits do not depend on the rows beside it: a verified guess is what decoding alone gives.
ROW_BY_ROW = {("CPU_REPACK", "q4_0"), ("AMX", "q4_0"), ("AMX", "q4_1"), ("AMX", "q8_0")}
BOUND = 1e-5  # of the sum of the terms' magnitudes, which has at most 6,400 terms


def run_cases(layout: str, n_cases: int, weight_type: str) -> list[dict[str, Any]]:
    if not LAB.exists():
        pytest.fail(f"{LAB} is missing; {HOW}")
    command = [str(LAB), "check", layout, "1", str(n_cases), weight_type]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("layout", "weight_type"),
    [
        *[("CPU_REPACK", weight_type) for weight_type in ("q4_0", "iq4_nl", "q8_0")],
        *[("AMX", weight_type) for weight_type in ("q4_0", "q4_1", "q8_0")],
    ],
)
def test_products_equal_double_precision(layout: str, weight_type: str) -> None:
    cases = run_cases(layout, N_CASES, weight_type)
    if layout == "AMX" and not any(case["repacked"] for case in cases):
        pytest.skip("this CPU, or the build, has no AMX")
    assert len(cases) == N_CASES
    assert {case["rows"] for case in cases} >= set(range(1, 41))
    wrong = [case for case in cases if not case["error"] < BOUND]
    assert not wrong, f"{len(wrong)} of {N_CASES}, first: {wrong[0]}"
    if (layout, weight_type) in ROW_BY_ROW and platform.machine().lower() in ("x86_64", "amd64"):
        different = [case for case in cases if case["repacked"] and not case["as_alone"]]
        assert not different, f"{len(different)} of {N_CASES}, first: {different[0]}"


def test_an_unknown_type_is_reported() -> None:
    command = [str(LAB), "check", "CPU_REPACK", "1", "1", "q4_z"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "unknown type q4_z" in done.stderr
