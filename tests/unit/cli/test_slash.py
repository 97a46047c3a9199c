from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.fakes.http_server import FakeServer

from donabe.cli.run_model.options import ModelFacts, RunOptions
from donabe.cli.run_model.session import Session
from donabe.cli.run_model.slash import SlashCommands
from donabe.client import Client


@dataclass
class History:
    is_saving: bool = True


@dataclass
class Bench:
    session: Session
    commands: SlashCommands
    history: History


@pytest.fixture
def bench(server: FakeServer) -> Iterator[Bench]:
    with Client(server.host) as client:
        session = Session(client, RunOptions("m"), ModelFacts({"capabilities": ["completion"]}))
        history = History()
        yield Bench(session, SlashCommands(session, history), history)


@pytest.fixture
def type_line(bench: Bench, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def type_line(line: str) -> str:
        assert bench.commands.run(line), "the session must go on"
        captured = capsys.readouterr()
        return captured.out + captured.err

    return type_line


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("/nope", "Unknown command '/nope'. Type /? for help\n"),
        ("/byebye", "Unknown command '/byebye'. Type /? for help\n"),
        ("/set other", "Unknown command '/set other'. Type /? for help\n"),
        ("/set verbose", "Set 'verbose' mode.\n"),
        ("/set nowordwrap", "Set 'nowordwrap' mode.\n"),
        ("/set nothink", "Set 'nothink' mode.\n"),
        ("/set think", "Set 'think' mode.\nwarning: model \"m\" does not support thinking output\n"),
        ("/set think huge", "Invalid think level 'huge', it is one of low, medium, high, max\n"),
        ("/set format json", "Set format to 'json' mode.\n"),
        ("/set format xml", "Invalid or missing format. For 'json' mode use '/set format json'\n"),
        ("/set noformat", "Disabled format.\n"),
        ("/set parameter foo 1", "Couldn't set parameter: \"unknown parameter 'foo'\"\n"),
        ("/set parameter num_ctx x", 'Couldn\'t set parameter: "invalid int value [x]"\n'),
        ("/set parameter num_ctx 8192", "Set parameter 'num_ctx' to '8192'\n"),
        ("/set parameter stop a b", "Set parameter 'stop' to 'a, b'\n"),
        ("/set system You are   terse.", "Set system message.\n"),
        ("/set nohistory", ""),
        ("/load", "Usage:\n  /load <modelname>\n"),
        ("/save bad name", "Usage:\n  /save <modelname>\n"),
        ("/clear", "Cleared session context\n"),
        ("/? x", ""),
    ],
)
def test_line_prints(type_line: Callable[[str], str], line: str, text: str) -> None:
    assert type_line(line) == text


@pytest.mark.parametrize(
    "line", ["/?", "/help", "/? set", "/? show", "/? shortcuts", "/set", "/show", "/set parameter"]
)
def test_help_screens(type_line: Callable[[str], str], line: str) -> None:
    text = type_line(line)
    assert text.startswith("Available ")
    assert text.endswith("\n\n")


@pytest.mark.parametrize("line", ["/bye", "/exit", "/exit now"])
def test_leaving(bench: Bench, line: str) -> None:
    assert not bench.commands.run(line)


def test_settings_reach_the_request(bench: Bench, type_line: Callable[[str], str]) -> None:
    for line in ("/set parameter temperature 0", "/set think high", "/set format json", "/set nohistory"):
        type_line(line)
    fields = bench.session.options.request_fields()
    assert (fields["options"], fields["think"], fields["format"]) == ({"temperature": 0.0}, "high", "json")
    assert not bench.history.is_saving


def test_system_message_survives_clear(bench: Bench, type_line: Callable[[str], str]) -> None:
    type_line("/set system X")
    bench.session.messages.append({"role": "user", "content": "hi"})
    type_line("/clear")
    assert bench.session.messages == [{"role": "system", "content": "X"}]


def test_system_message_set_twice_replaces_the_first(bench: Bench, type_line: Callable[[str], str]) -> None:
    type_line("/set system X")
    type_line("/set system Y")
    assert bench.session.messages == [{"role": "system", "content": "Y"}]


def test_show_texts_of_a_bare_model(server: FakeServer, type_line: Callable[[str], str]) -> None:
    server.reply("POST", "/api/show", [{}])
    assert type_line("/show system") == "No system message was specified for this model.\n\n"
    assert type_line("/show license") == "No license was specified for this model.\n"
    assert type_line("/show template") == "No prompt template was specified for this model.\n"
    assert type_line("/show x") == "Unknown command '/show x'. Type /? for help\n"
    type_line("/set parameter seed 1")
    assert type_line("/show parameters") == (
        "Model defined parameters:\n  No additional parameters were specified for this model.\n\n"
        f"User defined parameters:\n  {'seed':<30} 1\n\n"
    )


def test_load_of_a_missing_model_keeps_the_old_one(
    server: FakeServer, bench: Bench, type_line: Callable[[str], str]
) -> None:
    server.reply("POST", "/api/show", [{"error": "not found"}], status=404)
    assert type_line("/load missing") == "Loading model 'missing'\nCouldn't find model 'missing'\n"
    assert bench.session.options.model == "m"


def test_load_switches_and_forgets(server: FakeServer, bench: Bench, type_line: Callable[[str], str]) -> None:
    server.reply("POST", "/api/show", [{"capabilities": ["completion", "thinking"]}])
    server.reply("POST", "/api/generate", [{"done": True, "done_reason": "load"}])
    bench.session.messages.append({"role": "user", "content": "hi"})
    type_line("/load other")
    assert (bench.session.options.model, bench.session.options.think, bench.session.messages) == ("other", True, [])


def test_save_sends_the_session(server: FakeServer, bench: Bench, type_line: Callable[[str], str]) -> None:
    server.reply("POST", "/api/create", [{"status": "success"}])
    type_line("/set system X")
    type_line("/set parameter seed 1")
    bench.session.messages.append({"role": "user", "content": "hi"})
    assert type_line("/save mine") == "Created new model 'mine'\n"
    assert server.bodies("/api/create") == [
        {
            "model": "mine",
            "stream": False,
            "from": "m",
            "system": "X",
            "parameters": {"seed": 1},
            "messages": [{"role": "user", "content": "hi"}],
        }
    ]


def test_save_on_a_server_that_can_not(server: FakeServer, type_line: Callable[[str], str]) -> None:
    server.reply("POST", "/api/create", [{"error": "404 page not found"}], status=404)
    assert type_line("/save mine") == "This server can't save models.\n"
