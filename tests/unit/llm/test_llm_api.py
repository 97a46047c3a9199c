"""`LLM` and `AsyncLLM` over a fake model: batches in order, streams, threads, errors, closing."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.fakes.loaded_model import FakeLoaded

import donabe
from donabe.errors import ClosedError, InvalidRequestError, RunnerError, ServerBusyError, UnsupportedError
from donabe.llm import LLM, AsyncLLM, lifecycle
from donabe.llm.lifecycle import LocalModel
from donabe.runner.local import LocalRunner
from donabe.types import FinishReason, ModelDetails, ModelSpec


class Rig:
    def __init__(self) -> None:
        self.loaded = FakeLoaded()
        spec = ModelSpec(name="m", paths=("/m.gguf",), details=ModelDetails())
        self.model = LocalModel(spec, LocalRunner(self.loaded))
        self.llm = LLM.from_loaded(self.model)
        self.aio = AsyncLLM.from_loaded(self.model)

    @property
    def engine(self) -> Any:
        return self.loaded.engine


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.model.close()


ALL = "w0 w1 w2 "


def test_one_prompt_gives_one_completion(rig: Rig) -> None:
    completion = rig.llm.generate("a b", max_tokens=3)
    assert (completion.text, str(completion), completion.tokens) == (ALL, ALL, (0, 1, 2))
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.usage.n_prompt_tokens == 2


def test_list_gives_list_in_order_also_beyond_the_window(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("donabe.llm.sync.BATCH_WINDOW", 4)
    prompts = [" ".join(["x"] * (i + 1)) for i in range(20)]
    completions = rig.llm.generate(prompts, max_tokens=2)
    assert [c.usage.n_prompt_tokens for c in completions] == list(range(1, 21))
    assert rig.llm.generate([]) == []


def test_chat_takes_text_messages_and_lists(rig: Rig) -> None:
    message = {"role": "user", "content": "q"}
    assert rig.llm.chat("q").text == rig.llm.chat([message]).text == ALL
    assert [c.text for c in rig.llm.chat([[message], [message]])] == [ALL, ALL]


def test_stream_equals_whole(rig: Rig) -> None:
    chunks = list(rig.llm.generate("a", max_tokens=3, stream=True))
    assert "".join(chunk.text for chunk in chunks) == ALL
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * 3
    assert chunks[-1].usage is not None
    with pytest.raises(InvalidRequestError, match="stream=True takes one prompt"):
        rig.llm.generate(["a", "b"], stream=True)


def test_leaving_a_stream_stops_the_work(rig: Rig) -> None:
    stream = rig.llm.generate("a", max_tokens=10**9, stream=True)
    next(stream)
    stream.close()
    for _ in range(500):
        if not rig.engine.has_work():
            break
        threading.Event().wait(0.01)
    assert rig.engine.n_cancelled == 1


def test_failed_request_raises_and_stops_the_rest_of_its_batch(rig: Rig) -> None:
    with pytest.raises(InvalidRequestError, match="a bad prompt"):
        rig.llm.generate(["bad", *["a"] * 5], max_tokens=10**9)
    assert rig.llm.generate("a").text == ALL


def test_full_queue_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("donabe.llm.sync.RETRY_S", 0.001)
    rig.engine.refuse = ServerBusyError("full")
    threading.Timer(0.03, lambda: setattr(rig.engine, "refuse", None)).start()
    assert [c.text for c in rig.llm.generate(["a", "b"])] == [ALL, ALL]


def test_eight_threads(rig: Rig) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(rig.llm.generate("a").text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert texts == [ALL] * 8


def test_vectors_scores_tokens(rig: Rig) -> None:
    rows = rig.llm.embed(["a", "b"])
    assert (rows.shape, rows.dtype) == ((2, 1), np.float32)
    rows[0] = 0  # the caller's own memory
    assert rig.llm.embed("a").shape == (1, 1)
    assert rig.llm.rerank("q", ["d", "e"]) == [0.5, 0.5]
    assert [list(scores.items()) for scores in rig.llm.classify(["d", "e"])] == [[("yes", 0.75), ("no", 0.25)]] * 2
    assert len(rig.llm.classify("d")) == 1
    assert rig.llm.tokenize("a b") == [0, 1]
    assert rig.llm.detokenize([1]) == "w1"
    assert rig.llm.info.architecture == "fake"
    assert rig.llm.status().n_running == 0


def test_pooling_none_gives_a_matrix_for_each_text(rig: Rig) -> None:
    matrices = rig.llm.embed(["a b c", "d"], pooling="none")
    assert [(m.shape, m.dtype) for m in matrices] == [((3, 1), np.float32), ((1, 1), np.float32)]
    matrices[0][:] = 0  # the caller's own memory, and apart from the others'
    assert matrices[1][0, 0] == 1
    assert [m.shape for m in rig.llm.embed("a b", pooling="none")] == [(2, 1)]
    assert rig.llm.embed("a b", pooling="mean").shape == (1, 1)


def test_every_method_refuses_after_close(rig: Rig) -> None:
    rig.llm.close()
    rig.llm.close()
    llm = rig.llm
    calls = [
        lambda: llm.generate("a"),
        lambda: llm.generate(["a"]),
        lambda: llm.chat("a"),
        lambda: list(llm.chat("a", stream=True)),
        lambda: llm.embed("a"),
        lambda: llm.rerank("q", ["d"]),
        lambda: llm.classify("a"),
        lambda: llm.tokenize("a"),
        lambda: llm.detokenize([1]),
        llm.status,
        lambda: llm.info,
        lambda: asyncio.run(rig.aio.generate("a")),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    assert rig.loaded.n_closed == 1


def test_close_ends_calls_of_other_threads(rig: Rig) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            rig.llm.generate("a", max_tokens=10**9)
        except RunnerError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not rig.engine.running:
        threading.Event().wait(0.001)
    rig.llm.close()
    thread.join(5)
    assert [str(error) for error in errors] == ["the model was unloaded"]


def test_context_manager_and_garbage_collection_free_the_model() -> None:
    with Rig().llm as llm:
        loaded = llm._model._runner._core._loaded
        assert llm.generate("a").text == ALL
    assert loaded.n_closed == 1
    rig = Rig()
    loaded, gone = rig.loaded, weakref.ref(rig.model)
    del rig
    gc.collect()
    assert gone() is None
    assert loaded.n_closed == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_process_is_told_instead_of_hanging(rig: Rig) -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        try:
            rig.llm.generate("a")
        except UnsupportedError as error:
            sender.send(str(error))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    assert receiver.poll(10)
    assert receiver.recv() == "this LLM was created in another process"
    process.join(5)


# --- asyncio ---------------------------------------------------------------------------------------------------------


async def test_async_completions_batches_and_streams(rig: Rig) -> None:
    assert (await rig.aio.generate("a")).text == ALL
    assert [c.usage.n_prompt_tokens for c in await rig.aio.generate(["a", "a b"])] == [1, 2]
    assert (await rig.aio.chat("q")).text == ALL
    assert "".join([chunk.text async for chunk in await rig.aio.chat("q", stream=True)]) == ALL
    assert (await rig.aio.embed(["a"])).shape == (1, 1)
    assert await rig.aio.rerank("q", ["d"]) == [0.5]
    assert await rig.aio.classify("d") == [{"yes": 0.75, "no": 0.25}]
    assert [m.shape for m in await rig.aio.embed(["a b", "c"], pooling="none")] == [(2, 1), (1, 1)]
    assert await rig.aio.detokenize(await rig.aio.tokenize("a b")) == "w0 w1"
    assert (await rig.aio.info()).n_ctx == 64
    assert (await rig.aio.status()).n_waiting == 0


async def test_async_cancellation_stops_the_work(rig: Rig) -> None:
    task = asyncio.ensure_future(rig.aio.generate(["a", "b"], max_tokens=10**9))
    for _ in range(500):
        if len(rig.engine.running) == 2:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        if not rig.engine.has_work():
            break
        await asyncio.sleep(0.01)
    assert rig.engine.n_cancelled == 2


async def test_async_failure_stops_its_batch(rig: Rig) -> None:
    with pytest.raises(InvalidRequestError):
        await rig.aio.generate(["a", "bad"], max_tokens=10**9)


async def test_async_model_is_loaded_once_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    rigs: list[Rig] = []

    def load(*_args: object, **_options: object) -> LocalModel:
        rigs.append(Rig())
        return rigs[-1].model

    monkeypatch.setattr(lifecycle.LocalModel, "load", load)
    async with AsyncLLM("m", n_ctx=64) as llm:
        await asyncio.gather(*(llm.generate("a") for _ in range(4)))
    await llm.close()
    assert len(rigs) == 1
    assert rigs[0].loaded.n_closed == 1
    with pytest.raises(ClosedError):
        await llm.generate("a")
    with pytest.raises(TypeError, match="did you mean n_ctx"):
        AsyncLLM("m", n_ctxx=1)


async def test_async_load_error_reaches_every_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_args: object, **_options: object) -> LocalModel:
        raise RunnerError("no such luck")

    monkeypatch.setattr(lifecycle.LocalModel, "load", load)
    llm = AsyncLLM("m")
    results = await asyncio.gather(llm.load(), llm.generate("a"), return_exceptions=True)
    assert [str(result) for result in results] == ["no such luck"] * 2
    await llm.close()


# --- the package -----------------------------------------------------------------------------------------------------


def test_package_is_light_and_exports_what_it_says() -> None:
    program = "import sys, donabe; print(*sorted({'numpy', 'httpx', 'msgspec', 'donabe._core'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert {name for name in donabe.__all__ if not hasattr(donabe, name)} == set()
    assert set(donabe.__all__) <= set(dir(donabe))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        donabe.nothing  # noqa: B018
