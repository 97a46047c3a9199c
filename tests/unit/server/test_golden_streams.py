"""Transcripts of every form of stream, byte for byte: each dialect with text, thinking, calls, a limit and a failure.

The files are in tests/golden/streams, with ids and times replaced. DONABE_WRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.types import Delta, Failed, Finished, FinishReason, TokenLogprob, ToolCall, Usage

GOLDEN = Path(__file__).parents[2] / "golden" / "streams"

USAGE = Usage(
    n_prompt_tokens=11, n_cached_tokens=4, n_output_tokens=3, n_thinking_tokens=1, prompt_s=0.0125, output_s=0.03025
)
END = Finished(reason=FinishReason.STOP, usage=USAGE, context=(1, 2))
ALTERNATIVE = TokenLogprob(token="Ho", token_id=6, logprob=-1.25)
LOGPROBS = (TokenLogprob(token="Hé", token_id=5, logprob=-0.5, bytes_="Hé".encode(), top=(ALTERNATIVE,)),)
CALLS = (
    ToolCall(name="add", arguments='{"a":1,"b":"é"}', id="call_one"),
    ToolCall(name="now", arguments="{}", id="call_two", index=1),
)

SCRIPTS = {
    "text": [Delta(text="Hé", logprobs=LOGPROBS), Delta(), Delta(text='l"lo\n'), END],
    "thinking": [Delta(thinking="hm "), Delta(thinking="yes"), Delta(text="Hi"), END],
    "tools": [Delta(text="Sure."), Delta(tool_calls=CALLS[:1]), Delta(tool_calls=CALLS[1:]), END],
    "everything": [Delta(thinking="hm"), Delta(text="a"), Delta(thinking="b", text="c"), Delta(tool_calls=CALLS), END],
    "length": [Delta(text="H"), Finished(reason=FinishReason.LENGTH, usage=USAGE)],
    "nothing": [END],
    "error": [Delta(text="Hi"), Failed(kind="RunnerDiedError", message="the model's process ended (signal 9)")],
    "error_at_once": [Failed(kind="RunnerDiedError", message="the model's process ended (signal 9)")],
    "no_end": [Delta(text="Hi")],
}
HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "now")]
FLAT_TOOLS = [{"type": "function", "name": name, "parameters": SCHEMA} for name in ("add", "now")]
ANTHROPIC_TOOLS = [{"name": name, "input_schema": SCHEMA} for name in ("add", "now")]
ALL = tuple(SCRIPTS)
FORMS = {
    "generate": ("/api/generate", {"prompt": "hi", "logprobs": True}, ALL),
    "chat": ("/api/chat", {"messages": HI, "tools": TOOLS}, ALL),
    "chat_completions": ("/v1/chat/completions", {"messages": HI, "stream": True, "tools": TOOLS}, ALL),
    "chat_completions_usage": (
        "/v1/chat/completions",
        {"messages": HI, "stream": True, "logprobs": True, "stream_options": {"include_usage": True}},
        ("text", "length"),
    ),
    "completions": (
        "/v1/completions",
        {"prompt": "hi", "stream": True, "logprobs": 1, "stream_options": {"include_usage": True}},
        ("text", "thinking", "length", "nothing", "error", "error_at_once", "no_end"),
    ),
    "responses": ("/v1/responses", {"input": "hi", "stream": True, "tools": FLAT_TOOLS, "top_logprobs": 1}, ALL),
    "messages": (
        "/v1/messages",
        {"messages": HI, "max_tokens": 9, "stream": True, "tools": ANTHROPIC_TOOLS},
        ALL,
    ),
    "infill": ("/infill", {"model": "S", "input_prefix": "hi", "stream": True}, ("text", "length", "error")),
}

CHANGING = (
    (r'"(chatcmpl|cmpl|resp|msg|rs|fc|call|toolu|req)[-_][0-9a-f]{8,}"', r'"\1_ID"'),
    (r'"(id|request_id)":"[0-9a-f-]{16,}"', r'"\1":"ID"'),
    (r'"created_at":"[^"]*Z"', '"created_at":"TIME"'),
    (r'"(created|created_at|completed_at|total_duration|load_duration|queue_duration)":\d+', r'"\1":TIME'),
)


def normalised(text: str) -> str:
    for pattern, replacement in CHANGING:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize(("form", "case"), [(form, case) for form, (_, _, cases) in FORMS.items() for case in cases])
async def test_stream_is_as_recorded(tmp_path, form, case):
    path, body, _ = FORMS[form]
    server = make_server(script=lambda _: SCRIPTS[case], settings=FakeSettings(home=tmp_path))
    headers = {"x-request-id": "req_golden"}
    response = await server.post(path, {"model": "T", **body}, headers=headers)
    head = f"{response.status_code} {response.headers['content-type']}\n"
    found = normalised(head + response.content.decode())
    file = GOLDEN / f"{form}-{case}.txt"
    if os.environ.get("DONABE_WRITE_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found, encoding="utf-8", newline="")
    assert found.encode() == file.read_bytes()


def test_every_transcript_is_used():
    names = {f"{form}-{case}.txt" for form, (_, _, cases) in FORMS.items() for case in cases}
    assert {file.name for file in GOLDEN.iterdir()} == names
