"""The Anthropic dialect: content blocks of a message to native messages. Pure translation.

Blocks of one message become one native message, except tool results, which are messages of their own and come before
the user's text. What a block holds is read, or refused by name, or reported.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from donabe.api.body import Fields, decode_base64, kind_of
from donabe.api.images import check_image
from donabe.errors import InvalidRequestError
from donabe.service.parameters import check_count
from donabe.types import JsonObject, Message, ToolCall

_TOOL_RESULTS = (  # the first is the caller's own; the others are of tools that another product's server ran
    *("tool_result", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"),
    *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
)
_IN_RESULTS = ("text", "image", "document", "search_result", "tool_reference")
_IN_DOCUMENTS = ("text", "image")
_BLOCK_FIELDS = {
    "text": ("text", "citations"),
    "search_result": ("content", "source", "title", "citations"),
    "document": ("title", "context", "citations"),
    "tool_reference": ("tool_name",),
    "tool_use": ("id", "name", "input", "caller"),
    "server_tool_use": ("id", "name", "input", "caller"),
    "tool_result": ("tool_use_id", "is_error"),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    **dict.fromkeys(_TOOL_RESULTS[1:], ("tool_use_id", "content", "is_error", "caller")),
}


class BlockReader:
    """Gathers the blocks of one message.

    Args:
        names: Of tools, by the id of their call; those of this message are added.
        kinds: What may be here; None = all that are known.
        place: Where the blocks are, for errors.
    """

    def __init__(
        self,
        role: str,
        names: dict[str, str],
        *,
        kinds: Container[object] | None = None,
        place: str = "messages.content",
    ) -> None:
        self._role = role
        self._kinds = kinds
        self._names = names
        self._place = place
        self._texts: list[str] = []
        self._is_apart = False  # the last text is a document of its own
        self._images: list[bytes] = []
        self._calls: list[ToolCall] = []
        self._results: list[Message] = []
        self._thinking: list[str] = []
        self.warnings: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def images(self) -> tuple[bytes, ...]:
        return tuple(self._images)

    def read(self, content: object) -> None:
        if content is None:
            raise InvalidRequestError("unexpected end of JSON input", field=self._place)
        if isinstance(content, str):
            self._texts.append(content)
            return
        if not isinstance(content, list):
            raise InvalidRequestError(
                f"json: cannot unmarshal {kind_of(content)} into Go struct field MessagesRequest.messages of type"
                " []anthropic.ContentBlock",
                field=self._place,
            )
        check_count("parts", len(content), field=self._place)
        for block in content:
            if not isinstance(block, dict):
                raise InvalidRequestError("content blocks must be objects", field=self._place)
            self._read_block(block)

    def messages(self) -> list[Message]:
        own = []
        thinking = "\n".join(filter(None, self._thinking))
        if self._texts or self._images or self._calls or thinking:
            own.append(
                Message(
                    role=self._role,
                    content=self.text,
                    thinking=thinking,
                    images=self.images,
                    tool_calls=tuple(self._calls),
                )
            )
        return [*self._results, *own] if self._role == "user" else [*own, *self._results]

    def _read_block(self, block: JsonObject) -> None:
        kind = block.get("type")
        if self._kinds is not None and kind not in self._kinds:
            raise InvalidRequestError(
                f"blocks of type {kind!r} can't be part of another one", field=f"{self._place}.type"
            )
        self._warn_of_citations(block)
        if kind == "text":
            self._add_text(self._string(block, "text"))
        elif kind == "search_result":
            self._read_search_result(block)
        elif kind == "document":
            self._read_document(block)
        elif kind == "tool_reference":
            self._add_text(self._string(block, "tool_name"), is_apart=True)
        elif kind == "image":
            self._images.append(self._image(block.get("source")))
        elif kind in ("tool_use", "server_tool_use"):
            self._calls.append(self._call(block))
        elif kind in _TOOL_RESULTS:
            self._results.append(self._result(block))
        elif kind == "thinking":
            self._thinking.append(str(block.get("thinking") or ""))
        elif kind == "redacted_thinking":
            self.warnings.append("redacted_thinking blocks are left out: only their author can read them")
        else:
            raise InvalidRequestError(f"content blocks of type {kind!r} are not supported", field=f"{self._place}.type")

    def _add_text(self, text: str, *, is_apart: bool = False) -> None:
        if self._texts and (is_apart or self._is_apart):
            self._texts.append("\n\n")
        self._texts.append(text)
        self._is_apart = is_apart

    def _warn_of_citations(self, block: JsonObject) -> None:
        """Those of earlier answers have no place in a prompt, and those asked for will not be made."""
        citations = block.get("citations")
        if citations and not (isinstance(citations, dict) and citations.get("enabled") is False):
            self.warnings.append(f"{self._place}.citations has no effect: answers cite nothing")

    def _string(self, block: JsonObject, name: str) -> str:
        text = block.get(name)
        if text is not None and not isinstance(text, str):
            raise InvalidRequestError(
                f"{block['type']} block needs a string as its '{name}', got {kind_of(text)}",
                field=f"{self._place}.{name}",
            )
        if text is None:
            raise InvalidRequestError(
                f"{block['type']} block missing required '{name}' field", field=f"{self._place}.{name}"
            )
        return text

    def _head(self, block: JsonObject, *names: str) -> list[str]:
        """What stands above a text, as far as it is there."""
        return [self._string(block, name) for name in names if block.get(name) not in (None, "")]

    def _inner(self, content: object, kinds: Sequence[str], place: str) -> BlockReader:
        inner = BlockReader(self._role, {}, kinds=kinds, place=f"{self._place}.{place}")
        inner.read(content)
        self.warnings += inner.warnings
        return inner

    def _read_search_result(self, block: JsonObject) -> None:
        head = self._head(block, "title", "source")
        inner = self._inner(block.get("content"), ("text",), "content")
        self._add_text("\n".join([*head, inner.text]), is_apart=True)

    def _read_document(self, block: JsonObject) -> None:
        source = block.get("source")
        if not isinstance(source, dict):
            source = {}
        head = self._head(block, "title", "context")
        if source.get("type") == "text" and isinstance(source.get("data"), str):
            self._add_text("\n".join([*head, source["data"]]), is_apart=True)
        elif source.get("type") == "content":
            inner = self._inner(source.get("content"), _IN_DOCUMENTS, "source.content")
            self._add_text("\n".join([*head, inner.text]), is_apart=True)
            self._images += inner.images
        else:
            raise InvalidRequestError(
                "only documents with a text or content source are supported",
                field=f"{self._place}.source",
                hint="send the text itself",
            )

    def _image(self, source: object) -> bytes:
        field = f"{self._place}.source"
        if not isinstance(source, dict):
            raise InvalidRequestError("invalid image source", field=field)
        if source.get("type") != "base64":
            raise InvalidRequestError(
                f"invalid image source type: {source.get('type')}. Only base64 images are supported.",
                field=f"{field}.type",
            )
        data = decode_base64(source.get("data"), f"{field}.data", text="invalid base64 image data: {}")
        check_image(data, f"{field}.data")
        return data

    def _call(self, block: JsonObject) -> ToolCall:
        for name in ("id", "name"):
            if not isinstance(block.get(name), str) or not block[name]:
                raise InvalidRequestError(f"tool_use block missing required '{name}' field", field=self._place)
        arguments = block.get("input")
        if arguments is not None and not isinstance(arguments, dict):
            raise InvalidRequestError("tool_use input must be an object", field=f"{self._place}.input")
        check_count("tool_calls", len(self._calls) + 1, field=self._place, what="calls")
        self._names[block["id"]] = block["name"]
        text = msgspec.json.encode(arguments or {}).decode()
        return ToolCall(name=block["name"], arguments=text, id=block["id"], index=len(self._calls))

    def _result(self, block: JsonObject) -> Message:
        id, content = block.get("tool_use_id"), block.get("content")
        if not isinstance(id, str):
            raise InvalidRequestError("tool_result block missing required 'tool_use_id' field", field=self._place)
        if block["type"] != "tool_result" and content is not None and not isinstance(content, str):
            content = msgspec.json.encode(content).decode()  # in forms of that product
        elif content is not None and not isinstance(content, (str, list)):
            raise InvalidRequestError(
                f"tool_result content must be a string or a list of blocks, got {kind_of(content)}",
                field=f"{self._place}.content",
            )
        inner = self._inner("" if content is None else content, _IN_RESULTS, "content")
        text = f"Error: {inner.text}" if block.get("is_error") is True else inner.text
        return Message(
            role="tool", content=text, images=inner.images, tool_call_id=id, tool_name=self._names.get(id, "")
        )


def report_blocks(fields: Fields, name: str, blocks: object) -> None:
    """Report what the reader did not look at in the blocks it read, as fields that are not known."""
    for block in blocks if isinstance(blocks, list) else ():
        inner, kind = fields.items(name, [block])[0], block.get("type")
        if kind in ("tool_result", "search_result"):
            report_blocks(inner, "content", inner.take("content"))
        elif kind in ("image", "document") and (source := inner.inner("source")) is not None:
            if block["source"].get("type") == "content":
                report_blocks(source, "content", source.take("content"))
            source.ignore("type", "media_type", "data")
        inner.ignore("type", "cache_control", *_BLOCK_FIELDS.get(kind, ()))
