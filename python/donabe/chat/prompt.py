"""Requests to engine input: renders, tokenises, fits the context, checks options. Runs in the intake threads.

One `PromptBuilder` belongs to a loaded model and is safe to use from several threads. Nothing is cut silently: what was
dropped is counted in the result, and without `truncate` a prompt that does not fit is a ContextLengthError.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.chat import fitting, inputs, sampling
from donabe.chat.output import OutputParser, PlainOutput
from donabe.chat.renderers import GoRenderer, JinjaRenderer, MakeParser, PlainRenderer, Rendered, Renderer
from donabe.errors import CapabilityError, ContextLengthError, InvalidRequestError
from donabe.types import (
    ChatRequest,
    GenerateRequest,
    Message,
    ModelSpec,
    RenderedPrompt,
)

if TYPE_CHECKING:
    from donabe._core import ChatTemplates, Int32Array, Model, Vocab


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedPrompt:
    """Everything the engine and the output side need for one request.

    Attributes:
        tokens: int32 (n,), n >= 1.
        sampler_params: Keyword arguments of `SamplerParams`.
        stops: UTF-8, the request's and the template's.
        echo: Text to send before the output.
        n_kept: So many of the n completions are sent, the likeliest ones.
    """

    tokens: Int32Array
    sampler_params: dict[str, Any]
    stops: tuple[bytes, ...]
    max_tokens: int | None
    n: int
    boundaries: tuple[int, ...] = ()
    make_output: Callable[[], OutputParser] = PlainOutput
    echo: str = ""
    n_kept: int | None = None
    n_truncated_tokens: int = 0
    n_dropped_messages: int = 0


class PromptBuilder:
    """Prompts for one loaded model.

    Args:
        load_templates: Makes `ChatTemplates` of a Jinja source, or of the model's own with None.
        make_parser: `ChatParser` for a rendered prompt.
        make_grammar: GBNF of a JSON Schema given as text.
        n_ctx: Tokens one request may hold, prompt and output together.
    """

    def __init__(
        self,
        model: Model,
        spec: ModelSpec,
        *,
        load_templates: Callable[[str | None], ChatTemplates],
        make_parser: MakeParser,
        make_grammar: inputs.MakeGrammar,
        n_ctx: int,
    ) -> None:
        self._model = model
        self._vocab: Vocab = model.vocab
        self._spec = spec
        self._load_templates = load_templates
        self._make_parser = make_parser
        self._make_grammar = make_grammar
        self._n_ctx = n_ctx
        self._lock = threading.Lock()
        self._renderer: Renderer | None = None

    # --- requests ----------------------------------------------------------------------------------------------------

    def chat(self, request: ChatRequest) -> PreparedPrompt:
        rendered, tokens, n_dropped = self._render_fitting(request)
        limit = fitting.prompt_limit(self._n_ctx)
        n_truncated = 0
        if len(tokens) > limit:
            self._check_length(tokens, may_cut=request.truncate)
            tokens, n_truncated = self._cut(tokens, request.n_keep)
        prepared = self._prepare(tokens, rendered.sampler_params, request)
        return replace(
            prepared,
            stops=sampling.stop_bytes(request.output, rendered.stops),
            boundaries=() if n_truncated else rendered.find_boundaries(tokens),
            make_output=rendered.make_output,
            n_truncated_tokens=n_truncated,
            n_dropped_messages=n_dropped,
        )

    def generate(self, request: GenerateRequest) -> PreparedPrompt:
        tokens = self._generate_tokens(request)
        n_truncated = 0
        if len(tokens) > fitting.prompt_limit(self._n_ctx):
            self._check_length(tokens, may_cut=request.truncate)
            tokens, n_truncated = self._cut(tokens, request.n_keep)
        grammar = inputs.grammar_params(request.constraint, self._make_grammar)
        prepared = self._prepare(tokens, grammar, request)
        return replace(prepared, echo=self._echo(request), n_truncated_tokens=n_truncated)

    def render(self, request: ChatRequest) -> RenderedPrompt:
        rendered, tokens, _ = self._render_fitting(request)
        return RenderedPrompt(prompt=rendered.prompt, tokens=tuple(tokens.tolist()))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens: list[int] = self._tokens_of(text, add_special=add_special, parse_special=parse_special).tolist()
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        array = self._checked_tokens(tokens, "tokens")
        return self._vocab.detokenize(array, unparse_special=True).decode("utf-8", "replace")

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, those of a control token its name."""
        return [self._vocab.piece(token, special=True) for token in self._checked_tokens(tokens, "tokens").tolist()]

    # --- chat --------------------------------------------------------------------------------------------------------

    def _render_fitting(self, request: ChatRequest) -> tuple[Rendered, Int32Array, int]:
        """The rendered conversation, its tokens, and how many messages were dropped to make it fit."""
        if not request.messages:
            raise InvalidRequestError("messages is empty", field="messages", hint="send at least one message")
        messages = request.messages
        renderer = self._renderer_for(request)

        def attempt(candidate: Sequence[Message]) -> tuple[Rendered, Int32Array]:
            rendered = renderer.render(request, candidate)
            return rendered, self._prompt_tokens(rendered.prompt)

        rendered, tokens = attempt(messages)
        limit = fitting.prompt_limit(self._n_ctx)
        if len(tokens) <= limit or not request.truncate:
            return rendered, tokens, 0
        return fitting.drop_oldest(messages, attempt, limit)

    def _renderer_for(self, request: ChatRequest) -> Renderer:
        if request.template is not None:
            return self._go_renderer(request.template)
        with self._lock:
            if self._renderer is None:
                self._renderer = self._make_renderer()
            return self._renderer

    def _make_renderer(self) -> Renderer:
        spec = self._spec
        jinja = spec.chat_template if spec.chat_template is not None else self._model.chat_template()
        if spec.template is not None and not self._prefers_jinja(jinja, spec.template):
            return self._go_renderer(spec.template)
        if jinja is None:
            return PlainRenderer(self._make_grammar)
        templates = self._load_templates(spec.chat_template)
        return JinjaRenderer(
            templates, self._vocab, self._make_parser, self._make_grammar, frozenset(spec.capabilities)
        )

    def _prefers_jinja(self, jinja: str | None, template: str) -> bool:
        """A stored model may carry both. One with a named renderer has a Go template that is only a placeholder."""
        from donabe.template import parse_template, prefers_chat_template

        if jinja is None or self._spec.chat_template is not None:
            return jinja is not None
        return bool(self._spec.renderer) or prefers_chat_template(jinja, parse_template(template))

    def _go_renderer(self, source: str) -> Renderer:
        from donabe.template import parse_template

        return GoRenderer(parse_template(source), self._vocab, self._make_grammar)

    # --- generate ----------------------------------------------------------------------------------------------------

    def _generate_tokens(self, request: GenerateRequest) -> Int32Array:
        if request.suffix:
            return self._infill_tokens(request)
        if not isinstance(request.prompt, str):
            tokens = self._checked_tokens(request.prompt, "prompt")
        else:
            tokens = self._prompt_tokens(request.prompt, add_special=request.add_special)
        if len(tokens):
            return tokens
        if self._vocab.bos < 0:
            raise InvalidRequestError("prompt is empty", field="prompt", hint="this model needs a prompt to begin with")
        return np.array([self._vocab.bos], np.int32)

    def _infill_tokens(self, request: GenerateRequest) -> Int32Array:
        """`<pre> prompt <suf> suffix <mid>`, by the stored template or the vocabulary's fill-in-the-middle tokens."""
        if not isinstance(request.prompt, str):
            raise InvalidRequestError("suffix needs a prompt of text, not tokens", field="suffix")
        if self._spec.template is not None:
            from donabe.template import parse_template, render_generate

            template = parse_template(self._spec.template)
            if "insert" in template.capabilities():
                return self._prompt_tokens(render_generate(template, request.prompt, suffix=request.suffix))
        vocab = self._vocab
        if min(vocab.fim_pre, vocab.fim_suf, vocab.fim_mid) < 0:
            raise CapabilityError("this model does not support insert", capability="insert", hint="leave out `suffix`")
        bos = [vocab.bos] if vocab.adds_bos and request.add_special and vocab.bos >= 0 else []
        before = self._tokens_of(request.prompt, add_special=False, parse_special=False)
        after = self._tokens_of(request.suffix, add_special=False, parse_special=False)
        parts = [*bos, vocab.fim_pre], before, [vocab.fim_suf], after, [vocab.fim_mid]
        return np.concatenate([np.asarray(part, np.int32) for part in parts])

    def _echo(self, request: GenerateRequest) -> str:
        if not request.echo:
            return ""
        return request.prompt if isinstance(request.prompt, str) else self.detokenize(request.prompt)

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _prompt_tokens(self, prompt: str, *, add_special: bool = True) -> Int32Array:
        """Tokens of prompt text, with control tokens read as such and never two BOS in a row."""
        tokens = self._tokens_of(prompt, add_special=add_special, parse_special=True)
        bos = self._vocab.bos
        if add_special and self._vocab.adds_bos and len(tokens) > 1 and tokens[0] == tokens[1] == bos:
            return tokens[1:]  # the template printed BOS and the tokenizer added one
        return tokens

    def _tokens_of(self, text: str, *, add_special: bool, parse_special: bool) -> Int32Array:
        data = text.encode("utf-8", "replace")  # lone surrogates can reach us through JSON escapes
        return self._vocab.tokenize(data, add_special=add_special, parse_special=parse_special)

    def _checked_tokens(self, tokens: Sequence[int], field: str) -> Int32Array:
        n_vocab = self._vocab.n_tokens
        for token in tokens:
            if not 0 <= token < n_vocab:
                raise InvalidRequestError(
                    f"{field} has token {token}, but the model has tokens 0 to {n_vocab - 1}", field=field
                )
        return np.array(tokens, np.int32)

    # --- limits ------------------------------------------------------------------------------------------------------

    def _check_length(self, tokens: Int32Array, *, may_cut: bool) -> None:
        if not may_cut:
            raise ContextLengthError(
                f"the prompt has {len(tokens)} tokens, more than the context of {self._n_ctx} can hold",
                n_prompt_tokens=len(tokens),
                n_ctx=self._n_ctx,
                hint="shorten the prompt, load the model with a larger context, or allow truncation",
            )

    def _cut(self, tokens: Int32Array, n_keep: int) -> tuple[Int32Array, int]:
        ranges = fitting.cut_ranges(
            len(tokens), self._n_ctx, n_keep + (1 if self._vocab.adds_bos and n_keep >= 0 else 0)
        )
        kept = np.concatenate([tokens[start:end] for start, end in ranges])
        return kept, len(tokens) - len(kept)

    def _prepare(
        self, tokens: Int32Array, grammar: dict[str, Any], request: ChatRequest | GenerateRequest
    ) -> PreparedPrompt:
        output = request.output
        arguments = sampling.sampler_arguments(request.sampling, output, n_vocab=self._vocab.n_tokens)
        n, n_kept = sampling.completion_count(request.n), None
        if request.best_of:
            n, n_kept = sampling.best_of_count(request.best_of, n), n
            arguments.setdefault("n_logprobs", 0)  # what they are judged by
        return PreparedPrompt(
            tokens=tokens,
            sampler_params=arguments | grammar,
            stops=sampling.stop_bytes(output),
            max_tokens=sampling.output_limit(output),
            n=n,
            n_kept=n_kept,
        )
