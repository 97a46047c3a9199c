"""The native dialect, requests that create a model: JSON of `POST /api/create` to a `CreateCall`. Pure translation."""

from __future__ import annotations

from dataclasses import dataclass

from donabe.api.body import Fields, kind_of, parse_json
from donabe.api.native import decode_message, unknown_fields
from donabe.errors import InvalidRequestError
from donabe.service.create_call import CreateCall
from donabe.service.parameters import PARAMETERS


@dataclass(frozen=True)
class NativeCreate:
    """A decoded create request; `warnings` names every field and parameter without effect."""

    call: CreateCall
    is_streamed: bool
    warnings: tuple[str, ...]


def decode_create(body: bytes) -> NativeCreate:
    """`POST /api/create`."""
    if not body.strip():
        raise InvalidRequestError("missing request body")
    fields = Fields(parse_json(body), "CreateRequest")
    model, name = fields.string("model"), fields.string("name")
    quantize, quantization = fields.string("quantize"), fields.string("quantization")
    call = CreateCall(
        model=model or name,
        from_=fields.string("from"),
        files=_texts(fields, "files") if fields.has("files") else None,
        draft_files=_texts(fields, "draft_files"),
        adapters=_texts(fields, "adapters"),
        quantize=quantize or quantization,
        draft_quantize=fields.string("draft_quantize"),
        template=fields.string("template"),
        system=fields.string("system"),
        licenses=_licenses(fields),
        parameters=fields.mapping("parameters"),
        messages=tuple(fields.objects("messages", "[]api.Message", decode_message)),
        renderer=fields.string("renderer"),
        parser=fields.string("parser"),
        requires=fields.string("requires"),
        remote_host=fields.string("remote_host"),
        info=fields.mapping("info"),
    )
    is_streamed = fields.boolean("stream", True)
    fields.ignore("username", "password")
    unknown = tuple(f"unknown parameter {name}" for name in call.parameters if name not in PARAMETERS)
    return NativeCreate(call, is_streamed, unknown + unknown_fields(fields))


def _texts(fields: Fields, name: str) -> dict[str, str]:
    """An object whose values are strings."""
    values = fields.mapping(name)
    for value in values.values():
        if not isinstance(value, str):
            raise fields.mismatch(name, value, "string")
    return values


def _licenses(fields: Fields) -> tuple[str, ...]:
    """`license` as one text or a list of texts."""
    value = fields.take("license")
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError(
            f"license must be a string or a list of strings, got {kind_of(value)}", field="license"
        )
    return tuple(text for text in texts if text)
