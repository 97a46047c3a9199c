"""`donabe run`: talk to a model, once or interactively."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from donabe.cli.base import Command, file_as_absolute
from donabe.cli.connection import connected, use_in_new_server
from donabe.cli.run_model.options import RunOptions, find_or_pull
from donabe.cli.text import normalize_keep_alive
from donabe.setting_values import Workers
from donabe.types import JsonObject

_THINK_WORDS = ("true", "false", "high", "medium", "low", "max")


class RunCommand(Command):
    """A bare `--think` means true: the word after it belongs to the prompt."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        args = ["--think=true" if arg == "--think" else arg for arg in args[:end]] + args[end:]
        return super().parse_args(ctx, args)


def _keep_alive(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return normalize_keep_alive(text)
    except ValueError as error:
        raise click.UsageError(f"{error}, --keepalive takes a duration such as 10m") from None


def _think(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> bool | str | None:
    if text is None or text in ("true", "false"):
        return None if text is None else text == "true"
    if text not in _THINK_WORDS:
        raise click.UsageError(f'invalid value for --think: "{text}" (must be true, false, high, medium, low, or max)')
    return text


def _format(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | JsonObject | None:
    if not text or text == "json":
        return text or None
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f'--format must be "json" or a JSON schema: {error}') from None
    if not isinstance(schema, dict):
        raise click.UsageError(f'--format must be "json" or a JSON schema object, not {text}')
    return schema


def _rpc(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        try:
            Workers()(text)
        except ValueError as error:
            raise click.UsageError(f"--rpc {error}") from None
    return text


@click.command("run", cls=RunCommand, settings=("host", "editor", "no_history"))
@click.argument("model", callback=file_as_absolute)
@click.argument("prompt", nargs=-1)
@click.option("--dimensions", type=click.IntRange(min=1), help="Length of embeddings (embedding models)")
@click.option("--format", callback=_format, metavar="json|SCHEMA", help="Answer in JSON, or as a JSON schema says")
@click.option("--hidethinking", is_flag=True, help="Hide the model's thinking")
@click.option("--insecure", is_flag=True, help="Allow a registry without TLS when pulling")
@click.option("--keepalive", callback=_keep_alive, metavar="DURATION", help="How long the model stays loaded (5m)")
@click.option("--nowordwrap", is_flag=True, help="Don't wrap words at the terminal's width")
@click.option("--rpc", callback=_rpc, metavar="ADDRESSES", help="RPC workers (host:port,...) for the server it starts")
@click.option("--think", callback=_think, metavar="[=VALUE]", help="Let the model think: true, false, low, ..., max")
@click.option("--truncate/--no-truncate", default=None, help="Cut input longer than the context (embedding models)")
@click.option("--verbose", is_flag=True, help="Show timings after the answer")
def run(model: str, prompt: tuple[str, ...], **given: Any) -> None:
    """Run MODEL. With a PROMPT, or text on stdin, print one answer; else open an interactive prompt.

    A model that is not installed is pulled first; a server is started if none runs.
    """
    options = RunOptions(
        model=model,
        keep_alive=given["keepalive"],
        format=given["format"],
        think=given["think"],
        hide_thinking=given["hidethinking"],
        verbose=given["verbose"],
        word_wrap=not given["nowordwrap"],
        insecure=given["insecure"],
        truncate=given["truncate"],
        dimensions=given["dimensions"],
    )
    text = _prompt_text(prompt)
    if given["rpc"] is not None:
        use_in_new_server("rpc", given["rpc"])
    with connected(start_server=True) as client:
        facts = find_or_pull(client, options)
        if options.think is None and facts.can_think:
            options.think = True
        if text is None and not facts.is_embedding:
            from donabe.cli.run_model.interactive import run_interactive

            run_interactive(client, options, facts)
        else:
            from donabe.cli.run_model.once import run_once

            run_once(client, options, facts, text or "")


def _prompt_text(words: tuple[str, ...]) -> str | None:
    """The prompt: stdin (when it is no terminal), then the arguments. None asks for the interactive run."""
    if sys.stdin is None or not sys.stdin.isatty():
        piped = _read_stdin()
        return " ".join([piped, *words] if piped else words)
    if words or not sys.stdout.isatty():
        return " ".join(words)
    return None


def _read_stdin() -> str:
    if sys.stdin is None:  # closed by the caller
        return ""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin.read()
