from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.command_line import Run
from tests.fakes.http_server import FakeServer

DONE = {"response": "", "done": True, "done_reason": "stop"}


def script(server: FakeServer, *events: dict[str, Any], capabilities: tuple[str, ...] = ("completion",)) -> None:
    server.reply("POST", "/api/show", [{"capabilities": list(capabilities)}])
    server.reply("POST", "/api/generate", [*events, DONE])


def sent(server: FakeServer) -> Any:
    return server.bodies("/api/generate")[-1]


def test_prompt_prints_the_answer(server: FakeServer, donabe: Run) -> None:
    script(server, {"response": "Hel"}, {"response": "lo"})
    outcome = donabe("run", "m", "say", "hi")
    assert (outcome.out, outcome.err, outcome.code) == ("Hello\n\n", "", 0)
    assert sent(server) == {"model": "m", "prompt": "say hi", "stream": True, "options": {}}


def test_stdin_comes_before_the_arguments(server: FakeServer, donabe: Run) -> None:
    script(server)
    donabe("run", "m", "and", "arg", stdin="from stdin\n")
    assert sent(server)["prompt"] == "from stdin\n and arg"


def test_empty_prompt_only_loads(server: FakeServer, donabe: Run) -> None:
    script(server)
    assert donabe("run", "m").out == ""
    assert sent(server) == {"model": "m", "prompt": "", "stream": False, "options": {}}


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (["--format", "json"], {"format": "json"}),
        (["--format", '{"type":"object"}'], {"format": {"type": "object"}}),
        (["--keepalive", "10m"], {"keep_alive": "10m0s"}),
        (["--think=false"], {"think": False}),
        (["--think=low"], {"think": "low"}),
        (["--think"], {"think": True}),
    ],
)
def test_flags_become_request_fields(server: FakeServer, donabe: Run, flags: list[str], fields: dict[str, Any]) -> None:
    script(server)
    donabe("run", "m", *flags, "hi")
    assert sent(server) == {"model": "m", "prompt": "hi", "stream": True, "options": {}} | fields


def test_word_after_think_belongs_to_the_prompt(server: FakeServer, donabe: Run) -> None:
    script(server)
    donabe("run", "m", "--think", "low", "hi")
    assert (sent(server)["prompt"], sent(server)["think"]) == ("low hi", True)


def test_thinking_model_thinks_by_default(server: FakeServer, donabe: Run) -> None:
    script(server, {"thinking": "hm"}, {"response": "42"}, capabilities=("completion", "thinking"))
    assert donabe("run", "m", "hi").out == "Thinking...\nhm\n...done thinking.\n\n42\n\n"
    assert sent(server)["think"] is True


def test_hidden_thinking_is_not_printed(server: FakeServer, donabe: Run) -> None:
    script(server, {"thinking": "hm"}, {"response": "42"}, capabilities=("completion", "thinking"))
    assert donabe("run", "m", "--hidethinking", "hi").out == "42\n\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--think=bogus"], 'invalid value for --think: "bogus" (must be true, false, high, medium, low, or max)'),
        (["--keepalive", "5"], 'time: missing unit in duration "5", --keepalive takes a duration such as 10m'),
        (["--format", "xml"], '--format must be "json" or a JSON schema: Expecting value'),
        (["--format", "[1]"], '--format must be "json" or a JSON schema object, not [1]'),
        (["--dimensions", "0"], "Invalid value for '--dimensions'"),
    ],
)
def test_bad_flag_is_refused_before_any_request(
    server: FakeServer, donabe: Run, flags: list[str], message: str
) -> None:
    outcome = donabe("run", "m", *flags, "hi")
    assert outcome.code == 1
    assert outcome.err.startswith(f"Error: {message}")
    assert server.calls == []


def test_verbose_prints_timings(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"capabilities": ["completion"]}])
    timings = {"total_duration": 4648158584, "load_duration": 4071084, "prompt_eval_count": 26}
    timings |= {"prompt_eval_duration": 325953000, "eval_count": 290, "eval_duration": 4709213000}
    server.reply("POST", "/api/generate", [DONE | timings])
    assert donabe("run", "m", "--verbose", "hi").err == (
        "total duration:       4.648158584s\n"
        "load duration:        4.071084ms\n"
        "prompt eval count:    26 token(s)\n"
        "prompt eval duration: 325.953ms\n"
        "prompt eval rate:     79.77 tokens/s\n"
        "eval count:           290 token(s)\n"
        "eval duration:        4.709213s\n"
        "eval rate:            61.58 tokens/s\n"
    )


def test_what_the_server_cut_is_said(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"capabilities": ["completion"]}])
    server.reply("POST", "/api/generate", [DONE | {"truncated": {"tokens": 12, "messages": 0}, "warnings": ["odd"]}])
    assert donabe("run", "m", "hi").err == (
        "Warning: the prompt was longer than the context: 12 tokens were left out\nWarning: odd\n"
    )


def test_error_inside_the_stream_keeps_the_text(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"capabilities": ["completion"]}])
    server.reply("POST", "/api/generate", [{"response": "partial"}, {"error": "boom"}])
    outcome = donabe("run", "m", "hi")
    assert (outcome.out, outcome.err, outcome.code) == ("partial\n", "Error: boom\n", 1)


def test_missing_model_is_pulled_first(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"error": "not found"}], status=404)
    server.reply("POST", "/api/pull", [{"status": "success"}])
    script(server, {"response": "hi"})
    outcome = donabe("run", "m", "hi")
    assert (outcome.out, outcome.err, outcome.code) == ("hi\n\n", "success\n", 0)


def test_model_that_exists_nowhere(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"error": "not found"}], status=404)
    server.reply("POST", "/api/pull", [{"error": "pull model manifest: file does not exist"}])
    outcome = donabe("run", "missing", "hi")
    assert (outcome.err, outcome.code) == ("Error: pull model manifest: file does not exist\n", 1)


def test_tool_call_is_shown(server: FakeServer, donabe: Run) -> None:
    call = {"function": {"name": "get_w", "arguments": {"city": "SF"}}}
    script(server, {"response": "", "tool_calls": [call]})
    text = '  Model called a non-existent function \'get_w()\' with arguments: {"city":"SF"}'
    assert donabe("run", "m", "hi").out == text + "\n\n"


def test_embedding_model_prints_floats(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"capabilities": ["embedding"]}])
    server.reply("POST", "/api/embed", [{"embeddings": [[0.5, -1.0]]}])
    assert donabe("run", "emb", "x", "--dimensions", "2").out == "[0.5,-1.0]\n"
    assert server.bodies("/api/embed") == [{"model": "emb", "input": "x", "dimensions": 2}]


def test_embedding_model_needs_text(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"capabilities": ["embedding"]}])
    outcome = donabe("run", "emb")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: embedding models require input text; use: donabe run emb")


def test_image_path_is_attached(server: FakeServer, donabe: Run, tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"\x89PNG\r\n\x1a\n....")
    script(server, capabilities=("completion", "vision"))
    outcome = donabe("run", "vis", f"what is {tmp_path}/a b.png ?")
    assert outcome.err == f"Added image '{tmp_path}/a b.png'\n"
    assert sent(server)["prompt"] == "what is  ?"
    assert len(sent(server)["images"]) == 1


def test_text_model_gets_paths_as_text(server: FakeServer, donabe: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n....")
    script(server)
    donabe("run", "m", f"what is {tmp_path}/a.png")
    assert sent(server)["prompt"] == f"what is {tmp_path}/a.png"
