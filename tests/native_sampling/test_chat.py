"""Chat templates and answer parsing with the vendored templates of real models."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.native_sampling.bench import Bench

from donabe import _core
from donabe.errors import GrammarError, InvalidArgumentError, TemplateError

Render = Callable[..., _core.ChatPrompt]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USER = {"role": "user", "content": "Do I need an umbrella?"}
THOUGHT = "Ask for é first."

# template -> an answer as the model writes it, and what it means: thinking, content, the call's city.
ANSWERS: dict[str, tuple[str, str, str, str | None]] = {
    "Qwen-Qwen3-0.6B": (
        f"<think>\n{THOUGHT}\n</think>\n\nLet me see.<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>',
        f"{THOUGHT}\n",
        "Let me see.",
        "Zürich",
    ),
    "openai-gpt-oss-120b": (
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}',
        THOUGHT,
        "",
        "Paris",
    ),
    "GLM-4.6": (
        f"<think>{THOUGHT}</think>\nSo.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>"
        "\n</tool_call>",
        THOUGHT,
        "So.\n",
        "Paris",
    ),
    "mistralai-Mistral-Nemo-Instruct-2407": (
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdef123"}]',
        "",
        "",
        "Paris",
    ),
    "meta-llama-Llama-3.1-8B-Instruct": ('{"name": "get_weather", "parameters": {"city": "Paris"}}', "", "", "Paris"),
    "Qwen3-Coder": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
        "",
        "",
        "Paris",
    ),
    "deepseek-ai-DeepSeek-V3.1": (
        f"{THOUGHT}</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
        '{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        THOUGHT,
        "",
        "Paris",
    ),
    "meetkai-functionary-medium-v3.2": ('get_weather\n{"city": "Paris"}', "", "", "Paris"),
    "Kimi-K2-Instruct": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>',
        "",
        "",
        "Paris",
    ),
    "LFM2-8B-A1B": ('<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>', "", "", "Paris"),
    "google-gemma-4-31B-it": (
        f'<|channel>thought\n{THOUGHT}<channel|><|tool_call>call:get_weather{{city:<|"|>Paris<|"|>}}<tool_call|>',
        THOUGHT,
        "",
        "Paris",
    ),
    "microsoft-Phi-3.5-mini-instruct": ("It is sunny in Zürich. 😀", "", "It is sunny in Zürich. 😀", None),
    "Qwen-QwQ-32B": (f"{THOUGHT}\n</think>\nTake one.", f"\n{THOUGHT}\n", "\nTake one.", None),
}


@pytest.fixture(scope="session")
def templates(vocab_model: _core.Model, vendored_source: Path) -> Callable[[str], _core.ChatTemplates]:
    cache: dict[str, _core.ChatTemplates] = {}

    def get(name: str) -> _core.ChatTemplates:
        if name not in cache:
            source = (vendored_source / "models" / "templates" / f"{name}.jinja").read_text()
            cache[name] = _core.ChatTemplates(vocab_model, source)
        return cache[name]

    return get


@pytest.fixture
def render(templates: Callable[[str], _core.ChatTemplates]) -> Render:
    def apply(name: str, **inputs: Any) -> _core.ChatPrompt:
        return templates(name).apply(json.dumps({"messages": [USER]} | inputs))

    return apply


class Joined:
    """The deltas of a parser, joined again."""

    def __init__(self) -> None:
        self.content = self.thinking = ""
        self.calls: dict[int, dict[str, str]] = {}

    def add(self, deltas: dict[str, Any]) -> None:
        self.content += deltas["content"]
        self.thinking += deltas["thinking"]
        for delta in deltas["tool_calls"]:
            call = self.calls.setdefault(delta["index"], {"id": "", "name": "", "arguments": ""})
            for key in call:
                call[key] += delta[key]


def parse(parser: _core.ChatParser, pieces: list[bytes]) -> tuple[dict[str, Any], Joined]:
    joined = Joined()
    for piece in pieces:
        joined.add(json.loads(parser.feed(piece)))
    final = json.loads(parser.finish())
    joined.add(final["deltas"])
    return final, joined


def split(data: bytes, how: str) -> list[bytes]:
    if how == "whole":
        return [data]
    if how == "bytes":
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted(np.random.default_rng(len(data)).integers(0, len(data), 6).tolist())
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("how", ["whole", "bytes", "random"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_split_and_deltas_join_to_the_whole(render: Render, name: str, how: str) -> None:
    text, thinking, content, city = ANSWERS[name]
    final, joined = parse(_core.ChatParser(render(name, tools=[WEATHER])), split(text.encode(), how))
    assert final["error"] is None
    assert (final["thinking"], final["content"]) == (thinking, content)
    assert (joined.thinking, joined.content) == (thinking, content)
    calls = [{"id": call["id"], "name": call["name"], "arguments": call["arguments"]} for call in final["tool_calls"]]
    assert list(joined.calls.values()) == calls
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == (
        [("get_weather", {"city": city})] if city else []
    )


def test_prompt_holds_the_conversation_and_the_tools(render: Render) -> None:
    prompt = render("Qwen-Qwen3-0.6B", tools=[WEATHER])
    assert USER["content"] in prompt.prompt
    assert "Tells the weather." in prompt.prompt
    assert prompt.prompt.endswith("<|im_start|>assistant\n")
    assert prompt.generation_prompt == "<|im_start|>assistant\n"
    assert prompt.grammar_lazy
    assert [(trigger.kind, trigger.value) for trigger in prompt.grammar_triggers] == [("word", "<tool_call>\n")]
    assert (prompt.thinking_start, prompt.thinking_ends) == ("<think>", ["</think>"])
    assert prompt.supports_thinking


def test_thinking_can_be_switched_off(render: Render) -> None:
    assert render("Qwen-Qwen3-0.6B", enable_thinking=False).prompt.endswith("<think>\n\n</think>\n\n")


def test_template_arguments_and_time_reach_the_template(vocab_model: _core.Model) -> None:
    templates = _core.ChatTemplates(vocab_model, "{{ mood }} {{ strftime_now('%Y') }} {{ messages[0].content }}")
    inputs = {"messages": [USER], "template_kwargs": {"mood": "glad"}, "now": 86400 * 365.25 * 30.5}
    assert templates.apply(json.dumps(inputs)).prompt.startswith("glad 2000 ")


def test_thinking_and_calls_stay_in_the_content_when_not_parsed(render: Render) -> None:
    text = ANSWERS["Qwen-Qwen3-0.6B"][0]
    prompt = render("Qwen-Qwen3-0.6B", tools=[WEATHER])
    final, _ = parse(_core.ChatParser(prompt, parse_thinking=False), [text.encode()])
    assert final["thinking"] == ""
    assert THOUGHT in final["content"]
    assert len(final["tool_calls"]) == 1
    final, _ = parse(_core.ChatParser(prompt, parse_tool_calls=False), [text.encode()])
    assert final["thinking"] == f"{THOUGHT}\n"
    assert "get_weather" in final["content"]
    assert final["tool_calls"] == []


def test_an_answer_that_does_not_parse_is_content_with_the_reason(render: Render) -> None:
    prompt = render("Qwen-Qwen3-0.6B", tools=[WEATHER])
    text = 'Hm. <tool_call>\n{"name": "no_such_tool", "arguments": {}}\n</tool_call>'
    for how in ("whole", "bytes"):
        final, joined = parse(_core.ChatParser(prompt), split(text.encode(), how))
        assert final["error"]
        assert final["content"] == text
        assert joined.content == text
        assert final["tool_calls"] == []


def test_a_cut_tool_call_gives_what_is_there(render: Render) -> None:
    prompt = render("Qwen-Qwen3-0.6B", tools=[WEATHER])
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa'
    final, joined = parse(_core.ChatParser(prompt), split(text.encode(), "bytes"))
    assert final["error"] is None
    assert final["tool_calls"][0]["name"] == "get_weather"
    assert final["tool_calls"][0]["arguments"] == joined.calls[0]["arguments"]


def test_deeply_nested_output_is_content_and_no_crash(render: Render) -> None:
    prompt = render("Qwen-Qwen3-0.6B", tools=[WEATHER])
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": ' + "[" * 50_000
    final, joined = parse(_core.ChatParser(prompt), [text.encode()])
    assert "nests brackets deeper" in final["error"]
    assert final["content"] == joined.content == text


def test_a_continued_message_reports_only_what_is_new(render: Render) -> None:
    messages = [USER, {"role": "assistant", "content": "Take an"}]
    prompt = render("Qwen-Qwen2.5-7B-Instruct", messages=messages, continue_final_message=True)
    assert prompt.prompt.endswith("assistant\nTake an")
    final, joined = parse(_core.ChatParser(prompt), [b" umb", b"rella."])
    assert final["content"] == joined.content == " umbrella."


def test_messages_start_where_the_template_marks_them(render: Render, vocab_model: _core.Model) -> None:
    messages = [USER, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Sure?"}]
    prompt = render("Qwen-Qwen3-0.6B", messages=messages)
    tokens = vocab_model.vocab.tokenize(prompt.prompt, parse_special=True)
    starts = prompt.message_starts(vocab_model.vocab, tokens)
    texts = [vocab_model.vocab.detokenize(tokens[start:][:3], unparse_special=True).decode() for start in starts]
    assert texts == [f"<|im_start|>{role}\n" for role in ("user", "assistant", "user", "assistant")]
    phi = render("microsoft-Phi-3.5-mini-instruct")
    assert phi.message_starts(vocab_model.vocab, tokens).dtype == np.int32


@pytest.mark.parametrize("more", [{"tool_choice": "required"}, {}], ids=["required", "auto"])
def test_every_vendored_template_gives_a_grammar_the_sampler_takes(
    vocab_model: _core.Model, vendored_source: Path, more: dict[str, Any]
) -> None:
    sources = sorted((vendored_source / "models" / "templates").glob("*.jinja"))
    assert len(sources) > 50
    for path in sources:
        templates = _core.ChatTemplates(vocab_model, path.read_text())
        prompt = templates.apply(json.dumps({"messages": [USER], "tools": [WEATHER]} | more))
        assert "umbrella" in prompt.prompt, path.name
        _core.Sampler(
            vocab_model,
            _core.SamplerParams(
                grammar=prompt.grammar,
                grammar_lazy=prompt.grammar_lazy,
                grammar_triggers=prompt.grammar_triggers,
                grammar_prefill=prompt.grammar_prefill,
                preserved_tokens=prompt.preserved_token_ids(vocab_model.vocab),
                thinking_start=prompt.thinking_start,
                thinking_ends=prompt.thinking_ends,
            ),
        )
        final, _ = parse(_core.ChatParser(prompt, parse_thinking=False, parse_tool_calls=False), [])
        assert final["tool_calls"] == []


@pytest.mark.parametrize(
    "name", ["Qwen-Qwen2.5-7B-Instruct", "Kimi-K2-Instruct", "inclusionai-ling-3.0-flash", "openai-gpt-oss-120b"]
)
def test_a_json_schema_is_never_ignored(render: Render, vocab_model: _core.Model, name: str) -> None:
    schema = {"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"]}
    prompt = render(name, json_schema=schema)
    assert '"\\"rain\\""' in prompt.grammar
    params = _core.SamplerParams(
        grammar=prompt.grammar,
        grammar_lazy=prompt.grammar_lazy,
        grammar_triggers=prompt.grammar_triggers,
        grammar_prefill=prompt.grammar_prefill,
        thinking_start=prompt.thinking_start,
        thinking_ends=prompt.thinking_ends,
    )
    sampler = _core.Sampler(vocab_model, params)
    if prompt.grammar_lazy:  # the prompt opened a thinking block: the grammar waits for its end
        for text in ("Hm", "</think>"):
            for token in vocab_model.vocab.tokenize(text, add_special=False, parse_special=True).tolist():
                sampler.accept(token)
        row = np.zeros(vocab_model.vocab.n_tokens, np.float32)
        row[int(vocab_model.vocab.tokenize("x")[0])] = 9
        assert vocab_model.vocab.piece(sampler.sample(row)).strip(b" \n\t") in (b"", b"{", b'{"', b"{\n", b"{\r\n")


def test_a_callers_grammar_starts_after_the_generation_prompt(render: Render) -> None:
    prompt = render("Qwen-Qwen3-0.6B", grammar='root ::= "yes"')
    assert (prompt.grammar, prompt.grammar_lazy, prompt.grammar_prefill) == ('root ::= "yes"', False, "")


def test_schema_template_sampler_and_parser_work_together(text_model: Callable[[str], _core.Model]) -> None:
    model = text_model("llama")
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    schema = {"type": "object", "properties": {"a": {"enum": ["stop", "ab"]}}, "required": ["a"]}
    inputs = {"messages": [{"role": "user", "content": "the name"}], "json_schema": schema}
    prompt = _core.ChatTemplates(model, source).apply(json.dumps(inputs))
    tokens = model.vocab.tokenize(prompt.prompt, parse_special=True).tolist()
    bench = Bench(model)
    params = _core.SamplerParams(seed=2, grammar=prompt.grammar, grammar_prefill=prompt.grammar_prefill)
    output = bench.start(0, tokens, params, _core.OutputLimits(max_tokens=200))
    bench.run()
    assert output.finish == 1
    final, joined = parse(_core.ChatParser(prompt), output.pieces)
    assert final["error"] is None
    assert json.loads(final["content"])["a"] in ("stop", "ab")
    assert joined.content == final["content"]


def test_a_model_without_a_template_gets_chatml(vocab_model: _core.Model) -> None:
    templates = _core.ChatTemplates(vocab_model)
    assert "<|im_start|>" in templates.source
    assert not templates.supports_thinking
    assert set(templates.caps) >= {"supports_tools", "supports_system_role"}


def test_rendering_from_many_threads_gives_the_same(render: Render) -> None:
    def run(i: int) -> str:
        return render("Qwen-Qwen3-0.6B", messages=[{"role": "user", "content": f"n{i % 2}"}]).prompt

    expected = [run(0), run(1)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(40))) == expected * 20


NEST = 6000
HOSTILE = {
    "parentheses": "{{ " + "(" * NEST + "1" + ")" * NEST + " }}",
    "lists": "{{ " + "[" * NEST + "]" * NEST + " }}",
    "ifs": "{% if true %}" * 5500 + "{% endif %}" * 5500,
    "fors": "{% for a in b %}" * 100 + "{% endfor %}" * 100,
    "elifs": "{% if a %}" + "{% elif b %}" * 5000 + "{% endif %}",
    "operators": "{{ " + " + ".join(["1"] * NEST) + " }}",
    "nots": "{{ " + "not " * NEST + "true }}",
    "ternaries": "{{ " + "1 if a else " * NEST + "2 }}",
    "long": "x" * (257 << 10),
    "unclosed": "{% if",
    "no template": "{{ 1 + }}",
    "empty": "",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_sources_are_refused(vocab_model: _core.Model, source: str) -> None:
    with pytest.raises(TemplateError, match="template"):
        _core.ChatTemplates(vocab_model, source)


# What a template may do while it renders. Each must end in an error, soon, without much memory and without a crash.
RUNAWAY = {
    "range": "{% for i in range(1000000000) %}x{% endfor %}",
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "unrolled": "{% set s = 'xxxxxxxx' %}" + "{% set s = s ~ s %}" * 60,
    "repeat": "{{ 'a' * 1000000000000 }}",
    "replace": "{% set s = 'a' * 1000000 %}{{ s|replace('a', s) }}",
    "indent": "{{ 'a'|indent(100000000000, first=true) }}",
    "tojson": "{{ [1, [2]]|tojson(indent=2000000000) }}",
    "lists": "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "cycle": "{% set a = [1] %}{% set _ = a.append(a) %}{{ a }}",
    "cycle as json": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns|tojson }}",
    "cycle as text": "{% set a = [1] %}{% set _ = a.append(a) %}{{ a ~ 'x' }}",
    "zero": "{{ 5 is divisibleby(0) }}",
}


def reset_peak_memory() -> int:
    """Let the kernel forget what tests before this one took (proc(5), clear_refs); bytes in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's /proc")
@pytest.mark.parametrize(
    ("name", "when"),
    [(name, when) for name in RUNAWAY for when in ("at once", "later") if (name, when) != ("loops", "later")],
)
def test_runaway_templates_are_stopped(vocab_model: _core.Model, name: str, when: str) -> None:
    body = RUNAWAY[name]
    trap = "{% if messages[0].content == 'now' %}" + body + "{% endif %}{{ messages[0].content }}"
    start = time.monotonic()
    before_bytes = reset_peak_memory()
    with pytest.raises(TemplateError, match=r"stopped|zero"):
        templates = _core.ChatTemplates(vocab_model, body if when == "at once" else trap)
        templates.apply(json.dumps({"messages": [{"role": "user", "content": "now"}]}))
    assert time.monotonic() - start < 30
    assert _status_bytes("VmHWM") - before_bytes < 3 << 30


@pytest.mark.parametrize(
    ("name", "n_messages"),
    [("Reka-Edge", 101), ("Kimi-K3", 401), ("google-gemma-4-31B-it", 401), ("Qwen-Qwen3-0.6B", 2001)],
)
def test_large_conversations_render(render: Render, name: str, n_messages: int) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "word " * 300} for i in range(n_messages)]
    assert len(render(name, messages=messages, tools=[WEATHER]).prompt) > n_messages * 1500


def test_a_template_that_refuses_says_why(vocab_model: _core.Model) -> None:
    source = "{% if messages|length > 1 %}{{ raise_exception('one message only') }}{% endif %}{{ messages[0].content }}"
    templates = _core.ChatTemplates(vocab_model, source)
    with pytest.raises(TemplateError, match="one message only"):
        templates.apply(json.dumps({"messages": [USER, USER]}))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ("[]", "JSON object"),
        ("{", "JSON object"),
        ('{"messages": []}', "empty"),
        ('{"messages": 5}', "messages"),
        ('{"messages": [{"content": "x"}]}', "role"),
        ('{"messages": [{"role": "user", "content": 7}]}', "content"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "image"),
        ('{"mesages": []}', "mesages"),
        ('{"messages": [{"role": "user", "content": "x"}], "tools": {}}', "tools"),
        ('{"messages": [{"role": "user", "content": "x"}], "tool_choice": "maybe"}', "maybe"),
        ('{"messages": [{"role": "user", "content": "x"}], "enable_thinking": "yes"}', "enable_thinking"),
        ('{"messages": [{"role": "user", "content": "x"}], "now": "today"}', "now"),
        ('{"messages": [{"role": "user", "content": "x"}], "now": 1e300}', "now"),
        ('{"messages": [{"role": "user", "content": "x"}], "template_kwargs": []}', "template_kwargs"),
        ('{"messages": [{"role": "user", "content": "x"}], "continue_final_message": true}', "assistant"),
        ('{"messages": [{"role": "user", "content": "x"}], "grammar": "a", "json_schema": {}}', "grammar"),
        (
            '{"messages": [{"role": "user", "content": "x"}], "template_kwargs": {"a": '
            + "[" * 9000
            + "]" * 9000
            + "}}",
            "128",
        ),
    ],
)
def test_bad_inputs_are_refused_by_name(
    templates: Callable[[str], _core.ChatTemplates], inputs: str, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        templates("Qwen-Qwen3-0.6B").apply(inputs)


def test_hostile_tool_schemas_are_refused(render: Render) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": deep}}}}
    with pytest.raises(GrammarError, match="deeper"):
        render("Qwen-Qwen3-0.6B", tools=[tool])


def test_a_parser_ends_once(render: Render) -> None:
    parser = _core.ChatParser(render("Qwen-Qwen3-0.6B"))
    parser.finish()
    with pytest.raises(InvalidArgumentError, match="finished"):
        parser.feed(b"x")
