"""Tokens and templates as clients of llama.cpp's server and of vLLM ask for them: `/tokenize`, `/detokenize` and
`/apply-template`.

Such clients may leave the model out; the server then chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from donabe.api.body import Fields, parse_json, refuse, token_ids
from donabe.api.native import unknown_fields
from donabe.api.openai_messages import decode_messages, decode_tools
from donabe.errors import InvalidRequestError
from donabe.service.calls import ChatCall, ModelCall
from donabe.types import JsonObject

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class TokenizeText:
    """A decoded request for the tokens of a text, or of a conversation when `call` is a chat.

    Attributes:
        with_pieces: Tokens are objects that hold their text, as llama.cpp's server writes them.
        with_texts: The texts of all tokens are a list of their own, as vLLM writes them.
    """

    call: ModelCall
    text: str
    add_special: bool
    parse_special: bool
    with_pieces: bool
    with_texts: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Detokenize:
    """A decoded request for the text of tokens."""

    call: ModelCall
    tokens: tuple[int, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ApplyTemplate:
    """A decoded request for the prompt of a conversation."""

    call: ChatCall
    warnings: tuple[str, ...]


def decode_tokenize(body: bytes) -> TokenizeText:
    """`POST /tokenize`: `content` (llama.cpp), `prompt` or `messages` (vLLM). Special tokens are added as each does."""
    fields = Fields(parse_json(body, when_empty="EOF"), "TokenizeRequest")
    with_pieces, with_texts = fields.boolean("with_pieces"), fields.boolean("return_token_strs")
    if fields.has("messages"):
        return _tokenize_chat(fields, with_pieces=with_pieces, with_texts=with_texts)
    text, prompt = fields.optional_string("content"), fields.optional_string("prompt")
    if text is None and prompt is None:
        raise InvalidRequestError(
            "content is required", field="content", hint="send the text as content or prompt, or messages"
        )
    add_special = (
        fields.boolean("add_special", False) if text is not None else fields.boolean("add_special_tokens", True)
    )
    return TokenizeText(
        ModelCall(model=fields.string("model")),
        text=text if text is not None else prompt or "",
        add_special=add_special,
        parse_special=fields.boolean("parse_special", True),
        with_pieces=with_pieces,
        with_texts=with_texts,
        warnings=unknown_fields(fields),
    )


def _tokenize_chat(fields: Fields, *, with_pieces: bool, with_texts: bool) -> TokenizeText:
    if fields.boolean("add_special_tokens"):
        raise InvalidRequestError(
            "add_special_tokens is for a prompt: a chat template writes its own", field="add_special_tokens"
        )
    call = _chat_call(fields)
    return TokenizeText(
        call,
        text="",
        add_special=False,
        parse_special=True,
        with_pieces=with_pieces,
        with_texts=with_texts,
        warnings=unknown_fields(fields),
    )


def _chat_call(fields: Fields) -> ChatCall:
    """A conversation that is only rendered."""
    is_continuing = fields.boolean("continue_final_message")
    if not fields.boolean("add_generation_prompt", True) and not is_continuing:
        raise InvalidRequestError(
            "add_generation_prompt must be true: a prompt always ends where the answer begins",
            field="add_generation_prompt",
        )
    refuse(fields, "chat_template", "mm_processor_kwargs", hint="the model's own template is used")
    return ChatCall(
        model=fields.string("model"),
        messages=decode_messages(fields),
        tools=decode_tools(fields.items("tools", fields.array("tools", "[]api.Tool"))),
        template_kwargs=fields.mapping("chat_template_kwargs"),
        continue_final_message=is_continuing,
        truncate=False,
        context_shift=False,
    )


def tokenize_body(request: TokenizeText, tokens: Sequence[int], n_ctx: int, pieces: Sequence[bytes]) -> bytes:
    """The reply to `decode_tokenize`'s request; `pieces` are only needed when it asks for texts."""
    reply: JsonObject = {"tokens": tokens, "count": len(tokens), "max_model_len": n_ctx}
    if request.with_pieces:
        reply["tokens"] = [{"id": token, "piece": _piece(piece)} for token, piece in zip(tokens, pieces, strict=True)]
    if request.with_texts:
        reply["token_strs"] = [piece.decode("utf-8", "replace") for piece in pieces]
    return _encode(reply)


def _piece(piece: bytes) -> str | list[int]:
    """Text, or the bytes of a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def decode_detokenize(body: bytes) -> Detokenize:
    """`POST /detokenize`."""
    fields = Fields(parse_json(body, when_empty="EOF"), "DetokenizeRequest")
    tokens = fields.array("tokens", "[]int")
    if any(isinstance(token, bool) or not isinstance(token, int) for token in tokens):
        raise InvalidRequestError("tokens must be integers", field="tokens")
    call = ModelCall(model=fields.string("model"))
    return Detokenize(call, token_ids(tokens, "tokens"), unknown_fields(fields))


def detokenize_body(text: str) -> bytes:
    return _encode({"content": text, "prompt": text})


def decode_apply_template(body: bytes) -> ApplyTemplate:
    """`POST /apply-template`."""
    fields = Fields(parse_json(body, when_empty="EOF"), "TemplateRequest")
    call = _chat_call(fields)
    return ApplyTemplate(call, unknown_fields(fields))


def template_body(prompt: str) -> bytes:
    return _encode({"prompt": prompt})
