"""`LLM` and `AsyncLLM` on real models: batches, threads, streams, embeddings, every memory of the model freed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from tests.model_store import GEMMA3, SMOLLM2, ensure_model

from donabe import LLM, AsyncLLM, Completion
from donabe.errors import CapabilityError, ContextLengthError, ModelFileError
from donabe.types import FinishReason

pytestmark = pytest.mark.models

PROMPTS = [f"The opposite of {word} is" for word in ("hot", "big", "old", "wet", "dark", "slow", "high", "soft")]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(ensure_model(SMOLLM2), n_ctx=2048) as llm:
        yield llm


@pytest.fixture(scope="module")
def gemma() -> Iterator[LLM]:
    with LLM(ensure_model(GEMMA3), n_ctx=1024) as llm:
        yield llm


def check(completion: Completion, max_tokens: int) -> None:
    assert completion.text
    assert completion.usage.n_output_tokens == len(completion.tokens) <= max_tokens
    assert completion.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def test_eight_prompts_in_one_call_give_eight_answers(llm: LLM) -> None:
    before = llm.status()
    completions = llm.generate(PROMPTS, max_tokens=12, temperature=0)
    after = llm.status()
    assert len(completions) == 8
    for completion in completions:
        check(completion, 12)
    n_output = sum(completion.usage.n_output_tokens for completion in completions)
    assert after.n_output_tokens - before.n_output_tokens == n_output
    assert after.n_steps - before.n_steps < n_output / 2  # they ran together
    assert (after.n_running, after.n_waiting) == (0, 0)


def test_eight_threads_get_their_own_answers(llm: LLM) -> None:
    alone = {number: llm.tokenize(f"{number}") for number in range(8)}
    echoes: dict[int, str] = {}

    def run(number: int) -> None:
        schema = {"const": f"answer {number}"}
        echoes[number] = llm.chat(f"Say {number}", format=schema, max_tokens=16).text

    threads = [threading.Thread(target=run, args=(number,)) for number in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: json.loads(text) for number, text in echoes.items()} == {n: f"answer {n}" for n in range(8)}


@pytest.mark.parametrize("model", ["llm", "gemma"])
def test_streamed_equals_whole(model: str, request: pytest.FixtureRequest) -> None:
    llm: LLM = request.getfixturevalue(model)
    whole = llm.chat("What is the capital of France?", max_tokens=16, temperature=0)
    chunks = list(llm.chat("What is the capital of France?", max_tokens=16, temperature=0, stream=True))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert tuple(token for chunk in chunks for token in chunk.tokens) == whole.tokens
    assert chunks[-1].finish_reason is whole.finish_reason
    check(whole, 16)


def test_seed_repeats_and_other_seeds_differ() -> None:
    # Without cached prefixes, so that every answer has the same cells: their order decides about rounding.
    with LLM(ensure_model(SMOLLM2), n_ctx=2048, prefix_cache=False) as llm:

        def answer(seed: int) -> str:
            return llm.generate("Once upon a time", max_tokens=16, temperature=1.2, seed=seed).text

        assert answer(1) == answer(1)
        assert len({answer(seed) for seed in range(4)}) > 1


def test_base_model_completes_a_prompt(gemma: LLM) -> None:
    completion = gemma.generate("1, 2, 3, 4,", max_tokens=8, temperature=0)
    check(completion, 8)
    assert "5" in completion.text


def test_json_object_of_a_schema(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    answer = json.loads(llm.chat("Describe a person.", format=schema, max_tokens=64, temperature=0).text)
    assert set(answer) == {"name", "age"}
    assert isinstance(answer["age"], int)


def test_text_and_tokens_round_trip(llm: LLM) -> None:
    text = "Grüße, 世界! 🙂"
    assert llm.detokenize(llm.tokenize(text, add_special=False)) == text
    control = llm.tokenize("<|im_start|>", parse_special=True)
    assert llm.detokenize(control) == "<|im_start|>"
    assert len(control) < len(llm.tokenize("<|im_start|>"))


def test_embeddings_do_not_depend_on_their_batch(llm: LLM) -> None:
    texts = [f"{prompt} " * (1 + i % 3) for i, prompt in enumerate(PROMPTS)]
    together = llm.embed(texts)
    alone = np.concatenate([llm.embed(text) for text in texts])
    assert together.shape == (8, llm.info.n_embd)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert (together * alone).sum(axis=1).min() >= 0.9999


def test_abilities_and_limits_are_told(llm: LLM) -> None:
    with pytest.raises(CapabilityError, match="rerank"):
        llm.rerank("q", ["d"])
    with pytest.raises(CapabilityError, match="tools"):
        llm.chat("hi", tools=[{"name": "f", "parameters": {"type": "object"}}])
    with pytest.raises(ContextLengthError) as caught:
        llm.generate("word " * 2500)
    assert caught.value.n_ctx == 2048


def test_leaving_a_stream_frees_its_cells(llm: LLM) -> None:
    stream = llm.generate("Once upon a time", max_tokens=1000, ignore_eos=True, stream=True)
    next(stream)
    assert llm.status().n_running == 1
    stream.close()
    for _ in range(200):
        status = llm.status()
        if not status.n_running:
            break
        threading.Event().wait(0.05)
    assert status.n_cells_used == status.n_cells_cached


async def test_async_batch_and_stream() -> None:
    async with AsyncLLM(ensure_model(SMOLLM2), n_ctx=1024) as llm:
        completions = await llm.generate(PROMPTS[:4], max_tokens=6, temperature=0)
        assert len(completions) == 4
        text = [chunk.text async for chunk in await llm.chat("Say hello.", max_tokens=6, temperature=0, stream=True)]
        assert "".join(text) == (await llm.chat("Say hello.", max_tokens=6, temperature=0)).text


def test_file_that_is_no_model_is_named(tmp_path: object) -> None:
    path = tmp_path / "notes.gguf"  # type: ignore[operator]
    path.write_text("not a model, only text " * 50)
    with pytest.raises(ModelFileError, match=r"notes\.gguf"):
        LLM(path)
