"""`donabe run MODEL` on a terminal: read, dispatch, answer, until the user leaves."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from donabe.cli.errors import describe
from donabe.cli.run_model.attachments import extract_attachments
from donabe.cli.run_model.options import ModelFacts, RunOptions
from donabe.cli.run_model.prompt import PromptReader, block_start, block_text
from donabe.cli.run_model.session import Session
from donabe.cli.run_model.slash import SlashCommands
from donabe.errors import DonabeError
from donabe.settings import load_settings

if TYPE_CHECKING:
    from donabe.client import Client


def run_interactive(client: Client, options: RunOptions, facts: ModelFacts) -> None:
    """Talk until /bye or Ctrl-D. Ctrl-C stops an answer; a failed request is reported and the session goes on."""
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that; a session at a terminal wants it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session = Session(client, options, facts)
    session.load()
    _print_stored_messages(facts)
    reader = PromptReader(load_settings())
    commands = SlashCommands(session, reader.history)
    is_open = True
    while is_open:
        try:
            is_open = _one_input(reader.read(), session, commands)
        except KeyboardInterrupt:
            click.echo("\nUse Ctrl + d or /bye to exit.")
        except EOFError:
            click.echo()
            return
        except DonabeError as error:
            click.echo(f"Error: {describe(error)}", err=True)


def _one_input(text: str, session: Session, commands: SlashCommands) -> bool:
    """Handle one input; False ends the session."""
    if not text.strip():
        return True
    if block_start(text) >= 0:
        if text.startswith("/set system "):
            commands.set_system(block_text(text))
        else:
            _say(session, block_text(text))
        return True
    is_pasted = "\n" in text  # never a command
    if text.startswith("/") and not is_pasted and (commands.knows(text) or not _is_file(text, session)):
        return commands.run(text)
    _say(session, text)
    return True


def _is_file(text: str, session: Session) -> bool:
    return session.facts.is_multimodal and bool(extract_attachments(text)[1])


def _say(session: Session, text: str) -> None:
    images: list[bytes] = []
    if session.facts.is_multimodal:
        text, images = extract_attachments(text)
    session.say(text, images)


def _print_stored_messages(facts: ModelFacts) -> None:
    for message in facts.answer.get("messages") or ():
        if message.get("role") == "user":
            click.echo(f">>> {message.get('content', '')}")
        elif message.get("role") == "assistant":
            click.echo(f"{message.get('content', '')}\n")
