"""Text of a sequence: stop strings across tokens, complete UTF-8, nothing lost and nothing twice.

A grammar that spells out one text makes a random model split it into tokens in random ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from tests.native_sampling.bench import Bench
from tests.native_sampling.reference import cut_at_stop

from donabe import _core

TextModel = Callable[[str], _core.Model]
PROMPT = [1, 20, 30]
PARTS = ["ab", "abc", "stop", "st", "op", "é", "€", "😀", " the", "12", "x", "a", "b", "true", "  "]


def spell(text: str) -> str:
    return f"root ::= {json.dumps(text, ensure_ascii=False)}"


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("seed", range(25))
def test_text_is_whole_and_cut_at_the_first_stop(text_model: TextModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bench = Bench(text_model("llama"), n_threads=2)
    expected = []
    for seq_id in range(4):
        text = "".join(rng.choice(PARTS, 12))
        data = text.encode()
        stops = ["".join(rng.choice(PARTS, int(rng.integers(1, 4)))).encode() for _ in range(int(rng.integers(0, 4)))]
        if rng.random() < 0.3:  # one that ends inside a code point
            stops.append(data[int(rng.integers(0, 8)) :][:3])
        stops = list(dict.fromkeys(stops))
        expected.append((*cut_at_stop(data, stops), stops))
        params = _core.SamplerParams(seed=seed, temperature=3.0, top_k=0, top_p=1.0, grammar=spell(text))
        bench.start(seq_id, [*PROMPT, 40 + seq_id], params, _core.OutputLimits(stop=stops))
    bench.run()
    for output, (text_before, index, stops) in zip(bench.outputs.values(), expected, strict=True):
        assert output.text == text_before, (stops, output.pieces)
        assert (output.finish, output.stop_index) == ((2, index) if index >= 0 else (1, -1))
        assert all(is_utf8(piece) for piece in output.pieces[:-1])


def test_only_a_possible_stop_string_is_held_back(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    text = "abcabstopx"
    output = bench.start(
        0, PROMPT, _core.SamplerParams(grammar=spell(text)), _core.OutputLimits(stop=[b"abstopy", b"zz"])
    )
    bench.run()
    assert output.text == text.encode()
    emitted = b""
    tokens_text = b""
    for token, piece in zip(output.tokens, output.pieces, strict=True):
        tokens_text += bench.model.vocab.piece(token)
        emitted += piece
        held = tokens_text[len(emitted) :]
        assert b"abstopy".startswith(held)
        # Nothing longer at the end could begin the stop string.
        assert not any(b"abstopy".startswith(tokens_text[i:]) for i in range(len(emitted))) or not held


def test_unbind_returns_what_was_held_back(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    output = bench.start(
        0, PROMPT, _core.SamplerParams(grammar=spell("xab€")), _core.OutputLimits(stop=[b"xab\xe2\x82\xac!"])
    )
    for _ in range(2):
        bench.step()
    assert output.text == b""
    held = bench.samplers.unbind(0)
    assert held
    assert "xab€".encode().startswith(held)


def test_incomplete_utf8_is_flushed_at_the_end(text_model: TextModel) -> None:
    model = text_model("llama")
    first = next(token for token in range(128) if model.vocab.piece(token) == b"\xe2")
    bench = Bench(model)
    params = _core.SamplerParams(temperature=0.0, logit_bias={first: 100.0})
    output = bench.start(0, PROMPT, params, _core.OutputLimits(max_tokens=3))
    bench.run()
    # A lead byte followed by another lead byte is no prefix of a code point: it is passed on.
    assert output.pieces == [b"", b"\xe2", b"\xe2\xe2"]


def test_stops_wait_for_min_tokens(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    params = _core.SamplerParams(grammar=spell("xxxxxxxx"), seed=1)
    output = bench.start(0, PROMPT, params, _core.OutputLimits(stop=[b"x"], min_tokens=4))
    bench.run()
    assert (output.text, output.finish) == (b"xxx", 2)
