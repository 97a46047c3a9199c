"""Requests to prompt text: collates messages, chooses what the template may see, runs it.

Three ways, by what the template uses: the whole conversation at once (`.Messages`), one exchange at a time (older
templates with `.Prompt` and `.Response`), or fill-in-the-middle (`.Prompt` and `.Suffix`).
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec

from donabe.template.chatvalues import template_messages, template_tools
from donabe.template.template import GoTemplate
from donabe.template.values import clean_text
from donabe.types import Message, ThinkLevel, Tool

Think = bool | ThinkLevel | None


def render_chat(
    template: GoTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    system: str = "",
    think: Think = None,
    today: datetime.date | None = None,
) -> str:
    """The prompt for a conversation.

    Args:
        template: A parsed Go template.
        messages: In order. Image markers in contents are the caller's work.
        tools: What the model may call.
        system: Used when the first message has another role.
        think: Whether, or how much, the model is to think; None = the caller did not say.
        today: The date the template may print; None = the local date.

    Raises:
        TemplateError: the template failed on these values, or passed a limit.
    """
    messages = tuple(messages)
    if system and (not messages or messages[0].role != "system"):
        messages = (Message(role="system", content=system), *messages)
    merged, merged_system = collate(messages)
    root = _think_values(think)
    if "messages" not in template.variables():
        return _render_exchanges(template, merged, root, today)
    root |= {
        "System": merged_system,
        "Messages": template_messages(merged),
        "Tools": template_tools(tools),
        "Response": "",
    }
    return template.execute(root, today=today)


def render_generate(
    template: GoTemplate,
    prompt: str,
    *,
    suffix: str = "",
    system: str = "",
    response: str = "",
    think: Think = None,
    today: datetime.date | None = None,
) -> str:
    """The prompt for one completion.

    Args:
        template: A parsed Go template.
        prompt: What the user wrote; with `suffix`, the text before the gap.
        suffix: The text after the gap, for fill-in-the-middle; then `system` and `response` are not used.
        system: System text.
        response: Text the answer begins with.
        think: As in `render_chat`.
        today: As in `render_chat`.

    Raises:
        TemplateError: the template failed on these values, or passed a limit.
    """
    if prompt and suffix:
        root = _think_values(think) | {"Prompt": clean_text(prompt), "Suffix": clean_text(suffix), "Response": ""}
        return template.execute(root, today=today)
    messages = [Message(role="user", content=prompt)]
    if response:
        messages.append(Message(role="assistant", content=response))
    return render_chat(template, messages, system=system, think=think, today=today)


def collate(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """Merge neighbours of one role, except tool results, and gather the system texts.

    Returns:
        The messages, and the contents of all system messages joined by a blank line.
    """
    merged: list[Message] = []
    systems = [message.content for message in messages if message.role == "system"]
    for message in messages:
        if merged and merged[-1].role == message.role and message.role != "tool":
            last = merged[-1]
            merged[-1] = msgspec.structs.replace(
                last,
                content=f"{last.content}\n\n{message.content}",
                images=last.images + message.images,
                tool_calls=last.tool_calls + message.tool_calls,
                thinking="\n\n".join(filter(None, (last.thinking, message.thinking))),
            )
        else:
            merged.append(message)
    return merged, clean_text("\n\n".join(systems))


def _think_values(think: Think) -> dict[str, object]:
    level = think if isinstance(think, str) else "medium" if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def _render_exchanges(
    template: GoTemplate, messages: Sequence[Message], shared: dict[str, object], today: datetime.date | None
) -> str:
    """Run the template once for each exchange of system, user and assistant text; the last answer is left open."""
    out: list[str] = []
    pending = {"System": "", "Prompt": "", "Response": ""}
    budget = template.new_budget()

    def run(*, cut: bool = False) -> None:
        out.append(template.execute(shared | pending, cut=cut, today=today, budget=budget))
        pending.update(System="", Prompt="", Response="")

    for message in messages:
        content = clean_text(message.content)
        if message.role == "system":
            if pending["Prompt"] or pending["Response"]:
                run()
            pending["System"] = content
        elif message.role == "user":
            if pending["Response"]:
                run()
            pending["Prompt"] = content
        elif message.role == "assistant":
            pending["Response"] = content
    run(cut=True)
    return "".join(out)
