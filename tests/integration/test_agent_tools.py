"""The loop of an agent - system prompt, tools, calls and their results, turn after turn - keeps its prefix cache on
every API: a turn evaluates what is new in it, and nothing of the turns before. Real weights under a template that knows
tools.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.fakes.live import running
from tests.fakes.settings import FakeSettings
from tests.model_store import SMOLLM2, ensure_model

from donabe.client import Client
from donabe.registry.jobs import Puller
from donabe.runner.client import RunnerProcess
from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore

pytestmark = pytest.mark.models

MODEL = "agent"
SLACK = 2  # a token or two where one turn ends and the next begins may be evaluated again
N_TURNS = 3
SYSTEM = "You are a careful agent. Look before you answer, and say which file you took it from. " * 6
SCHEMA = {"type": "object", "properties": {"path": {"type": "string", "description": "Where"}}, "required": ["path"]}
NAMES = ("read_file", "list_folder", "search_text")
# Tools in the system turn, calls and results between tags: the form most models were taught.
TEMPLATE = """<|im_start|>system
{{ .System }}
{{- if .Tools }}

# Tools
{{- range .Tools }}
{{ . }}
{{- end }}
Answer a call as <tool_call>{"name": <name>, "arguments": <object>}</tool_call>
{{- end }}<|im_end|>
{{- range .Messages }}
{{- if eq .Role "user" }}
<|im_start|>user
{{ .Content }}<|im_end|>
{{- else if eq .Role "assistant" }}
<|im_start|>assistant
{{ .Content }}
{{- range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>
{{- end }}<|im_end|>
{{- else if eq .Role "tool" }}
<|im_start|>user
<tool_response>{{ .Content }}</tool_response><|im_end|>
{{- end }}
{{- end }}
<|im_start|>assistant
"""


@dataclass(frozen=True)
class Turn:
    """One call and what came of it."""

    id: str
    name: str
    path: str
    result: str


TURNS = [
    Turn(f"call_{i}", NAMES[i % len(NAMES)], f"src/part_{i}.py", f"{i}: " + f"def part_{i}(): return {i}\n" * 6)
    for i in range(N_TURNS)
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    store = ModelStore(folder / "store")
    pull = Puller(store)
    app = create_app(
        FakeSettings(context_length=4096, num_parallel=4, home=folder),
        Collaborators(
            store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
            pull=pull,
            read_metadata=read_metadata,
            start_runner=RunnerProcess.start,
            creator=ModelCreator(store, pull=pull),
            uploads=Uploads(store),
        ),
    )
    with running(app, timeout_s=60) as url, Client(url) as client:
        files = {"smol.gguf": client.upload(ensure_model(SMOLLM2))}
        client.create(MODEL, files=files, template=TEMPLATE)
        assert "tools" in client.show(MODEL)["capabilities"]
        yield url


# --- the same conversation in the words of each API -------------------------------------------------------------------


def messages_body(session: str, turns: list[Turn]) -> dict[str, Any]:
    tools = [{"name": name, "description": "A tool", "input_schema": SCHEMA} for name in NAMES]
    sent: list[dict[str, Any]] = [{"role": "user", "content": f"{session}: what does the code do?"}]
    for turn in turns:
        call = {"type": "tool_use", "id": turn.id, "name": turn.name, "input": {"path": turn.path}}
        result = {"type": "tool_result", "tool_use_id": turn.id, "content": [{"type": "text", "text": turn.result}]}
        sent += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    sent[-1] = {**sent[-1], "content": _marked(sent[-1]["content"])}
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    ids = {"user_id": f"user_{uuid.uuid4().hex}"}
    return {"max_tokens": 8, "system": system, "tools": tools, "messages": sent, "metadata": ids}


def _marked(content: Any) -> list[dict[str, Any]]:
    """The cache mark moves on to the last block."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else [*content]
    return [*blocks[:-1], {**blocks[-1], "cache_control": {"type": "ephemeral"}}]


def _openai_tools() -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": name, "description": "A tool", "parameters": SCHEMA}}
        for name in NAMES
    ]


def _chat_messages(session: str, turns: list[Turn], arguments: Callable[[Turn], Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{session}: what does the code do?"},
    ]
    for turn in turns:
        call = {"id": turn.id, "type": "function", "function": {"name": turn.name, "arguments": arguments(turn)}}
        sent += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": turn.id, "tool_name": turn.name, "content": turn.result},
        ]
    return sent


def completions_body(session: str, turns: list[Turn]) -> dict[str, Any]:
    sent = _chat_messages(session, turns, lambda turn: json.dumps({"path": turn.path}))
    for message in sent:
        message.pop("tool_name", None)
    return {"max_tokens": 8, "messages": sent, "tools": _openai_tools(), "user": uuid.uuid4().hex}


def responses_body(session: str, turns: list[Turn]) -> dict[str, Any]:
    tools = [{"type": "function", "name": name, "description": "A tool", "parameters": SCHEMA} for name in NAMES]
    items: list[dict[str, Any]] = [{"role": "user", "content": f"{session}: what does the code do?"}]
    for turn in turns:
        arguments = json.dumps({"path": turn.path})
        items.append({"type": "function_call", "call_id": turn.id, "name": turn.name, "arguments": arguments})
        items.append({"type": "function_call_output", "call_id": turn.id, "output": turn.result})
    return {
        "max_output_tokens": 8,
        "instructions": SYSTEM,
        "input": items,
        "tools": tools,
        "store": False,
        "prompt_cache_key": uuid.uuid4().hex,
    }


def native_body(session: str, turns: list[Turn]) -> dict[str, Any]:
    sent = _chat_messages(session, turns, lambda turn: {"path": turn.path})
    return {"stream": False, "options": {"num_predict": 8}, "messages": sent, "tools": _openai_tools()}


def of_messages(reply: dict[str, Any]) -> tuple[int, int]:
    usage = reply["usage"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"]


def of_completions(reply: dict[str, Any]) -> tuple[int, int]:
    usage = reply["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def of_responses(reply: dict[str, Any]) -> tuple[int, int]:
    return reply["usage"]["input_tokens"], reply["usage"]["input_tokens_details"]["cached_tokens"]


def of_native(reply: dict[str, Any]) -> tuple[int, int]:
    return reply["prompt_eval_count"], reply.get("prompt_cached_count", 0)


# route -> (body of a conversation, (prompt tokens, cached tokens) of a reply)
APIS: dict[str, tuple[Callable[[str, list[Turn]], dict[str, Any]], Callable[[dict[str, Any]], tuple[int, int]]]] = {
    "/v1/messages": (messages_body, of_messages),
    "/v1/chat/completions": (completions_body, of_completions),
    "/v1/responses": (responses_body, of_responses),
    "/api/chat": (native_body, of_native),
}


def ask(url: str, path: str, session: str, turns: list[Turn]) -> tuple[int, int]:
    """How many tokens the prompt had, and how many of them were cached."""
    body_of, counts_of = APIS[path]
    response = httpx.post(url + path, json={"model": MODEL, **body_of(session, turns)}, timeout=300)
    assert response.status_code == 200, response.text
    return counts_of(response.json())


@pytest.mark.parametrize("path", APIS)
def test_every_turn_finds_the_turns_before_it(url: str, path: str) -> None:
    session = path.strip("/").replace("/", " ")
    n_before, _ = ask(url, path, session, [])
    assert n_before > 200  # the system prompt and the tools are in it
    for n in range(1, N_TURNS + 1):
        n_prompt, n_cached = ask(url, path, session, TURNS[:n])
        assert n_prompt > n_before + 40  # the result of the call is in it
        assert n_cached >= n_before - SLACK, f"turn {n}: {n_cached} of {n_prompt} cached, {n_before} were known"
        n_before = n_prompt


@pytest.mark.parametrize("path", APIS)
def test_sub_agent_shares_system_prompt_and_tools(url: str, path: str) -> None:
    """Another task under the same instructions begins where the two part."""
    n_first, _ = ask(url, path, f"one {path}", [])
    _, n_cached = ask(url, path, f"another {path}", TURNS[:1])
    assert n_first - 40 <= n_cached < n_first  # all but the user's question


def test_every_api_makes_the_same_prompt(url: str) -> None:
    """So an agent and a tool beside it share their prefix, whichever API each of them speaks."""
    counts = {path: ask(url, path, "shared", TURNS[:2]) for path in APIS}
    assert len({n_prompt for n_prompt, _ in counts.values()}) == 1, counts
    for n_prompt, n_cached in list(counts.values())[1:]:
        assert n_cached >= n_prompt - SLACK, counts
