"""What the runner is asked for a call: the model's stored system prompt and messages come in, options have been merged.

Pure functions of the call, the prepared model and what the runner says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from donabe.errors import InvalidRequestError
from donabe.service.calls import ChatCall, GenerateCall, OutputCall, Think
from donabe.service.parameters import Options
from donabe.types import ChatRequest, GenerateRequest, LoadOptions, Message, ModelInfo, ModelSpec, OutputOptions

# A context-shifting generation never ends by itself; the reference system bounds it the same way.
MAX_SHIFTED_CONTEXTS = 10
# Pieces of an answer that is sent whole: nobody waits for them, but its tokens count while they are made.
COUNTING_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Prepared:
    """A call with its model resolved and its options merged."""

    spec: ModelSpec
    options: Options
    load: LoadOptions
    started_at: float
    warnings: tuple[str, ...]
    stream_interval_s: float = 0.0  # of streamed answers


def _think(call: OutputCall, spec: ModelSpec) -> Think:
    """What the template is told: thinking is on by default where the model can."""
    if "thinking" not in spec.capabilities:
        return None if call.think is None or call.ignore_unsupported_thinking else call.think
    return True if call.think is None else call.think


def _output_options(call: OutputCall, prepared: Prepared, info: ModelInfo, *, return_context: bool) -> OutputOptions:
    spec, output = prepared.spec, prepared.options.output
    shift = call.context_shift
    if shift is None:
        shift = spec.details.family != "deepseek2"
    max_tokens = output.max_tokens
    if shift:
        bound = MAX_SHIFTED_CONTEXTS * max(1, info.n_ctx_per_request)
        max_tokens = bound if max_tokens is None else min(max_tokens, bound)
    return msgspec.structs.replace(
        output,
        max_tokens=max_tokens,
        context_shift=shift,
        logprobs=call.logprobs,
        top_logprobs=call.top_logprobs if call.logprobs else 0,
        return_context=return_context,
        stream_interval_s=prepared.stream_interval_s if call.is_streamed else COUNTING_INTERVAL_S,
    )


def generate_request(
    call: GenerateCall, prepared: Prepared, info: ModelInfo, prompt: str | tuple[int, ...]
) -> GenerateRequest:
    """A prompt as it is: raw, with a suffix, or of tokens."""
    return GenerateRequest(
        prompt=prompt,
        suffix=call.suffix,
        sampling=prepared.options.sampling,
        output=_output_options(call, prepared, info, return_context=not call.raw),
        constraint=call.constraint,
        scheduling=call.scheduling,
        truncate=call.truncate and call.context_shift is not False,
        n_keep=prepared.options.n_keep,
        echo=call.echo,
        n=call.n,
        best_of=call.best_of,
    )


def prompt_as_chat(call: GenerateCall, prepared: Prepared, info: ModelInfo) -> ChatRequest:
    """A templated prompt is a conversation: system, the model's stored messages, then the prompt as the user's turn."""
    if not isinstance(call.prompt, str):
        raise InvalidRequestError("a prompt of token ids needs raw", field="prompt")
    spec = prepared.spec
    system = spec.system if call.system is None else call.system
    messages = [Message(role="system", content=system)] if system else []
    if not call.context:
        messages += spec.messages
    messages.append(Message(role="user", content=call.prompt, images=call.images))
    return ChatRequest(
        messages=tuple(messages),
        think=_think(call, spec),
        sampling=prepared.options.sampling,
        output=_output_options(call, prepared, info, return_context=True),
        constraint=call.constraint,
        scheduling=call.scheduling,
        template=call.template,
        truncate=call.truncate and call.context_shift is not False,
        n_keep=prepared.options.n_keep,
        n=call.n,
        best_of=call.best_of,
    )


def chat_request(call: ChatCall, prepared: Prepared, info: ModelInfo) -> ChatRequest:
    """A conversation: the model's system prompt and messages in front, unless the call brings its own system."""
    spec = prepared.spec
    messages = (*spec.messages, *call.messages)
    if spec.system and not (call.messages and call.messages[0].role == "system"):
        messages = (Message(role="system", content=spec.system), *messages)
    has_tools = call.tool_choice.mode != "none"
    return ChatRequest(
        messages=messages,
        tools=call.tools if has_tools else (),
        tool_choice=call.tool_choice,
        think=_think(call, spec),
        sampling=prepared.options.sampling,
        output=_output_options(call, prepared, info, return_context=False),
        constraint=call.constraint,
        scheduling=call.scheduling,
        template_kwargs=dict(call.template_kwargs),
        continue_final_message=call.continue_final_message,
        truncate=call.truncate,
        n_keep=prepared.options.n_keep,
        n=call.n,
        best_of=call.best_of,
    )
