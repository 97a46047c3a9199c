"""A real model in a child process: streams, cancellation, sudden death, and files that are no models."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.model_store import SMOLLM2, ensure_spec

from donabe.errors import ContextLengthError, DonabeError, InvalidRequestError, ModelFileError
from donabe.runner.client import RunnerProcess
from donabe.runner.failures import is_terminal
from donabe.types import (
    ChatRequest,
    Constraint,
    Delta,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    LoadOptions,
    Message,
    ModelDetails,
    ModelSpec,
    OutputOptions,
    SamplingOptions,
)

pytestmark = pytest.mark.models

GREEDY = SamplingOptions(temperature=0.0)


def generate(prompt: str, max_tokens: int = 16, **changes: object) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, sampling=GREEDY, output=OutputOptions(max_tokens=max_tokens), **changes)


def endless(prompt: str = "Once upon a time") -> GenerateRequest:
    output = OutputOptions(max_tokens=400, ignore_eos=True)
    return GenerateRequest(prompt=prompt, sampling=GREEDY, output=output)


def chat(text: str, max_tokens: int = 24, **changes: object) -> ChatRequest:
    messages = (Message(role="user", content=text),)
    return ChatRequest(messages=messages, sampling=GREEDY, output=OutputOptions(max_tokens=max_tokens), **changes)


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return ensure_spec(SMOLLM2)


@pytest.fixture
async def runner(spec: ModelSpec) -> AsyncIterator[RunnerProcess]:
    runner = await RunnerProcess.start(spec, LoadOptions(n_ctx=512, n_parallel=4))
    yield runner
    await runner.close()


async def idle_status(runner: RunnerProcess) -> object:
    for _ in range(200):
        status = await runner.status()
        if status.n_running == status.n_waiting == 0:
            return status
        await asyncio.sleep(0.05)
    raise AssertionError("the runner did not become idle")


async def test_answers_of_concurrent_requests_are_whole(runner: RunnerProcess) -> None:
    answers = await asyncio.gather(*(collect(runner.chat(chat(f"Count from {i}."))) for i in range(5)))
    for events in answers:
        assert [is_terminal(event) for event in events].count(True) == 1
        finished = events[-1]
        assert isinstance(finished, Finished)
        assert finished.usage.n_output_tokens == sum(len(e.tokens) for e in events if isinstance(e, Delta))
        assert text_of(events)


async def test_stop_string_ends_the_text_before_it(runner: RunnerProcess) -> None:
    request = GenerateRequest(
        prompt="1, 2, 3, 4, 5, 6,", sampling=GREEDY, output=OutputOptions(max_tokens=32, stop=(" 9",))
    )
    events = await collect(runner.generate(request))
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, events[-1].stop_sequence) == (FinishReason.STOP, " 9")
    assert " 9" not in text_of(events)
    assert "7" in text_of(events)


async def test_constraint_shapes_the_answer(runner: RunnerProcess) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    events = await collect(runner.chat(chat("Give me a number.", constraint=Constraint(json_schema=schema))))
    assert text_of(events).replace(" ", "").replace("\n", "").startswith('{"n":')


async def test_echo_and_return_context(runner: RunnerProcess) -> None:
    output = OutputOptions(max_tokens=4, return_context=True)
    request = GenerateRequest(prompt="Two and two", sampling=GREEDY, output=output, echo=True)
    events = await collect(runner.generate(request))
    assert text_of(events).startswith("Two and two")
    assert isinstance(events[-1], Finished)
    prompt_tokens = await runner.tokenize("Two and two", parse_special=True)
    assert list(events[-1].context[: len(prompt_tokens)]) == prompt_tokens
    assert len(events[-1].context) == len(prompt_tokens) + 4


async def test_logprobs_come_with_their_alternatives(runner: RunnerProcess) -> None:
    output = OutputOptions(max_tokens=3, logprobs=True, top_logprobs=2)
    events = await collect(runner.generate(GenerateRequest(prompt="The sky is", sampling=GREEDY, output=output)))
    entries = [entry for event in events if isinstance(event, Delta) for entry in event.logprobs]
    assert len(entries) == 3
    for entry in entries:
        assert len(entry.top) == 2
        assert entry.logprob == max(other.logprob for other in entry.top)  # greedy takes the likeliest
        assert entry.token.encode() == entry.bytes_


async def test_several_completions_share_one_request(runner: RunnerProcess) -> None:
    request = generate("Once", 6, n=3)
    events = await collect(runner.generate(request))
    ends = [event for event in events if isinstance(event, Finished)]
    assert sorted(end.index for end in ends) == [0, 1, 2]
    assert [end.last for end in ends] == [False, False, True]
    texts = {i: "".join(e.text for e in events if isinstance(e, Delta) and e.index == i) for i in range(3)}
    assert texts[0] == texts[1] == texts[2] != ""


async def test_render_and_detokenize(runner: RunnerProcess) -> None:
    rendered = await runner.render(chat("hello"))
    assert rendered.prompt.count("hello") == 1
    assert rendered.prompt.rstrip().endswith("assistant")
    assert "hello" in await runner.detokenize(list(rendered.tokens))
    assert b"".join(await runner.pieces(list(rendered.tokens))).decode() == rendered.prompt


async def test_too_long_prompt_is_refused_or_cut_and_counted(runner: RunnerProcess) -> None:
    words = "word " * 600
    (failed,) = await collect(runner.generate(generate(words)))
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.data["n_ctx"]) == (ContextLengthError.__name__, 512)
    events = await collect(runner.generate(generate(words, 2, truncate=True)))
    assert isinstance(events[-1], Finished)
    usage = events[-1].usage
    assert usage.n_prompt_tokens + usage.n_truncated_tokens == failed.data["n_prompt_tokens"]


async def test_oldest_messages_are_dropped_and_counted(runner: RunnerProcess) -> None:
    messages = (
        Message(role="system", content="Be brief."),
        *(Message(role=role, content=f"{role} {i} " + "x " * 60) for i in range(10) for role in ("user", "assistant")),
        Message(role="user", content="the last question"),
    )
    request = ChatRequest(messages=messages, truncate=True)
    rendered = await runner.render(request)
    assert len(rendered.tokens) < 512
    assert "Be brief." in rendered.prompt
    assert "the last question" in rendered.prompt
    assert "user 0 " not in rendered.prompt


async def test_bad_options_are_request_errors(runner: RunnerProcess) -> None:
    bad = GenerateRequest(prompt="x", sampling=SamplingOptions(temperature=float("nan")))
    (failed,) = await collect(runner.generate(bad))
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.data["field"]) == (InvalidRequestError.__name__, "temperature")
    with pytest.raises(InvalidRequestError):
        await runner.detokenize([10**6])


@pytest.mark.parametrize("grammar", ["root ::= (", "root ::= missing"])
async def test_bad_grammar_fails_only_its_request(runner: RunnerProcess, grammar: str) -> None:
    (failed,) = await collect(runner.generate(generate("x", constraint=Constraint(grammar=grammar))))
    assert isinstance(failed, Failed)
    assert failed.kind == "GrammarError"
    assert text_of(await collect(runner.generate(generate("One, two,"))))


async def test_leaving_a_stream_frees_its_cells(runner: RunnerProcess) -> None:
    await collect(runner.generate(generate("warm", 1)))
    before = await idle_status(runner)
    events = runner.generate(endless())
    await anext(events)
    assert (await runner.status()).n_running == 1
    await events.aclose()
    after = await idle_status(runner)
    running_cells = after.n_cells_used - after.n_cells_cached
    assert running_cells == before.n_cells_used - before.n_cells_cached == 0


async def test_leaving_during_prefill_and_in_the_queue(runner: RunnerProcess) -> None:
    long = endless("word " * 300)
    tasks = [asyncio.ensure_future(collect(runner.generate(long))) for _ in range(6)]  # 4 may run at once
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    status = await idle_status(runner)
    assert status.n_cells_used == status.n_cells_cached
    assert text_of(await collect(runner.generate(generate("One, two,"))))


async def test_sigkill_in_an_answer_gives_one_clear_error(runner: RunnerProcess) -> None:
    events = runner.generate(endless())
    seen = [await anext(events)]
    os.kill(runner.pid, signal.SIGKILL)
    seen += [event async for event in events]
    failed = seen[-1]
    assert isinstance(failed, Failed)
    assert [is_terminal(event) for event in seen].count(True) == 1
    assert "signal 9 (SIGKILL)" in failed.message
    assert not runner.alive


async def test_close_ends_what_is_running(runner: RunnerProcess) -> None:
    events = runner.generate(endless())
    await anext(events)
    await runner.close()
    rest = await collect(events)
    assert isinstance(rest[-1], Failed)
    assert (rest[-1].kind, rest[-1].message) == ("RunnerError", "the model was unloaded")


async def test_embeddings_beside_generation(runner: RunnerProcess) -> None:
    stream = asyncio.ensure_future(collect(runner.generate(generate("Count: one,", 24))))
    result = await runner.embed(EmbedRequest(inputs=("a", "b", "a"), dimensions=64))
    assert (result.n_rows, result.n_embd, len(result.data)) == (3, 64, 3 * 64 * 4)
    assert result.data[:256] == result.data[512:]
    assert isinstance((await stream)[-1], Finished)


async def load_error(path: Path, **options: object) -> DonabeError:
    spec = ModelSpec(name="bad", paths=(str(path),), details=ModelDetails())
    with pytest.raises(DonabeError) as caught:
        await RunnerProcess.start(spec, LoadOptions(**options))
    return caught.value


async def test_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    error = await load_error(tmp_path / "gone.gguf")
    assert isinstance(error, ModelFileError)
    assert "gone.gguf" in str(error)
    assert str(tmp_path) not in str(error)


@pytest.fixture
def cut_file(tmp_path: Path, spec: ModelSpec) -> Path:
    path = tmp_path / "cut.gguf"
    with Path(spec.paths[0]).open("rb") as source:
        path.write_bytes(source.read(3_000_000))
    return path


async def test_truncated_file_is_a_load_error(cut_file: Path) -> None:
    error = await load_error(cut_file)
    assert type(error).__name__ == "LoadError"
    assert str(cut_file.parent) not in str(error)


async def test_load_options_out_of_range_are_refused(spec: ModelSpec) -> None:
    error = await load_error(Path(spec.paths[0]), n_ctx=1)
    assert isinstance(error, InvalidRequestError)
    assert error.field == "n_ctx"
