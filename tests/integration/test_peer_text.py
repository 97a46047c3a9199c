"""Greedy text of donabe beside llama-completion, built from the same vendored source: they must agree word for word.

Both run one sequence in an empty context on as many threads, so the same kernels see the same shapes: with other cells
in the pool sums run in another order, and a quantised model turns such a difference into another word at near ties. The
second prompt is longer than one tile of attention, and prose, because lists that repeat themselves are all near ties.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.model_store import GEMMA3, SMOLLM2, ensure_model

from donabe import LLM

COMPLETION = Path(__file__).parents[2] / "build" / "dev-tools" / "llama-completion"
STORY = (
    "The harbour wakes before the town does. Long before the first shutters open, the boats that went out at "
    "midnight come back under the lighthouse, low in the water, and the men on board call the numbers of "
    "their crates to the clerk who waits on the stones with a lamp and a ledger. By six the fish are sorted "
    "and the ice is broken over them; by seven the carts from the inland villages stand in a row along the "
    "wall, and the price of everything has been settled by people who hardly spoke. My grandmother kept a "
    "stall there for forty years. She sold thread, needles, buttons and lamp oil to the sailors, and in "
    "winter she sold soup. She used to say that a harbour is a kind of clock: if you watch who arrives, who "
    "leaves and who only stands and looks at the sea, you know the hour, the season and most of the news. "
    "When I was seven she let me mind the stall alone for the first time, and on that morning"
)
PROMPTS = ("Once upon a time", STORY)
N_TOKENS = 48

pytestmark = [pytest.mark.models, pytest.mark.peers]


def _peer_text(model: Path, prompt: str, *options: str) -> str:
    assert COMPLETION.exists(), "llama-completion is missing: install with -C cmake.define.DONABE_DEV_TOOLS=ON"
    command = [str(COMPLETION), "-m", str(model), "-p", prompt, "-n", str(N_TOKENS), "--temp", "0", "-no-cnv",
               "--no-display-prompt", "--simple-io", "-c", "4096", *options]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=240, check=True, stdin=subprocess.DEVNULL)
    return done.stdout.decode()


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "long"])
@pytest.mark.parametrize("name", [SMOLLM2, GEMMA3])
def test_greedy_text_is_the_peers(name: str, prompt: str) -> None:
    model = ensure_model(name)
    with LLM(str(model), n_ctx=4096) as llm:
        answer = llm.generate(prompt, max_tokens=N_TOKENS, temperature=0)
    expected = _peer_text(model, prompt)
    assert _without_end(expected) == answer.text.rstrip()
    assert answer.text.strip()


def _without_end(text: str) -> str:
    """The peer marks an end of generation and closes with line breaks of its own."""
    return text.rstrip().removesuffix("[end of text]").rstrip()


GRAMMARS = {
    "list": r"""root ::= ("- " item "\n"){3}
item ::= [A-Z] [a-z ]{2,24}""",
    "object": r"""root ::= "{" ws "\"name\":" ws string "," ws "\"year\":" ws [0-9]{4} "}"
string ::= "\"" [^"\\\n]{1,30} "\""
ws ::= " "?""",
    "choice": r'root ::= " " ("north" | "south" | "east" | "west" | "nowhere at all") "."',
}


@pytest.mark.parametrize("name", list(GRAMMARS))
def test_greedy_text_under_a_grammar_is_the_peers(name: str) -> None:
    model = ensure_model(SMOLLM2)
    with LLM(str(model), n_ctx=4096) as llm:
        answer = llm.generate(PROMPTS[0], max_tokens=N_TOKENS, temperature=0, grammar=GRAMMARS[name])
    assert _without_end(_peer_text(model, PROMPTS[0], "--grammar", GRAMMARS[name])) == answer.text.rstrip()
    assert answer.text.strip()
