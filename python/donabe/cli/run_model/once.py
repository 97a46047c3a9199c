"""`donabe run MODEL PROMPT`: one request, one answer on stdout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from donabe.cli.run_model.answer import print_answer
from donabe.cli.run_model.attachments import extract_attachments
from donabe.cli.run_model.options import ModelFacts, RunOptions
from donabe.errors import InvalidRequestError

if TYPE_CHECKING:
    from donabe.client import Client


def run_once(client: Client, options: RunOptions, facts: ModelFacts, prompt: str) -> None:
    """Answer the prompt; an empty one only loads the model."""
    if facts.is_embedding:
        _print_embedding(client, options, prompt)
        return
    if not prompt.strip():
        client.generate(options.model, "", **options.request_fields())
        return
    images: list[bytes] = []
    if facts.is_multimodal:
        prompt, images = extract_attachments(prompt)
    fields = options.request_fields() | {"images": images or None}
    print_answer(client.generate(options.model, prompt, stream=True, **fields), options)


def _print_embedding(client: Client, options: RunOptions, text: str) -> None:
    if not text.strip():
        raise InvalidRequestError(
            "embedding models require input text", hint=f'use: donabe run {options.model} "your text here"'
        )
    optional = {"truncate": options.truncate, "dimensions": options.dimensions, "keep_alive": options.keep_alive}
    answer = client.embed(options.model, text.strip("\n"), **optional)  # type: ignore[arg-type]  # None is not sent
    click.echo(json.dumps(answer["embeddings"][0], separators=(",", ":")))
