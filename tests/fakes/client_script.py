"""What the scripted runners say to client libraries: text, JSON when a schema asks, calls when there are tools."""

from __future__ import annotations

import msgspec
from tests.fakes.runner import Request

from donabe.types import Delta, Event, Finished, FinishReason, TokenLogprob, ToolCall, Usage

USAGE = Usage(n_prompt_tokens=11, n_output_tokens=3, prompt_s=0.01, output_s=0.02)
_ENTRY = TokenLogprob(token="Par", token_id=1, logprob=-0.1, top=(TokenLogprob(token="Par", token_id=1, logprob=-0.1),))


def script(request: Request) -> list[Event]:
    events: list[Event] = []
    if getattr(request, "think", None):
        events.append(Delta(thinking="hmm"))
    if getattr(request, "tools", ()):
        events.append(Delta(tool_calls=(ToolCall(name="add", arguments='{"a":1}', id="call_1"),)))
    elif request.constraint.json_schema is not None:
        events.append(Delta(text=_instance(request.constraint.json_schema)))
    else:
        events += [
            Delta(text=text, logprobs=(_ENTRY,) if request.output.logprobs else (), index=index)
            for text in ("Par", "is.")
            for index in range(request.n)
        ]
    last = request.n - 1
    events += [
        Finished(reason=FinishReason.STOP, usage=USAGE, index=index, last=index == last) for index in range(request.n)
    ]
    return events


def _instance(schema: dict) -> str:
    """A value that fits the schemas the checks use."""
    if "name" in schema["properties"] and "const" in schema["properties"]["name"]:
        return msgspec.json.encode({"name": schema["properties"]["name"]["const"], "arguments": {"a": 1}}).decode()
    return '{"a": 1}'
