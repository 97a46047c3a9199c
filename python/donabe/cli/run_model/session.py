"""A conversation with a model: its history, and one turn. Knows no keyboard and no commands."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from donabe.cli.progress import Progress
from donabe.cli.run_model.answer import print_answer
from donabe.cli.run_model.options import ModelFacts, RunOptions

if TYPE_CHECKING:
    from donabe.client import Client


class Session:
    """The state that turns and commands share."""

    def __init__(self, client: Client, options: RunOptions, facts: ModelFacts) -> None:
        self.client = client
        self.options = options
        self.facts = facts
        self.system = ""  # set here, not the model's own
        self.messages: list[dict[str, Any]] = []

    def load(self) -> None:
        """Bring the model into memory, with a spinner on a terminal."""
        with contextlib.ExitStack() as stack:
            if sys.stderr.isatty():
                progress = stack.enter_context(Progress())
                stack.callback(progress.stop, clear=True)
                progress.status("")
            self.client.generate(self.options.model, "", keep_alive=self.options.keep_alive)  # type: ignore[arg-type]

    def switch_to(self, model: str, facts: ModelFacts) -> None:
        """Continue with another model and an empty history."""
        self.options.model, self.facts = model, facts
        self.options.think = True if facts.can_think else None
        self.clear()

    def set_system(self, text: str) -> None:
        """Set the system message: replaces one that was just set, else applies from here on."""
        self.system = text
        if self.messages and self.messages[-1]["role"] == "system":
            self.messages.pop()
        self.messages.append({"role": "system", "content": text})

    def clear(self) -> None:
        """Forget the conversation; the system message stays."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def say(self, text: str, images: list[bytes]) -> None:
        """One turn. A turn that fails leaves no trace in the history; an interrupted one keeps what was said.

        Raises:
            DonabeError: The server refused or failed.
        """
        turn = {"role": "user", "content": text} | ({"images": images} if images else {})
        events = self.client.chat(
            self.options.model, [*self.messages, turn], stream=True, **self.options.request_fields()
        )
        answer = print_answer(events, self.options)
        self.messages.append(turn)
        reply: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.thinking:
            reply["thinking"] = answer.thinking
        if answer.tool_calls:
            reply["tool_calls"] = answer.tool_calls
        self.messages.append(reply)

    def stored_messages(self) -> list[dict[str, Any]]:
        """The conversation without system messages, as `/save` stores it."""
        return [message for message in self.messages if message["role"] != "system"]
