"""Options, prompts and conversations of `LLM` as requests; unknown names, stored parameters, wrong types."""

from __future__ import annotations

from typing import Any

import pytest

from donabe.errors import InvalidRequestError
from donabe.llm import options, requests
from donabe.types import (
    ChatRequest,
    Constraint,
    GenerateRequest,
    LoadOptions,
    Message,
    ModelDetails,
    ModelSpec,
    OutputOptions,
    SamplingOptions,
    Tool,
    ToolCall,
    ToolChoice,
)

STORED = {"temperature": 0.1, "num_ctx": 100, "num_predict": -1, "num_gpu": -1, "stop": ["<end>"], "seed": -1, "odd": 1}


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec(name="m", paths=("/m.gguf",), details=ModelDetails(), **changes)


def generate(prompt: Any = "p", stored: ModelSpec | None = None, **given: Any) -> GenerateRequest:
    return requests.generate_request(stored or spec(), prompt, given)


def chat(messages: Any = "hi", stored: ModelSpec | None = None, **given: Any) -> ChatRequest:
    return requests.chat_request(stored or spec(), messages, given)


def test_typed_options_are_exactly_the_fields() -> None:
    assert set(options.LoadKwargs.__annotations__) == set(LoadOptions.__struct_fields__)
    ours = set(options.GenerateKwargs.__annotations__)
    internal = {"return_context", "stream_interval_s"}
    assert set(SamplingOptions.__struct_fields__) | set(OutputOptions.__struct_fields__) - internal <= ours


def test_every_option_reaches_its_part() -> None:
    request = generate(temperature=0.5, max_tokens=7, stop="x", truncate=True, n_keep=2, cache_salt="s", priority=3)
    assert (request.sampling.temperature, request.output.max_tokens, request.output.stop) == (0.5, 7, ("x",))
    assert (request.truncate, request.n_keep) == (True, 2)
    assert (request.scheduling.cache_salt, request.scheduling.priority) == ("s", 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate(temprature=1), r"generate\(\) has no option 'temprature'; did you mean temperature\?"),
        (lambda: generate(think=True), r"generate\(\) has no option 'think'"),
        (lambda: chat(tool=[]), r"chat\(\) has no option 'tool'; did you mean tools"),
        (lambda: options.load_options({}, {"n_ctxx": 1}), r"LLM\(\) has no option 'n_ctxx'; did you mean n_ctx"),
        (lambda: chat([{"role": "user", "contents": "x"}]), r"messages\[0\] has no option 'contents'"),
        (lambda: chat([3]), r"messages\[0\] must be a dict"),
        (lambda: generate([1, "a"]), "prompt must be text or a list of token ids"),
        (lambda: generate(3), "prompt must be text or a list of token ids"),
    ],
)
def test_wrong_names_and_forms_are_type_errors(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: generate(temperature="hot"), "temperature"),
        (lambda: generate(max_tokens=1.5), "max_tokens"),
        (lambda: generate(format="xml"), "format"),
        (lambda: generate(format="json", grammar="root ::= x"), "grammar"),
        (lambda: options.load_options({}, {"n_ctx": "big"}), "n_ctx"),
        (lambda: chat([{"content": "x"}]), "messages[0].role"),
        (lambda: chat([{"role": "user", "content": [1]}]), "messages[0].content"),
        (lambda: chat([{"role": "user", "images": ["%%"]}]), "messages[0].images"),
        (lambda: chat(tools=[{"type": "function"}]), "tools"),
    ],
)
def test_wrong_values_are_named(call: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        call()
    assert caught.value.field == field


def test_stored_parameters_are_defaults() -> None:
    stored = spec(parameters=STORED)
    request = generate(stored=stored)
    assert (request.sampling.temperature, request.sampling.seed) == (0.1, None)
    assert (request.output.max_tokens, request.output.stop) == (None, ("<end>",))
    assert generate(stored=stored, temperature=0.9).sampling.temperature == 0.9
    load = options.load_options(STORED, {})
    assert (load.n_ctx_per_request, load.n_gpu_layers) == (100, None)
    assert options.load_options(STORED, {"n_ctx_per_request": 8}).n_ctx_per_request == 8


def test_stored_type_of_the_cache_is_a_default_for_keys_and_values() -> None:
    load = options.load_options({"kv_cache_type": "q8_0"}, {"type_v": "f16"})
    assert (load.type_k, load.type_v) == ("q8_0", "f16")


@pytest.mark.parametrize(("given", "expected"), [({}, 3), ({"n_draft_max": 0}, 0)])
def test_stored_number_of_guesses_is_a_default(given: dict[str, int], expected: int) -> None:
    assert options.load_options({"draft_num_predict": 3}, given).n_draft_max == expected


def test_stored_parameters_choose_no_files_budgets_or_constraints() -> None:
    hostile = {
        "prefix_cache_home": "/etc",
        "draft": "/etc/passwd",
        "embedding": True,
        "grammar": "x",
        "cache_salt": "s",
    }
    assert options.load_options(hostile, {}) == LoadOptions()
    assert generate(stored=spec(parameters=hostile)) == generate()


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({}, Constraint()),
        ({"format": "json"}, Constraint(json_object=True)),
        ({"format": {"type": "array"}}, Constraint(json_schema={"type": "array"})),
        ({"grammar": "root ::= x"}, Constraint(grammar="root ::= x")),
    ],
)
def test_format_and_grammar_are_constraints(given: dict[str, Any], constraint: Constraint) -> None:
    assert generate(**given).constraint == constraint


def test_messages_in_native_and_openai_spelling() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    request = chat(
        [
            {"role": "user", "content": "q", "images": ["aGk=", b"raw"]},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "name": "f", "tool_call_id": "c", "content": "1"},
            Message(role="user", content="more"),
        ]
    )
    user, answer, result, _ = request.messages
    assert user.images == (b"hi", b"raw")
    assert (answer.thinking, answer.tool_calls) == ("hm", (ToolCall(name="f", arguments='{"a": 1}', id="c"),))
    assert (result.tool_name, result.tool_call_id) == ("f", "c")


def test_stored_system_and_messages_come_first() -> None:
    stored = spec(system="be kind", messages=(Message(role="user", content="old"),))
    assert [m.content for m in chat("new", stored).messages] == ["be kind", "old", "new"]
    own = [{"role": "system", "content": "be rude"}, {"role": "user", "content": "new"}]
    assert [m.content for m in chat(own, stored).messages] == ["old", "be rude", "new"]


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice(mode="none")),
        ("required", ToolChoice(mode="required")),
        ("f", ToolChoice(mode="required", name="f")),
    ],
)
def test_tool_choice(given: str, choice: ToolChoice) -> None:
    inner = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    request = chat(tools=[{"type": "function", "function": inner}, inner, Tool(name="f")], tool_choice=given)
    assert request.tool_choice == choice
    assert request.tools[0] == request.tools[1] == Tool(name="f", description="d", parameters={"type": "object"})


@pytest.mark.parametrize(
    ("given", "n", "is_batch"),
    [("a", 1, False), ([1, 2], 1, False), (["a", "b"], 2, True), ([[1], [2], "c"], 3, True), ([], 0, True)],
)
def test_batches_of_prompts_are_recognised(given: Any, n: int, is_batch: bool) -> None:
    prompts, found = requests.split_prompts(given)
    assert (len(prompts), found) == (n, is_batch)


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("given", "n", "is_batch"),
    [("a", 1, False), ([USER, USER], 1, False), ([[USER], [USER]], 2, True), (["a", "b"], 2, True), ([], 1, False)],
)
def test_batches_of_conversations_are_recognised(given: Any, n: int, is_batch: bool) -> None:
    conversations, found = requests.split_conversations(given)
    assert (len(conversations), found) == (n, is_batch)


def test_a_model_does_not_choose_where_prefixes_are_kept():
    stored = {"prefix_cache_home": "/elsewhere", "prefix_cache_disk_bytes": 1 << 40, "prefix_cache_ram_bytes": 1 << 40}
    assert options.load_options(stored, {}) == LoadOptions()
    assert options.load_options(stored, {"prefix_cache_disk_bytes": 0}).prefix_cache_disk_bytes == 0
