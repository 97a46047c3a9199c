"""The interactive run on a real pseudo-terminal, against the scripted server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.http_server import FakeServer

pexpect = pytest.importorskip("pexpect", reason="needs a Unix terminal")

DONE = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
LOADED = {"response": "", "done": True, "done_reason": "load"}


def said(text: str) -> list[dict[str, Any]]:
    return [{"message": {"role": "assistant", "content": text}, "done": False}, DONE]


@pytest.fixture
def model(server: FakeServer) -> FakeServer:
    server.reply("POST", "/api/show", [{"capabilities": ["completion"], "details": {"family": "llama"}}])
    server.reply("POST", "/api/generate", [LOADED])
    return server


@pytest.fixture
def start(model: FakeServer, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    children = []

    def start(*args: str, preexec_fn: Callable[[], Any] | None = None) -> Any:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("DONABE_", "OLLAMA_"))}
        env |= {"DONABE_HOST": model.host, "DONABE_HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        child = pexpect.spawn(
            sys.executable,
            ["-m", "donabe", "run", "m", *args],
            env=env,
            timeout=20,
            encoding="utf-8",
            dimensions=(40, 90),
            preexec_fn=preexec_fn,
        )
        children.append(child)
        child.expect(">>> ")
        return child

    yield start
    for child in children:
        child.close(force=True)


def leave(child: Any) -> None:
    child.send("/bye\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def last_chat(server: FakeServer) -> Any:
    return server.bodies("/api/chat")[-1]["messages"]


def test_conversation_keeps_its_history(model: FakeServer, start: Callable[..., Any]) -> None:
    model.reply("POST", "/api/chat", said("first answer"))
    model.reply("POST", "/api/chat", said("second answer"))
    child = start()
    child.send("one\r")
    child.expect("first answer")
    child.expect(">>> ")
    child.send("two\r")
    child.expect("second answer")
    leave(child)
    assert [message["content"] for message in last_chat(model)] == ["one", "first answer", "two"]


def test_block_in_triple_quotes_is_one_message(model: FakeServer, start: Callable[..., Any]) -> None:
    model.reply("POST", "/api/chat", said("understood"))
    child = start()
    child.send('"""\rhello\r"""\r')
    child.expect("understood")
    leave(child)
    assert last_chat(model)[0]["content"] == "\nhello\n"


def test_pasted_lines_are_text_even_if_they_look_like_commands(model: FakeServer, start: Callable[..., Any]) -> None:
    model.reply("POST", "/api/chat", said("understood"))
    child = start()
    child.send("\x1b[200~/bye\nsecond\x1b[201~\r")
    child.expect("understood")
    leave(child)
    assert last_chat(model)[0]["content"] == "/bye\nsecond"


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN])
def test_ctrl_c_stops_the_answer_and_not_the_program(
    model: FakeServer, start: Callable[..., Any], inherited: signal.Handlers
) -> None:
    model.reply("POST", "/api/chat", said("endless text")[:1], hold=True)
    model.reply("POST", "/api/chat", said("next answer"))
    child = start(preexec_fn=lambda: signal.signal(signal.SIGINT, inherited))
    child.send("one\r")
    child.expect("endless text")
    child.sendintr()
    assert model.left.wait(10), "the request must be cancelled"
    child.expect(">>> ")
    child.send("two\r")
    child.expect("next answer")
    leave(child)
    assert [message["content"] for message in last_chat(model)] == ["one", "endless text", "two"]


def test_ctrl_c_on_an_empty_line_tells_how_to_leave(start: Callable[..., Any]) -> None:
    child = start()
    child.send("\x03")
    child.expect(r"Use Ctrl \+ d or /bye to exit\.")
    child.expect(">>> ")
    child.send("\x04")
    child.expect(pexpect.EOF)


def test_error_of_a_turn_is_shown_and_the_session_goes_on(model: FakeServer, start: Callable[..., Any]) -> None:
    model.reply("POST", "/api/chat", [{"error": "boom"}])
    model.reply("POST", "/api/chat", said("fine"))
    child = start()
    child.send("one\r")
    child.expect("Error: boom")
    child.expect(">>> ")
    child.send("two\r")
    child.expect("fine")
    leave(child)
    assert [message["content"] for message in last_chat(model)] == ["two"]


def test_history_file_belongs_to_its_owner(start: Callable[..., Any], tmp_path: Path) -> None:
    child = start()
    child.send("/set nohistory\r")
    child.expect(">>> .*>>> ")
    leave(child)
    history = tmp_path / "history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "/set nohistory" in history.read_text()
    assert "/bye" not in history.read_text()
