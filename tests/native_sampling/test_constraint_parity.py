"""Lazy grammars and thinking budgets token for token as llama.cpp's `common_sampler` has them, on recorded logits.

The reference here is written from the rules of `common/sampling.cpp`, `common/reasoning-budget.h` and the lazy grammar
of `llama-grammar.cpp`, in plain Python over texts: it searches all text again after every token, and knows the grammar
as a regular expression of the texts that may still become its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.native_sampling.text_model import BYTES, EOS, TOOL, TURN, token_of, vocabulary

from donabe import _core

TextModel = Callable[[str], _core.Model]
Row = npt.NDArray[np.float32]

N_STEPS = 60
GRAMMAR = 'root ::= "st" [a-z]{0,4} [0-9] "!"'
# Every beginning of a text of the grammar, and the whole ones.
_BEGINNING = re.compile(r"s?|st[a-z]{0,4}([0-9]!?)?")
_WHOLE = re.compile(r"st[a-z]{0,4}[0-9]!")
START, END = [TOOL], [TURN, token_of("ab")]
_BYTE_TOKENS = {token: byte for token, byte in enumerate(BYTES, start=5)}


def piece(token: int) -> str:
    """As the vocabulary writes it, control tokens too; bytes apart, which the rows of grammar tests leave out."""
    return vocabulary()[0][token].replace("▁", " ")


def recorded(seed: int, *likely: int) -> Row:
    """Logits of N_STEPS steps; these tokens come up often enough for something to happen."""
    rows = np.random.default_rng(seed).standard_normal((N_STEPS, 128)).astype(np.float32)
    rows[:, list(likely)] += 1.7
    rows[:, 0] = rows[:, 1] = -np.inf  # unknown and begin
    return rows


@dataclass
class Budget:
    """`common_reasoning_budget`: idle, counting, waiting (for the rest of a character), forcing or done."""

    n_tokens: int
    state: str = "idle"
    end_was_matched: bool = False
    seen: set[str] = field(default_factory=set)
    _left: int = 0
    _forced: list[int] = field(default_factory=list)
    _recent: list[int] = field(default_factory=list)

    @property
    def forced(self) -> int | None:
        return self._forced[0] if self.state == "forcing" else None

    def accept(self, token: int) -> None:
        self._recent.append(token)
        if self.state in ("idle", "done"):
            if self._matches(START):
                self.end_was_matched, self._left = False, self.n_tokens
                self._set("counting" if self.n_tokens > 0 else "forcing")
        elif self.state == "forcing":
            is_end = self._matches(END)
            del self._forced[0]
            if not self._forced:
                self._set("done")
                self.end_was_matched = is_end
        elif self._matches(END):
            self._set("done")
            self.end_was_matched = True
        else:
            self._left -= self.state == "counting"
            if self._left <= 0:
                is_whole = token not in _BYTE_TOKENS or _BYTE_TOKENS[token] < 0x80
                if is_whole or self.state == "counting":
                    self._set("forcing" if is_whole else "waiting")

    def _matches(self, tokens: list[int]) -> bool:
        if self._recent[-len(tokens) :] != tokens:
            return False
        self._recent.clear()
        return True

    def _set(self, state: str) -> None:
        self.state = state
        self.seen.add(state)
        self._recent.clear()
        if state == "forcing":
            self._forced = list(END)


@dataclass
class LazyGrammar:
    """`find` gives where in all the text the grammar begins, or -1."""

    find: Callable[[str], int]
    text: str = ""
    own: str | None = None  # what the grammar has seen; None while it sleeps

    def mask(self) -> npt.NDArray[np.bool_]:
        if self.own is None:
            return np.ones(128, np.bool_)
        allowed = [bool(_BEGINNING.fullmatch(self.own + piece(token))) and piece(token) != "" for token in range(128)]
        allowed[TOOL] = allowed[TURN] = False
        allowed[EOS] = bool(_WHOLE.fullmatch(self.own))
        return np.array(allowed)

    def accept(self, token: int) -> None:
        if self.own is not None:
            self.own += piece(token)
            return
        self.text += piece(token)
        start = self.find(self.text)
        if start >= 0:
            self.own = self.text[start:]


def reference(rows: Row, grammar: LazyGrammar | None, budget: Budget | None) -> list[int]:
    """Greedy tokens: the budget first, then the grammar unless the budget counts."""
    tokens: list[int] = []
    for row in rows:
        is_awake = grammar is not None and (budget is None or budget.state in ("idle", "done"))
        forced = budget.forced if budget is not None else None
        if forced is not None:
            token = forced
        else:
            mask = grammar.mask() if grammar is not None and is_awake else np.ones(128, np.bool_)
            token = int(np.where(mask, row, -np.inf).argmax())
        tokens.append(token)
        if token == EOS:
            break
        if budget is not None:
            budget.accept(token)
            if grammar is not None and not is_awake and budget.state == "done" and budget.end_was_matched:
                for end in END:
                    grammar.accept(end)
        if grammar is not None and is_awake:
            grammar.accept(token)
    return tokens


def ours(model: _core.Model, rows: Row, **params: Any) -> list[int]:
    sampler = _core.Sampler(model, _core.SamplerParams(temperature=0.0, **params))
    tokens: list[int] = []
    for row in rows:
        tokens.append(sampler.sample(row))
        if tokens[-1] == EOS:
            break
        sampler.accept(tokens[-1])
    return tokens


def lazy(trigger: _core.GrammarTrigger) -> dict[str, Any]:
    return {"grammar": GRAMMAR, "grammar_lazy": True, "grammar_triggers": [trigger]}


def of_group(pattern: str, *, is_whole: bool = False) -> Callable[[str], int]:
    compiled = re.compile(pattern)

    def find(text: str) -> int:
        match = compiled.fullmatch(text) if is_whole else compiled.search(text)
        return match.start(1) if match else -1

    return find


TRIGGERS: dict[str, tuple[tuple[str, str], Callable[[str], int]]] = {
    "word": (("word", "st"), lambda text: text.find("st")),
    "pattern": (("pattern", "[^s](st)"), of_group("[^s](st)")),
    "pattern_full": (("pattern_full", "[ -~]*(st)"), of_group("[ -~]*(st)", is_whole=True)),
}


@pytest.mark.parametrize("kind", list(TRIGGERS))
def test_lazy_grammar_wakes_and_binds_as_the_reference(text_model: TextModel, kind: str) -> None:
    (name, value), find = TRIGGERS[kind]
    n_woken = n_ended = 0
    for seed in range(150):
        rows = recorded(seed, *map(token_of, ["s", "t", "st", "st", "x"]))
        rows[:, list(_BYTE_TOKENS)] = rows[:, [TOOL, TURN]] = -np.inf
        grammar = LazyGrammar(find)
        expected = reference(rows, grammar, None)
        assert ours(text_model("llama"), rows, **lazy(_core.GrammarTrigger(name, value))) == expected, seed
        n_woken += grammar.own is not None
        n_ended += bool(grammar.own and _WHOLE.fullmatch(grammar.own))
    assert min(n_woken, n_ended) > 50


def test_trigger_token_wakes_the_grammar_as_the_reference(text_model: TextModel) -> None:
    model = text_model("llama")
    trigger = _core.GrammarTrigger("token", "", TOOL)
    n_woken = 0
    for seed in range(100):
        rows = recorded(seed, TOOL, token_of("x"))
        rows[:, [*_BYTE_TOKENS, TURN]] = -np.inf
        params = {
            "grammar": 'root ::= "<|tool|>" "st" [a-z]{0,4} [0-9] "!"',
            "grammar_lazy": True,
            "grammar_triggers": [trigger],
            "preserved_tokens": [TOOL],
        }
        grammar = LazyGrammar(lambda text: len(text) if text.endswith("<|tool|>") else -1)
        assert ours(model, rows, **params) == reference(rows, grammar, None), seed
        n_woken += grammar.own is not None
    assert n_woken > 50


@pytest.mark.parametrize("n_tokens", [0, 1, 3, 10])
def test_budget_counts_waits_and_forces_as_the_reference(text_model: TextModel, n_tokens: int) -> None:
    seen: set[str] = set()
    for seed in range(150):
        rows = recorded(seed, TOOL, TURN, token_of("ab"), *list(_BYTE_TOKENS)[:3])
        budget = Budget(n_tokens)
        expected = reference(rows, None, budget)
        params = {"thinking_start": "<|tool|>", "thinking_ends": ["<|turn|>ab"], "thinking_budget": n_tokens}
        assert ours(text_model("llama"), rows, **params) == expected, seed
        seen |= budget.seen
    assert seen == {"forcing", "done"} | ({"counting", "waiting"} if n_tokens else set())


def test_lazy_grammar_rests_while_the_budget_counts_as_the_reference(text_model: TextModel) -> None:
    n_woken = n_done = 0
    for seed in range(200):
        rows = recorded(seed, TOOL, TURN, token_of("ab"), token_of("st"))
        rows[:, list(_BYTE_TOKENS)] = -np.inf
        grammar, budget = LazyGrammar(TRIGGERS["word"][1]), Budget(4)
        expected = reference(rows, grammar, budget)
        params = lazy(_core.GrammarTrigger("word", "st")) | {
            "thinking_start": "<|tool|>",
            "thinking_ends": ["<|turn|>ab"],
            "thinking_budget": 4,
        }
        assert ours(text_model("llama"), rows, **params) == expected, seed
        n_woken += grammar.own is not None
        n_done += budget.state == "done"
    assert min(n_woken, n_done) > 50
