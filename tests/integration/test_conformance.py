"""Every example of the reference's HTTP API against a live server, and where donabe answers otherwise, the reason.

Scripted models stand in where the text does not matter; cases where it does run with a real model, too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.fakes.live import running
from tests.fakes.runner import Request, RunnerFactory
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings
from tests.fakes.store import FakePull
from tests.integration.conformance import general, inference, states
from tests.integration.conformance.expectations import Case, check, send
from tests.model_store import SMOLLM2
from tests.real_server import real_server

from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore
from donabe.types import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    TokenLogprob,
    ToolCall,
    Usage,
)

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
CASES: list[Case] = [*general.CASES, *inference.CASES]
N_EXAMPLES = 101  # of the reference's list
DEADLINE_S = 10.0
USAGE = Usage(n_prompt_tokens=11, n_output_tokens=3, prompt_s=0.0125, output_s=0.03025)
ENTRY = TokenLogprob(token="Hel", token_id=5, logprob=-0.5, top=(TokenLogprob(token="Ho", token_id=6, logprob=-1.5),))
CALL = ToolCall(name="get_weather", arguments='{"city":"Paris"}', id="call_abc")


def script(request: Request) -> list[Event]:
    """Thinks when it should, calls when it can, and fails when it is told to."""
    asked = str(request.prompt) if isinstance(request, GenerateRequest) else request.messages[-1].content
    if asked == "fail":
        return [Delta(text="Hel"), Failed(kind="RunnerDiedError", message="the model's process ended")]
    thinking = [Delta(thinking="hmm")] if getattr(request, "think", None) else []
    end = FinishReason.LENGTH if request.output.max_tokens == 1 else FinishReason.STOP
    context = (100, 101) if request.output.return_context else ()
    if getattr(request, "tools", ()):
        output = [Delta(tool_calls=(CALL,))]
    else:
        output = [Delta(text="Hel", logprobs=(ENTRY,) if request.output.logprobs else ()), Delta(text="lo")]
    usage = Usage(n_prompt_tokens=11, n_output_tokens=1) if end is FinishReason.LENGTH else USAGE
    return [*thinking, *output, Finished(reason=end, usage=usage, context=context)]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Iterator[str]:
    settings = FakeSettings(home=tmp_path_factory.mktemp("home"))
    with running(make_server(script=script, settings=settings).app) as url:
        yield url


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[str]:
    with real_server(tmp_path_factory.mktemp("home")) as server:
        yield server.url


def named(cases: list[Case]) -> list:
    return [pytest.param(case, id=f"{case.id} {case.request} {i}") for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", named(CASES))
def test_scripted(scripted, case):
    check(case, send(scripted, case, {}))


def check_in_order(url: str, cases: list[Case]) -> None:
    for case in cases:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            response = send(url, case, {})
            try:
                check(case, response)
                break
            except AssertionError:
                if not case.is_eventual or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


@pytest.mark.parametrize("cases", [states.LOADING, states.NAMING], ids=["loading", "naming"])
def test_cases_in_order(tmp_path, cases):
    with running(make_server(script=script, settings=FakeSettings(home=tmp_path)).app) as url:
        check_in_order(url, cases)


def test_cases_of_making_models(tmp_path):
    store, pull = ModelStore(tmp_path / "store"), FakePull()
    collaborators = Collaborators(
        store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
        pull=pull,
        read_metadata=read_metadata,
        start_runner=RunnerFactory(script),
        creator=ModelCreator(store, pull=pull),
        uploads=Uploads(store),
        push=pull,
    )
    with running(create_app(FakeSettings(home=tmp_path), collaborators)) as url:
        check_in_order(url, states.MAKING)


def test_cases_of_a_full_server(tmp_path):
    server = make_server(script=script, settings=FakeSettings(home=tmp_path, max_queue=0))
    server.runners.gate = asyncio.Event()  # nothing sets it: the first request loads until its client gives up
    with running(server.app) as url, ThreadPoolExecutor(1) as threads:
        first = threads.submit(httpx.post, f"{url}/api/generate", json={"model": "C"}, timeout=5)
        deadline = time.monotonic() + DEADLINE_S
        while not server.runners.loads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        check_in_order(url, states.FULL)
        assert isinstance(first.exception(), httpx.ReadTimeout)


def test_every_example_has_a_case():
    numbers = {int(case.id) for case in [*CASES, *states.CASES] if case.id.isdigit()}
    assert numbers == set(range(1, N_EXAMPLES + 1))


@pytest.mark.models
@pytest.mark.parametrize("case", named([case for case in CASES if case.real]))
def test_real(real, case):
    check(case, send(real, case, {"C": SMOLLM2, "E": SMOLLM2}))


def rows() -> list[str]:
    """One line for every difference, in the order of the cases."""
    return list(dict.fromkeys(f"| `{case.request}` | {case.differs} | {case.id} |" for case in CASES if case.differs))


def test_differences_are_documented():
    """docs/compatibility.md lists what differs from the reference, and nothing that no longer does. With
    DONABE_WRITE_MATRIX=1 its table is written anew."""
    before, head, table = PAGE.read_text(encoding="utf-8").partition(
        "| request | difference | example |\n|---|---|---|\n"
    )
    wanted = "\n".join(rows()) + "\n"
    if os.environ.get("DONABE_WRITE_MATRIX") == "1":
        PAGE.write_text(before + head + wanted, encoding="utf-8")
        table = wanted
    assert table == wanted
