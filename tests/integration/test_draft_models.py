"""Draft models over real ones: the same text, guesses that come true, and drafts that don't fit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.model_store import GEMMA3, SMOLLM2, ensure_model, ensure_spec

from donabe.errors import ModelFileError
from donabe.runner.client import RunnerProcess
from donabe.runner.load import load_model
from donabe.types import Delta, Finished, GenerateRequest, LoadOptions, OutputOptions, RunnerStatus, SamplingOptions

pytestmark = pytest.mark.models

PROMPT = "The three most important inventions of the nineteenth century are"


async def answer(options: LoadOptions) -> tuple[str, RunnerStatus]:
    runner = await RunnerProcess.start(ensure_spec(SMOLLM2), options)
    try:
        output = OutputOptions(max_tokens=48, ignore_eos=True)
        request = GenerateRequest(prompt=PROMPT, sampling=SamplingOptions(temperature=0.0), output=output)
        events = [event async for event in runner.generate(request)]
        assert isinstance(events[-1], Finished)
        return "".join(event.text for event in events if isinstance(event, Delta)), await runner.status()
    finally:
        await runner.close()


async def test_model_drafting_for_itself_is_right_and_changes_nothing() -> None:
    plain, _ = await answer(LoadOptions(n_ctx=512, n_parallel=1, n_threads=1, n_draft_max=0))
    draft = str(ensure_model(SMOLLM2))
    drafted, status = await answer(LoadOptions(n_ctx=512, n_parallel=1, n_threads=1, draft=draft))
    assert drafted == plain
    assert status.n_draft_tokens > 0
    assert status.n_draft_accepted >= 0.8 * status.n_draft_tokens


def test_draft_of_another_vocabulary_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    options = LoadOptions(n_ctx=512, n_parallel=1, draft=str(ensure_model(GEMMA3)))
    with caplog.at_level(logging.WARNING, "donabe.runner"):
        loaded = load_model(ensure_spec(SMOLLM2), options)
    loaded.close()
    assert "is not used: its vocabulary differs: n_tokens is 262144, not 49152" in caplog.text


def test_draft_that_is_not_there_is_named(tmp_path: Path) -> None:
    options = LoadOptions(n_ctx=512, n_parallel=1, draft=str(tmp_path / "small.gguf"))
    with pytest.raises(ModelFileError, match=r"draft model file small\.gguf does not exist"):
        load_model(ensure_spec(SMOLLM2), options)
