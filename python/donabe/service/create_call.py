"""What a request to create a model asks for, and the checks that need no file: names, digests, types, template.

Pure values. The checks run in the reference system's order, so that a request with several faults gets the text clients
know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from donabe.convert.quantization import quantization_type
from donabe.errors import InvalidNameError, InvalidRequestError, TemplateError
from donabe.service.parameters import check_options
from donabe.store.digest import Digest
from donabe.store.names import ModelName, split_where
from donabe.template import parse_template
from donabe.types import JsonObject, Message

CLOUD_HOST = "https://ollama.com:443"
_DEFAULT_PORT = 11434
_VERSION = re.compile(r"v?[0-9]+(\.[0-9]+){0,2}([-+][0-9A-Za-z.+-]+)?")
_MAX_FILES = 1000
_INFO_TEXTS = ("model_family", "base_name", "quantization_level", "parameter_size")
_INFO_NUMBERS = ("context_length", "embedding_length")

NamedDigests = tuple[tuple[str, Digest], ...]


@dataclass(frozen=True, kw_only=True)
class CreateCall:
    """A model to create, as the caller wrote it. Files are names to digests of blobs uploaded before."""

    model: str
    from_: str = ""
    files: Mapping[str, str] | None = None
    draft_files: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    quantize: str = ""
    draft_quantize: str = ""
    template: str = ""
    system: str = ""
    licenses: tuple[str, ...] = ()
    parameters: JsonObject = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    info: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CreatePlan:
    """A checked call. Exactly one of `base`, `remote_model` and `files` says what the model is made from."""

    call: CreateCall
    name: ModelName
    base: str = ""
    remote_model: str = ""
    remote_host: str = ""
    files: NamedDigests = ()
    drafts: NamedDigests = ()
    adapters: NamedDigests = ()
    quantization: str = ""
    draft_quantization: str = ""
    parameters: JsonObject = field(default_factory=dict)
    unknown_parameters: tuple[str, ...] = ()


def check_create(call: CreateCall) -> CreatePlan:
    """Check everything about a call that can be checked without looking at files.

    Raises:
        InvalidRequestError: with the text clients know.
        InvalidNameError: `model` or `from` is no model name.
    """
    _check_paths(call)
    files, drafts, adapters = _digests(call.files or {}), _digests(call.draft_files), _digests(call.adapters)
    if call.draft_quantize and not drafts:
        raise InvalidRequestError("--draft-quantize requires a DRAFT model", field="draft_quantize")
    name = ModelName.parse(call.model)
    if not call.from_ and call.files is None:
        raise InvalidRequestError(
            "neither 'from' or 'files' was specified", field="from", hint="name a model or upload its files"
        )
    base, remote_model, remote_host = _source(call)
    if remote_model and drafts:
        raise InvalidRequestError("DRAFT cannot be used with remote models", field="draft_files")
    if not call.from_ and not files:
        raise InvalidRequestError("unknown type", field="files", hint="upload at least one GGUF file")
    known, unknown = check_options(call.parameters)
    plan = CreatePlan(
        call=call,
        name=name,
        base=base,
        remote_model=remote_model,
        remote_host=remote_host,
        files=() if call.from_ else files,
        drafts=drafts,
        adapters=adapters,
        quantization=quantization_type(call.quantize) if call.quantize else "",
        draft_quantization=quantization_type(call.draft_quantize) if call.draft_quantize else "",
        parameters=known | {key: call.parameters[key] for key in unknown},
        unknown_parameters=unknown,
    )
    _check_info(call.info)
    _check_texts(call)
    return plan


def _check_paths(call: CreateCall) -> None:
    for path in (*(call.files or {}), *call.draft_files):
        segments = path.split("/")
        if not path or any(segment in ("", ".", "..") for segment in segments) or "\\" in path or "\0" in path:
            raise InvalidRequestError("file path must be relative", field="files", hint="name files like model.gguf")
    if len(call.files or {}) + len(call.draft_files) + len(call.adapters) > _MAX_FILES:
        raise InvalidRequestError(f"more than {_MAX_FILES} files", field="files")


def _digests(files: Mapping[str, str]) -> NamedDigests:
    """Files sorted by name, with their digests parsed."""
    return tuple((name, Digest.parse(digest)) for name, digest in sorted(files.items()))


def _source(call: CreateCall) -> tuple[str, str, str]:
    """(base model, remote model, remote host) of the call's `from`."""
    if not call.from_:
        return "", "", ""
    try:
        base, where = split_where(call.from_)
        ModelName.parse(base)
    except (InvalidNameError, InvalidRequestError):
        raise InvalidNameError("invalid model name", hint="`from` must be a model name") from None
    if call.remote_host:
        return "", base, remote_url(call.remote_host)
    return ("", base, CLOUD_HOST) if where == "cloud" else (base, "", "")


def remote_url(text: str) -> str:
    """A remote host as stored: with scheme and port, without a lone slash.

    Raises:
        InvalidRequestError: It is no URL.
    """
    if text.startswith("/"):
        text = f"http://localhost:{_DEFAULT_PORT}{text}"
    if text in ("ollama.com", "http://ollama.com"):
        return CLOUD_HOST
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port = url.port or _DEFAULT_PORT
    except ValueError:
        raise _bad_remote() from None
    if not url.hostname or url.scheme not in ("http", "https") or url.username is not None:
        raise _bad_remote()
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    path = re.sub(r"/{2,}", "/", url.path).rstrip("/")
    return f"{url.scheme}://{host}:{port}{path}"


def _bad_remote() -> InvalidRequestError:
    return InvalidRequestError("bad remote", field="remote_host", hint="write it like https://host:port")


def _check_info(info: JsonObject) -> None:
    for key in _INFO_TEXTS:
        if not isinstance(info.get(key, ""), str):
            raise InvalidRequestError(f'info field "{key}" must be a string', field=f"info.{key}")
    for key in _INFO_NUMBERS:
        value = info.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidRequestError(f'info field "{key}" must be a number', field=f"info.{key}")
        if value < 0 or value != int(value) or value >= 2**31:
            raise InvalidRequestError(f'info field "{key}" must be a non-negative integer', field=f"info.{key}")
    capabilities = info.get("capabilities", [])
    if not isinstance(capabilities, list) or not all(isinstance(item, str) for item in capabilities):
        raise InvalidRequestError('info field "capabilities" must be a list of strings', field="info.capabilities")


def _check_texts(call: CreateCall) -> None:
    if call.template:
        try:
            parse_template(call.template)
        except TemplateError as error:
            raise InvalidRequestError(f"template error: {error.message}", field="template") from None
    if call.requires and not _VERSION.fullmatch(call.requires):
        raise InvalidRequestError("requires must be a valid semver (e.g. 0.14.0)", field="requires")
