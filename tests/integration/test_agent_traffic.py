"""What coding agents send keeps its prefix cache: of every further turn only the new messages are evaluated, whatever
else changes from request to request: the attribution line, metadata, cache marks that move on, HTTP headers."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import Any

import httpx
import pytest
from tests.model_store import SMOLLM2
from tests.real_server import RealServer, real_server

pytestmark = pytest.mark.models

EPHEMERAL = {"type": "ephemeral"}
READ = {
    "name": "read_file",
    "description": "Reads a file",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string", "maxLength": 8}},
        "required": ["path"],
    },
}
# A token or two where one turn ends and the next begins may be evaluated again.
SLACK = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with real_server(tmp_path_factory.mktemp("home")) as server:
        yield server


def marked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as an agent sends it: blocks everywhere, the cache mark on the last one."""
    sent = []
    for index, message in enumerate(messages):
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else [dict(block) for block in content]
        if index == len(messages) - 1:
            blocks[-1]["cache_control"] = EPHEMERAL
        sent.append({**message, "content": blocks})
    return sent


def ask(server: RealServer, messages: list[dict[str, Any]], session: str, turn: int, **more: Any) -> dict[str, Any]:
    system = [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.{turn}; cch={uuid.uuid4().hex[:5]};"},
        {"type": "text", "text": f"You are an agent of session {session}.", "cache_control": EPHEMERAL},
        {"type": "text", "text": "Be brief and careful. " * 40, "cache_control": EPHEMERAL},
    ]
    body = {
        "model": SMOLLM2,
        "max_tokens": 24,
        "temperature": 0,
        "system": system,
        "messages": marked(messages),
        "metadata": {"user_id": f"user_{uuid.uuid4().hex}"},
        **more,
    }
    headers = {"x-app": "cli", "x-stainless-retry-count": str(turn), "anthropic-beta": f"prompt-caching-{turn}"}
    response = httpx.post(server.url + "/v1/messages?beta=true", json=body, headers=headers, timeout=300)
    assert response.status_code == 200, response.text
    return response.json()


def total_of(reply: dict[str, Any]) -> int:
    return reply["usage"]["input_tokens"] + reply["usage"]["cache_read_input_tokens"]


def check_only_the_new_was_evaluated(replies: list[dict[str, Any]], *, knows_answers: bool = True) -> None:
    """Of each turn after the first. With `knows_answers`, the answer before it is not evaluated again either."""
    for before, after in pairwise(replies):
        known = total_of(before) + (before["usage"]["output_tokens"] if knows_answers else 0)
        n_new = total_of(after) - known
        assert after["usage"]["input_tokens"] <= n_new + SLACK, (before["usage"], after["usage"])


def test_growing_conversation(server):
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France?"}]
    replies = []
    for turn, question in enumerate(["And of Italy?", "And of Spain?", "Which is the largest?", ""]):
        reply = ask(server, messages, "talk", turn)
        replies.append(reply)
        messages += [{"role": "assistant", "content": reply["content"]}, {"role": "user", "content": question}]
    assert total_of(replies[0]) > 150
    check_only_the_new_was_evaluated(replies)


def test_second_session_shares_what_is_common(server):
    """Another session differs early in its system prompt; the same one again is all in the cache."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ask(server, messages, "again", 0)
    again = ask(server, messages, "again", 1)
    assert again["usage"]["input_tokens"] <= 1 + SLACK


def test_tool_calls_and_results(server):
    """A call comes back as arguments and not as the text the model wrote, so a model that knows no tools reads its own
    call again; all before it stays known."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Read the files."}]
    replies = []
    tools = [{**READ, "cache_control": EPHEMERAL}]
    for turn in range(4):
        reply = ask(server, messages, "tools", turn, tools=tools, tool_choice={"type": "any"}, max_tokens=60)
        assert reply["stop_reason"] == "tool_use", reply
        replies.append(reply)
        [call] = reply["content"]
        result = {
            "type": "tool_result",
            "tool_use_id": call["id"],
            "content": [{"type": "text", "text": f"line {turn}"}],
        }
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    check_only_the_new_was_evaluated(replies, knows_answers=False)
