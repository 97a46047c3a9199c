"""Grammars, triggers and thinking budgets: what comes out fits, and nothing is constrained that should not be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.native_sampling.bench import Bench
from tests.native_sampling.text_model import EOS, TOOL, TURN, token_of

from donabe import _core
from donabe.chat.thinking_grammar import after_thinking
from donabe.errors import GrammarError, InvalidArgumentError

TextModel = Callable[[str], _core.Model]
PROMPT = [1, 20, 30, 40, 50]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "size": {"type": "integer", "minimum": -20, "maximum": 300},
        "tags": {"type": "array", "items": {"enum": ["ab", "stop", True, None]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}


def check(value: Any) -> None:
    assert set(value) == {"name", "size", "tags"}
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 6
    assert -20 <= value["size"] <= 300
    assert 1 <= len(value["tags"]) <= 3
    assert all(tag in ("ab", "stop", True, None) for tag in value["tags"])


@pytest.mark.parametrize(
    "chain", [{"temperature": 0.0}, {"top_k": 40}, {"top_k": 0}, {"top_k": 0, "top_p": 1.0}, {"mirostat": 2}], ids=str
)
def test_json_schema_output_always_fits(text_model: TextModel, chain: dict[str, Any]) -> None:
    grammar = _core.json_schema_to_grammar(json.dumps(SCHEMA))
    bench = Bench(text_model("llama"), n_threads=2)
    for seed in range(4):
        params = _core.SamplerParams(grammar=grammar, seed=seed, **{"temperature": 1.5} | chain)
        bench.start(seed, [*PROMPT, 60 + seed], params, _core.OutputLimits(max_tokens=300))
    bench.run()
    for output in bench.outputs.values():
        assert output.finish == 1, output.error
        # Byte tokens of a random model can make overlong sequences, which llama.cpp's grammars let pass.
        check(json.loads(output.text.decode(errors="ignore")))


def test_end_token_comes_even_when_it_is_banned_and_the_grammar_is_done(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    params = _core.SamplerParams(grammar='root ::= "true"')
    output = bench.start(0, PROMPT, params, _core.OutputLimits(ignore_eos=True))
    bench.run(20)
    assert (output.text, output.finish) == (b"true", 1)


def test_grammar_choices_follow_the_logits(vocab_model: _core.Model) -> None:
    vocab = vocab_model.vocab
    yes, no = int(vocab.tokenize("yes")[0]), int(vocab.tokenize("no")[0])
    row = np.full(vocab.n_tokens, -9, np.float32)
    row[:4000] = 5.0
    row[[int(vocab.tokenize(text)[0]) for text in ("y", "ye", "n")]] = -20.0
    row[yes], row[no] = -8.0, -7.0  # behind 4,000 tokens the grammar forbids
    for chain in ({"temperature": 0.0}, {"top_k": 1}, {"top_k": 0, "top_p": 0.5}):
        params = _core.SamplerParams(grammar='root ::= "yes" | "no"', **chain)
        assert _core.Sampler(vocab_model, params).sample(row) == no


def test_lazy_grammar_sleeps_until_its_word(text_model: TextModel) -> None:
    vocab = text_model("llama").vocab

    def sampler(*triggers: _core.GrammarTrigger) -> _core.Sampler:
        params = _core.SamplerParams(
            temperature=0.0,
            grammar='root ::= "stop" ":" [0-9] "!"',
            grammar_lazy=True,
            grammar_triggers=triggers,
            preserved_tokens=[TOOL],
        )
        return _core.Sampler(text_model("llama"), params)

    def allowed(each: _core.Sampler) -> set[str]:
        """First choice for rows that favour one character each."""
        result = set()
        for character in ":5!x":
            row = np.zeros(vocab.n_tokens, np.float32)
            row[token_of(character)] = 5.0
            result.add(vocab.piece(each.sample(row)).decode())
        return result

    triggers = [
        _core.GrammarTrigger("word", "stop:"),
        _core.GrammarTrigger("pattern", "(stop:)"),
        _core.GrammarTrigger("pattern_full", "[a-z ]*(stop:)"),
    ]
    for trigger in triggers:
        each = sampler(trigger)
        for text in ("ab", " ", "x", "st", "op"):
            each.accept(int(vocab.tokenize(text)[0]))
            assert allowed(each) == set(":5!x"), trigger.kind
        each.accept(token_of(":"))
        assert allowed(each) < set("0123456789"), trigger.kind
        each.accept(token_of("7"))
        assert allowed(each) == {"!"}, trigger.kind


def test_trigger_word_inside_a_token_feeds_the_grammar_from_its_start(vocab_model: _core.Model) -> None:
    vocab = vocab_model.vocab
    params = _core.SamplerParams(
        temperature=0.0,
        grammar='root ::= "call" "(1)"',
        grammar_lazy=True,
        grammar_triggers=[_core.GrammarTrigger("word", "call")],
    )
    sampler = _core.Sampler(vocab_model, params)
    for token in vocab.tokenize("please recall").tolist():
        sampler.accept(token)
    row = np.random.default_rng(1).standard_normal(vocab.n_tokens).astype(np.float32)
    text = b""
    while not text.endswith(b")"):
        token = sampler.sample(row)
        text += vocab.piece(token)
        sampler.accept(token)
    assert text == b"(1)"


def test_trigger_token_wakes_the_grammar_with_itself(text_model: TextModel) -> None:
    model = text_model("llama")
    for trigger in (_core.GrammarTrigger("token", "", TOOL), _core.GrammarTrigger("word", "<|tool|>")):
        params = _core.SamplerParams(
            temperature=0.0,
            grammar='root ::= "<|tool|>" "ab"',
            grammar_lazy=True,
            grammar_triggers=[trigger],
            preserved_tokens=[TOOL],
        )
        sampler = _core.Sampler(model, params)
        row = np.zeros(128, np.float32)
        row[token_of("x")] = 9
        assert sampler.sample(row) == token_of("x")
        sampler.accept(TOOL)
        assert sampler.sample(row) in (token_of("a"), token_of("ab"))


def test_prefill_advances_a_grammar(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    params = _core.SamplerParams(grammar='root ::= "abc" "12"', grammar_prefill="abc")
    output = bench.start(0, PROMPT, params)
    bench.run()
    assert output.text == b"12"
    with pytest.raises(GrammarError, match="grammar_prefill"):
        _core.Sampler(text_model("llama"), _core.SamplerParams(grammar='root ::= "abc"', grammar_prefill="x"))


def thinking(budget: int, **more: Any) -> _core.SamplerParams:
    return _core.SamplerParams(
        seed=1,
        temperature=1.0,
        logit_bias={EOS: -100.0},
        thinking_start="<|tool|>",
        thinking_ends=["<|turn|>ab"],
        thinking_budget=budget,
        **more,
    )


@pytest.mark.parametrize("budget", [0, 1, 6])
def test_thinking_budget_forces_the_end_tag(text_model: TextModel, budget: int) -> None:
    bench = Bench(text_model("llama"))
    output = bench.start(0, PROMPT, thinking(budget, grammar_prefill="<|tool|>"), _core.OutputLimits(max_tokens=30))
    bench.run()
    end = output.tokens.index(TURN)
    assert end <= budget
    assert output.tokens[end + 1] == token_of("ab")


def test_no_thinking_no_budget(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    free = bench.start(0, PROMPT, thinking(2), _core.OutputLimits(max_tokens=30))
    plain = _core.SamplerParams(seed=1, temperature=1.0, logit_bias={EOS: -100.0})
    other = bench.start(1, PROMPT, plain, _core.OutputLimits(max_tokens=30))
    bench.run()
    assert TOOL not in free.tokens
    assert free.tokens == other.tokens


def test_lazy_grammar_rests_while_thinking(text_model: TextModel) -> None:
    params = thinking(
        -1,
        grammar='root ::= "stop" "!"',
        grammar_lazy=True,
        grammar_triggers=[_core.GrammarTrigger("word", "stop")],
        grammar_prefill="<|tool|>",
    )
    sampler = _core.Sampler(text_model("llama"), params)
    row = np.full(128, -30, np.float32)
    row[token_of("x")] = 9
    sampler.accept(token_of("stop"))  # only a thought
    assert sampler.sample(row) == token_of("x")
    for token in (TURN, token_of("ab"), token_of("stop")):
        sampler.accept(token)
    assert sampler.sample(row) == token_of("!")


def test_a_token_that_does_not_fit_is_an_error_of_its_sequence(text_model: TextModel) -> None:
    model = text_model("llama")
    sampler = _core.Sampler(model, _core.SamplerParams(grammar='root ::= "ab"'))
    with pytest.raises(GrammarError, match="does not fit"):
        sampler.accept(token_of("x"))
    bench = Bench(model)
    good = bench.start(
        0, PROMPT, _core.SamplerParams(temperature=0.0, logit_bias={EOS: -100}), _core.OutputLimits(max_tokens=5)
    )
    bad = bench.start(1, PROMPT, _core.SamplerParams(grammar='root ::= "\\u4f60"'))  # not in this vocabulary
    bench.run()
    assert (bad.finish, bad.tokens) == (4, [])
    assert "fits the grammar" in bad.error
    assert (good.finish, good.error) == (3, "")


def test_clone_keeps_the_grammar_state(text_model: TextModel) -> None:
    sampler = _core.Sampler(
        text_model("llama"), _core.SamplerParams(temperature=0.0, grammar='root ::= "12" "ab" "34"')
    )
    sampler.accept(token_of("12"))
    twin = sampler.clone()
    sampler.accept(token_of("ab"))
    row = np.zeros(128, np.float32)
    assert twin.sample(row) in (token_of("a"), token_of("ab"))
    assert sampler.sample(row) == token_of("3")
    sampler.reset()
    assert sampler.sample(row) in (token_of("1"), token_of("12"))


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('root ::= "a', "does not parse"),
        ("root ::= other", "'other'"),
        ('start ::= "a"', "no rule 'root'"),
        ("root ::= root", "left recursion"),
        ("root ::= " + "(" * 300 + '"a"' + ")" * 300, "deeper than 256"),
        ('root ::= "a"{100000}', "repetition"),
        ("\n".join(f"r{i} ::= r{i + 1}" for i in range(30_000)) + '\nr30000 ::= "x"\nroot ::= r0', "more than 20000"),
        ('root ::= "a\0b"', "NUL"),
    ],
    ids=["open", "undefined", "rootless", "recursive", "nested", "repeated", "chained", "nul"],
)
def test_bad_grammars_are_refused_with_the_reason(text_model: TextModel, grammar: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        _core.Sampler(text_model("llama"), _core.SamplerParams(grammar=grammar))


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        '{"type": "nonsense"}',
        '{"$ref": "#/nowhere"}',
        "[" * 5000 + "]" * 5000,
        json.dumps({"type": "string", "pattern": "^" + "(" * 3000 + "a" + ")" * 3000 + "$"}),
    ],
    ids=["cut", "type", "ref", "nested", "pattern"],
)
def test_bad_schemas_are_refused(schema: str) -> None:
    with pytest.raises(GrammarError, match="schema"):
        _core.json_schema_to_grammar(schema)


def test_hostile_schema_sizes_stay_harmless(text_model: TextModel) -> None:
    schema = {"type": "array", "items": {"type": "string", "maxLength": 10**9}, "minItems": 10**9}
    with pytest.raises((GrammarError, InvalidArgumentError)):
        _core.Sampler(
            text_model("llama"), _core.SamplerParams(grammar=_core.json_schema_to_grammar(json.dumps(schema)))
        )


def test_lazy_grammar_needs_a_trigger() -> None:
    with pytest.raises(InvalidArgumentError, match="grammar_triggers"):
        _core.SamplerParams(grammar='root ::= "a"', grammar_lazy=True)
    with pytest.raises(InvalidArgumentError, match="kind"):
        _core.GrammarTrigger("regex", "a")  # type: ignore[arg-type]


# --- thinking before a constrained answer ----------------------------------------------------------------------------

ANSWER_GRAMMAR = r"""
# the root of all
root ::= "{" root-name ":" [0-9root]+ "}"
root-name ::= "\"root\""
"""


def fits(model: _core.Model, grammar: str, text: str) -> bool:
    """Whether the grammar allows every token of the text, one after the other."""
    sampler = _core.Sampler(model, _core.SamplerParams(grammar=grammar, temperature=0.0))
    try:
        for token in model.vocab.tokenize(text, add_special=False, parse_special=True).tolist():
            sampler.accept(token)
    except GrammarError:
        return False
    return True


@pytest.mark.parametrize("closing", ["</think>", "<<end<<", "]", "aabaa", "^-\\]"])
@pytest.mark.parametrize("started", [True, False])
def test_thinking_is_free_and_the_answer_after_it_is_not(vocab_model: _core.Model, closing: str, started: bool) -> None:
    grammar = after_thinking(ANSWER_GRAMMAR, "<think>", closing, started=started)
    front = "" if started else "<think>"
    answer = '{"root":1r2}'
    for thought in ("", '\nWell, {1} \\ "x"\n\n', closing[:-1] + " no", "é漢字 a aa aab ab <<e <e"):
        assert closing not in thought
        assert fits(vocab_model, grammar, f"{front}{thought}{closing}\n\n{answer}"), thought
        assert not fits(vocab_model, grammar, f"{front}{thought}{closing}\n\nSure: {answer}"), thought
        assert not fits(vocab_model, grammar, f"{front}{thought}{closing}{closing}{answer}"), thought
    if not started:
        assert fits(vocab_model, grammar, answer)
        assert not fits(vocab_model, grammar, "Sure")
