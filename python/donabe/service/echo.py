"""The prompt's text in front of an answer (`echo`), where the runner is sent a conversation made of it and would echo
the template, too."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from donabe.types import Delta, Event, Failed


async def with_echo(events: AsyncIterator[Event], text: str, n: int) -> AsyncGenerator[Event, None]:
    """The events, with the text before the first of them in each of `n` completions. A failure comes without it."""
    is_first = True
    async with aclosing(events) as answer:  # type: ignore[type-var]  # runners give generators
        async for event in answer:
            if is_first and not isinstance(event, Failed):
                for index in range(n):
                    yield Delta(text=text, index=index)
            is_first = False
            yield event
