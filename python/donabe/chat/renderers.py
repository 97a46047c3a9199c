"""Three ways to turn a conversation into a prompt, behind one Protocol: the native Jinja engine, a stored model's Go
template, and plain joining for models that have no template at all. Safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from donabe.chat import inputs
from donabe.chat.output import NativeOutput, OutputParser, PlainOutput, TemplateOutput
from donabe.chat.thinking_grammar import after_thinking
from donabe.errors import CapabilityError, InvalidArgumentError, InvalidRequestError
from donabe.types import ChatRequest, Message, Tool

if TYPE_CHECKING:
    from donabe._core import ChatParser, ChatPrompt, ChatTemplates, Int32Array, Vocab
    from donabe.template import GoTemplate

MakeParser = Callable[["ChatPrompt"], "ChatParser"]
FindBoundaries = Callable[["Int32Array"], "tuple[int, ...]"]


def _no_boundaries(_tokens: Int32Array) -> tuple[int, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A prompt, what constrains its answer, and how to read that answer.

    Attributes:
        sampler_params: Grammar arguments of `SamplerParams`.
        make_output: A fresh parser for one completion.
        find_boundaries: Token positions at which messages begin.
    """

    prompt: str
    sampler_params: dict[str, Any] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    make_output: Callable[[], OutputParser] = PlainOutput
    find_boundaries: FindBoundaries = _no_boundaries


class Renderer(Protocol):
    def render(self, request: ChatRequest, messages: Sequence[Message]) -> Rendered: ...


@dataclass(frozen=True)
class JinjaRenderer:
    """The native engine: it also writes the grammar of tool calls and the parser of the answer."""

    templates: ChatTemplates
    vocab: Vocab
    make_parser: MakeParser
    make_grammar: inputs.MakeGrammar
    capabilities: frozenset[str] = frozenset()  # what the stored model declares beyond what the template shows

    def render(self, request: ChatRequest, messages: Sequence[Message]) -> Rendered:
        if request.tools and request.tool_choice.mode != "none":
            self._require_tools()
        inputs.grammar_params(request.constraint, self.make_grammar)  # says what is wrong with a schema, apply does not
        enable_thinking = request.think is not False
        try:
            chat = self.templates.apply(inputs.template_inputs(request, messages, enable_thinking=enable_thinking))
        except InvalidArgumentError as error:
            raise InvalidRequestError(error.message, field="messages", hint=error.hint) from error
        if request.think:
            self._require_thinking(chat)
        return Rendered(
            prompt=chat.prompt,
            sampler_params=self._sampler_params(chat),
            stops=tuple(chat.stops),
            make_output=lambda: NativeOutput(self.make_parser(chat)),
            find_boundaries=lambda tokens: tuple(chat.message_starts(self.vocab, tokens).tolist()),
        )

    def _require_tools(self) -> None:
        caps = self.templates.caps
        if not ({"tools"} & self.capabilities or caps.get("supports_tools") or caps.get("supports_tool_calls")):
            raise CapabilityError("this model does not support tools", capability="tools", hint="leave out `tools`")

    def _require_thinking(self, chat: ChatPrompt) -> None:
        if not ({"thinking"} & self.capabilities or self.templates.supports_thinking or chat.supports_thinking):
            raise _no_thinking()

    def _sampler_params(self, chat: ChatPrompt) -> dict[str, Any]:
        preserved = [self.vocab.tokenize(text, add_special=False, parse_special=True) for text in chat.preserved_tokens]
        params: dict[str, Any] = {"preserved_tokens": [int(tokens[0]) for tokens in preserved if len(tokens) == 1]}
        if chat.grammar:
            params |= {
                "grammar": chat.grammar,
                "grammar_lazy": chat.grammar_lazy,
                "grammar_triggers": chat.grammar_triggers,
                "grammar_prefill": chat.grammar_prefill,
            }
            if chat.supports_thinking and chat.thinking_start:
                params |= {"thinking_start": chat.thinking_start, "thinking_ends": chat.thinking_ends}
        return params


@dataclass(frozen=True)
class GoRenderer:
    """A Go template, as stored models carry them. Tool calls and thinking are found by the template's own tags."""

    template: GoTemplate
    vocab: Vocab
    make_grammar: inputs.MakeGrammar

    def render(self, request: ChatRequest, messages: Sequence[Message]) -> Rendered:
        from donabe.template import ThinkingParser, ToolParser, render_chat

        refuse_images(messages)
        tools, _ = inputs.offered_tools(request.tools, request.tool_choice)
        if request.tool_choice.mode == "none":
            tools = ()
        self._check(request, tools)
        prompt = render_chat(self.template, messages, tools=tools, think=request.think)
        tags = self.template.thinking_tags()
        tag = self.template.tool_tag()
        thinks = tags is not None and request.think is not False

        def make_output() -> OutputParser:
            return TemplateOutput(
                ThinkingParser.for_prompt(*tags, prompt) if tags is not None and thinks else None,
                ToolParser(tools, tag) if tools else None,
            )

        params: dict[str, Any] = {"preserved_tokens": self._preserved(tag)} if tools else {}
        grammar = inputs.grammar_params(request.constraint, self.make_grammar)
        if grammar and tags is not None and thinks:
            started = ThinkingParser.for_prompt(*tags, prompt).is_started
            grammar["grammar"] = after_thinking(grammar["grammar"], *tags, started=started)
        params |= grammar
        return Rendered(prompt=prompt, sampler_params=params, make_output=make_output)

    def _check(self, request: ChatRequest, tools: Sequence[Tool]) -> None:
        capabilities = self.template.capabilities()
        if tools and "tools" not in capabilities:
            raise CapabilityError("this model does not support tools", capability="tools", hint="leave out `tools`")
        if request.tool_choice.mode == "required" or request.tool_choice.name:
            raise CapabilityError(
                "this model's template can't force a tool call", capability="tools", hint="use tool_choice `auto`"
            )
        if request.think and "thinking" not in capabilities:
            raise _no_thinking()

    def _preserved(self, tag: str) -> list[int]:
        """The special token a tool tag begins with (`[TOOL_CALLS]`, `<tool_call>`), so that it stays in the text."""
        close = {"[": "]", "<": ">"}.get(tag[:1])
        end = tag.find(close) if close else -1
        if end < 0:
            return []
        tokens = self.vocab.tokenize(tag[: end + 1], add_special=False, parse_special=True)
        return [int(tokens[0])] if len(tokens) == 1 else []


@dataclass(frozen=True)
class PlainRenderer:
    """No template: message contents joined by blank lines, as a base model would continue them."""

    make_grammar: inputs.MakeGrammar

    def render(self, request: ChatRequest, messages: Sequence[Message]) -> Rendered:
        refuse_images(messages)
        if request.tools and request.tool_choice.mode != "none":
            raise CapabilityError("this model does not support tools", capability="tools", hint="leave out `tools`")
        if request.think:
            raise _no_thinking()
        params = inputs.grammar_params(request.constraint, self.make_grammar)
        return Rendered(prompt=inputs.plain_prompt(messages), sampler_params=params)


def refuse_images(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        if message.images:
            inputs.openai_message(message, index)  # raises, with the one text for all renderers


def _no_thinking() -> CapabilityError:
    return CapabilityError("this model does not support thinking", capability="thinking", hint="leave out `think`")
