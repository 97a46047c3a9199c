"""`donabe render`: show the exact prompt and tokens a conversation becomes, without running the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from donabe.cli.base import Command, file_as_absolute
from donabe.cli.connection import connected
from donabe.types import JsonObject

if TYPE_CHECKING:
    from donabe.client.calls import ChatFields

_LEVELS = ("true", "false", "high", "medium", "low", "max")


@click.command("render", cls=Command)
@click.argument("model", callback=file_as_absolute)
@click.argument("prompt", required=False)
@click.option("--messages", metavar="FILE", help='JSON: a list of messages, or {"messages", "tools"}; "-" reads stdin')
@click.option("--tools", metavar="FILE", help="JSON: a list of tools")
@click.option("--think", type=click.Choice(_LEVELS), help="Thinking, or how much of it")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with prompt and tokens")
def render(
    model: str, prompt: str | None, messages: str | None, tools: str | None, think: str | None, as_json: bool
) -> None:
    """Print the prompt that MODEL gets for PROMPT or for a conversation, and its token ids."""
    if (prompt is None) == (messages is None):
        raise click.UsageError("give either PROMPT or --messages FILE")
    request = _read_json(messages) if messages is not None else [{"role": "user", "content": prompt}]
    conversation = request.get("messages") if isinstance(request, dict) else request
    offered = _read_json(tools) if tools is not None else request.get("tools") if isinstance(request, dict) else None
    conversation = _objects("messages", conversation)
    fields: ChatFields = {}
    if offered is not None:
        fields["tools"] = _objects("tools", offered)
    if think is not None:
        fields["think"] = think if think not in ("true", "false") else think == "true"
    with connected() as client:
        answer = client.render(model, conversation, **fields)
    click.echo(_text(answer, as_json=as_json), nl=False)


def _text(answer: JsonObject, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(answer, ensure_ascii=False) + "\n"
    prompt, tokens = answer["prompt"], answer["tokens"]
    end = "" if prompt.endswith("\n") else "\n"
    return f"{prompt}{end}\n{len(tokens)} tokens: {' '.join(map(str, tokens))}\n"


def _read_json(file: str) -> Any:
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.ClickException(f"{file} is not JSON: {error}") from None


def _objects(what: str, value: object) -> list[JsonObject]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise click.ClickException(f"{what} must be a list of JSON objects with at least one item")
    return value
