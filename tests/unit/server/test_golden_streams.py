"""Transcripts of every form of stream, byte for byte: each dialect with text, thinking, calls, a limit and a failure;
several choices; pull, push and create.

The files are in tests/golden/streams, with ids and times replaced. DONABE_WRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.registry_gguf import tiny_model, u32
from tests.fakes.runner import RunnerFactory
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings
from tests.fakes.store import FakePull

from donabe.convert.quantize import QuantizeJob
from donabe.errors import ModelNotFoundError, SourceError, StoreError
from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore
from donabe.types import Delta, Failed, Finished, FinishReason, PullProgress, TokenLogprob, ToolCall, Usage

Quantize = Callable[[QuantizeJob], AsyncGenerator[tuple[int, int], None]]

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
    "choices": [
        Delta(text="A"),
        Delta(text="B", index=1),
        Delta(text="a"),
        Finished(reason=FinishReason.STOP, usage=USAGE, last=False),
        Finished(reason=FinishReason.LENGTH, usage=USAGE, index=1),
    ],
    "choices_error": [
        Delta(text="A"),
        Finished(reason=FinishReason.STOP, usage=USAGE, last=False),
        Failed(kind="RunnerDiedError", message="the model's process ended (signal 9)"),
    ],
    "choices_tools": [
        Delta(tool_calls=CALLS[:1]),
        Delta(text="No.", index=1),
        Finished(reason=FinishReason.STOP, usage=USAGE, last=False),
        Finished(reason=FinishReason.STOP, usage=USAGE, index=1),
    ],
    "structured": [Delta(text='{"city":'), Delta(text=' "Kyōto"}'), END],
}
HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "now")]
FLAT_TOOLS = [{"type": "function", "name": name, "parameters": SCHEMA} for name in ("add", "now")]
ANTHROPIC_TOOLS = [{"name": name, "input_schema": SCHEMA} for name in ("add", "now")]
ALL = ("text", "thinking", "tools", "everything", "length", "nothing", "error", "error_at_once", "no_end")
TWO = {"stream": True, "n": 2, "stream_options": {"include_usage": True}}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
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
        tuple(case for case in ALL if case not in ("tools", "everything")),  # nothing can be called here
    ),
    "chat_completions_n": (
        "/v1/chat/completions",
        {"messages": HI, "tools": TOOLS, **TWO},
        ("choices", "choices_error", "choices_tools"),
    ),
    "completions_n": ("/v1/completions", {"prompt": "hi", **TWO}, ("choices", "choices_error")),
    "chat_structured": ("/api/chat", {"messages": HI, "format": CITY}, ("structured",)),
    "chat_completions_structured": (
        "/v1/chat/completions",
        {
            "messages": HI,
            "stream": True,
            "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
        },
        ("structured",),
    ),
    "responses_structured": (
        "/v1/responses",
        {
            "input": "hi",
            "stream": True,
            "text": {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}},
        },
        ("structured", "thinking", "length", "error"),
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


class Transfers:
    """An app that pulls, pushes and creates in a store of its own."""

    def __init__(self, home: Path, quantize: Quantize) -> None:
        self.pull, store = FakePull(), ModelStore(home / "store")
        app = create_app(
            FakeSettings(home=home),
            Collaborators(
                store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
                pull=self.pull,
                read_metadata=read_metadata,
                start_runner=RunnerFactory(),
                creator=ModelCreator(store, pull=self.pull, quantize=quantize),
                uploads=Uploads(store),
                push=_push,
            ),
        )
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434")

    async def upload(self) -> dict[str, str]:
        """The `files` of a create, as it wants them."""
        digest = "sha256:" + hashlib.sha256(MODEL).hexdigest()
        assert (await self.client.post(f"/api/blobs/{digest}", content=MODEL)).status_code == 201
        return {"model.gguf": digest}


MODEL = tiny_model().encode()


async def _quantize(job: QuantizeJob) -> AsyncGenerator[tuple[int, int], None]:
    yield 1, 2
    tiny_model(general__file_type=u32(15)).write(job.target)
    yield 2, 2


async def _fail_to_quantize(job: QuantizeJob) -> AsyncGenerator[tuple[int, int], None]:
    yield 1, 2
    raise StoreError("no space is left for the model")


async def _push(name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
    yield PullProgress(status="retrieving manifest")
    if name == "missing":
        raise ModelNotFoundError("model 'missing' not found", name=name)
    yield PullProgress(status="pushing 17171717", digest="sha256:" + "17" * 32, total=2, completed=1)
    if name == "broken":
        raise SourceError("the registry closed the connection")
    yield PullProgress(status="success")


TRANSFERS: dict[str, dict[str, dict[str, Any]]] = {
    "pull": {"success": {"model": "tiny"}, "error": {"model": "unknown"}, "error_at_once": {"model": "a/b/c/d/e"}},
    "push": {"success": {"model": "me/tiny"}, "error": {"model": "broken"}, "error_at_once": {"model": " "}},
    "create": {
        "success": {"model": "mine", "template": "{{ .Prompt }}", "parameters": {"stop": ["x"]}},
        "quantize": {"model": "mine", "quantize": "q4_K_M"},
        "error": {"model": "mine", "quantize": "q4_K_M"},
        "error_at_once": {"model": "a/b/c/d/e"},
    },
}


@pytest.mark.parametrize(("form", "case"), [(form, case) for form, cases in TRANSFERS.items() for case in cases])
async def test_progress_is_as_recorded(tmp_path, form, case):
    server = Transfers(tmp_path, _fail_to_quantize if case == "error" else _quantize)
    body = TRANSFERS[form][case]
    if form == "create":
        body = {**body, "files": await server.upload()}
    check(form, case, await server.client.post(f"/api/{form}", json=body))


@pytest.mark.parametrize(("form", "case"), [(form, case) for form, (_, _, cases) in FORMS.items() for case in cases])
async def test_stream_is_as_recorded(tmp_path, form, case):
    path, body, _ = FORMS[form]
    server = make_server(script=lambda _: SCRIPTS[case], settings=FakeSettings(home=tmp_path))
    headers = {"x-request-id": "req_golden"}
    check(form, case, await server.post(path, {"model": "T", **body}, headers=headers))


def check(form: str, case: str, response: httpx.Response) -> None:
    head = f"{response.status_code} {response.headers['content-type']}\n"
    found = normalised(head + response.content.decode())
    file = GOLDEN / f"{form}-{case}.txt"
    if os.environ.get("DONABE_WRITE_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found, encoding="utf-8", newline="")
    assert found.encode() == file.read_bytes()


def test_every_transcript_is_used():
    names = {f"{form}-{case}.txt" for form, (_, _, cases) in FORMS.items() for case in cases}
    names |= {f"{form}-{case}.txt" for form, cases in TRANSFERS.items() for case in cases}
    assert {file.name for file in GOLDEN.iterdir()} == names
