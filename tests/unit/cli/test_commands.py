from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from tests.fakes.command_line import Run
from tests.fakes.http_server import FakeServer

from donabe.cli.commands.ps import processor

DIGEST = "a80c4f17acd5" + "0" * 52


def ago(**span: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(**span)).isoformat()


def tag(name: str, size: int = 2019393189, modified_at: str | None = None) -> dict[str, object]:
    return {"name": name, "digest": DIGEST, "size": size, "modified_at": modified_at or ago(hours=5)}


def test_list_prints_the_table(server: FakeServer, donabe: Run) -> None:
    server.reply("GET", "/api/tags", [{"models": [tag("llama3.2:latest"), tag("b:1", 522653767, ago(days=20))]}])
    assert donabe("list").out == (
        "NAME               ID              SIZE      MODIFIED    \n"
        "llama3.2:latest    a80c4f17acd5    2.0 GB    5 hours ago    \n"
        "b:1                a80c4f17acd5    522 MB    2 weeks ago    \n"
    )


def test_list_prefix_ignores_case_and_ps_prefix_does_not(server: FakeServer, donabe: Run) -> None:
    server.reply("GET", "/api/tags", [{"models": [tag("llama3.2:latest"), tag("other:latest")]}])
    model = tag("llama3.2:latest") | {"expires_at": ago(hours=-1)}
    server.reply("GET", "/api/ps", [{"models": [model]}])
    assert donabe("ls", "LLAMA").out.count("\n") == 2
    assert donabe("ps", "LLAMA").out.count("\n") == 1
    assert donabe("ps", "llama").out.count("\n") == 2


def test_list_of_an_empty_store_prints_the_header(server: FakeServer, donabe: Run) -> None:
    server.reply("GET", "/api/tags", [{"models": []}])
    outcome = donabe("list")
    assert (outcome.out, outcome.code) == ("NAME    ID    SIZE    MODIFIED \n", 0)


def test_ps_shows_processor_context_and_expiry(server: FakeServer, donabe: Run) -> None:
    base = {"name": "m:latest", "digest": DIGEST, "size": 4 * 10**9, "context_length": 4096}
    entries = [
        base | {"size_vram": 3 * 10**9, "expires_at": "2318-01-01T00:00:00Z"},
        base | {"size_vram": 0, "expires_at": ago(seconds=5)},
    ]
    server.reply("GET", "/api/ps", [{"models": entries}])
    lines = donabe("ps").out.splitlines()
    assert "4 GB    25%/75% CPU/GPU    4096       Forever" in lines[1]
    assert "100% CPU" in lines[2]
    assert lines[2].endswith("Stopping...    ")


def test_ps_shows_where_layers_are(server: FakeServer, donabe: Run) -> None:
    entry = {"name": "m:latest", "digest": DIGEST, "size": 10**9, "size_vram": 10**9, "context_length": 4096}
    entry |= {"expires_at": "2318-01-01T00:00:00Z", "devices": ["RPC0[10.0.0.2:50052]", "CUDA0"]}
    entry |= {"layers": 31, "gpu_layers": 31}
    server.reply("GET", "/api/ps", [{"models": [entry]}])
    assert "100% GPU, RPC0[10.0.0.2:50052], CUDA0, 31/31 layers    4096" in donabe("ps").out


@pytest.mark.parametrize(
    ("size", "vram", "text"),
    [(4, 0, "100% CPU"), (4, 4, "100% GPU"), (4, 5, "Unknown"), (0, 0, "Unknown"), (1000, 995, "1%/99% CPU/GPU")],
)
def test_processor(size: int, vram: int, text: str) -> None:
    assert processor({"size": size, "size_vram": vram}) == text


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"size_vram": 0, "devices": ["CPU"], "layers": 31, "gpu_layers": 0}, "100% CPU"),
        ({"size_vram": 0, "devices": ["Vulkan0"], "layers": 31, "gpu_layers": 0}, "100% CPU"),  # it does nothing
        (
            {"size_vram": 75, "devices": ["CUDA0"], "layers": 31, "gpu_layers": 20},
            "25%/75% CPU/GPU, CUDA0, 20/31 layers",
        ),
        ({"size_vram": 100, "devices": ["CUDA0"]}, "100% GPU, CUDA0"),  # a server that tells no layers
    ],
)
def test_processor_names_devices_that_are_used(entry: dict[str, Any], text: str) -> None:
    assert processor({"size": 100} | entry) == text


def test_rm_unloads_deletes_and_stops_at_the_first_failure(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{}])
    server.reply("POST", "/api/generate", [{"done": True, "done_reason": "unload"}])
    server.reply("DELETE", "/api/delete", [])
    server.reply("DELETE", "/api/delete", [{"error": "model 'missing' not found"}], status=404)
    outcome = donabe("rm", "x", "missing", "y")
    assert (outcome.out, outcome.code) == ("deleted 'x'\n", 1)
    assert outcome.err == "Error: model 'missing' not found\n"
    assert [body["model"] for body in server.bodies("/api/delete")] == ["x", "missing"]
    assert server.bodies("/api/generate")[0]["keep_alive"] == "0s"


def test_rm_warns_when_the_model_can_not_be_unloaded(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{}])
    server.reply("POST", "/api/generate", [{"error": "stuck"}], status=500)
    server.reply("DELETE", "/api/delete", [])
    outcome = donabe("rm", "x")
    assert (outcome.out, outcome.err, outcome.code) == ("deleted 'x'\n", "Warning: unable to stop model 'x'\n", 0)


def test_stop_unloads_in_silence(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{}])
    server.reply("POST", "/api/generate", [{"done": True}])
    outcome = donabe("stop", "m")
    assert (outcome.out, outcome.err, outcome.code) == ("", "", 0)
    assert server.bodies("/api/generate") == [{"model": "m", "prompt": "", "stream": False, "keep_alive": "0s"}]


def test_stop_of_an_unknown_model(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/show", [{"error": "model 'm' not found"}], status=404)
    outcome = donabe("stop", "m")
    assert (outcome.err, outcome.code) == ('Error: couldn\'t find model "m" to stop\n', 1)


def test_pull_without_terminal_prints_plain_lines(server: FakeServer, donabe: Run) -> None:
    layer = {"status": "pulling abcdefabcdef", "digest": "sha256:" + "abcdef" * 10, "total": 1000}
    steps = [layer, *({**layer, "completed": n} for n in (10, 20, 500, 510, 1000))]
    events = [{"status": "pulling manifest"}, *steps, {"status": "success"}]
    server.reply("POST", "/api/pull", events)
    outcome = donabe("pull", "m", "--insecure")
    assert outcome.err.splitlines() == [
        "pulling manifest",
        "pulling abcdefabcdef:   1% 10 B/1 KB",
        "pulling abcdefabcdef:  50% 500 B/1 KB",
        "pulling abcdefabcdef: 100% 1 KB/1 KB",
        "success",
    ]
    assert server.bodies("/api/pull") == [{"model": "m", "stream": True, "insecure": True}]


@pytest.mark.parametrize(("rate", "sent"), [("5M", 5_000_000), ("512KiB", 524_288), ("1000", 1000)])
@pytest.mark.parametrize("verb", ["pull", "push"])
def test_transfer_with_a_limit(server: FakeServer, donabe: Run, verb: str, rate: str, sent: int) -> None:
    server.reply("POST", f"/api/{verb}", [{"status": "success"}])
    assert donabe(verb, "m", "--limit-rate", rate).code == 0
    assert server.bodies(f"/api/{verb}") == [{"model": "m", "stream": True, "limit_rate": sent}]


@pytest.mark.parametrize("rate", ["fast", "0", "-5", "", "5 MB/s", "9" * 400])
def test_limit_that_is_none_is_refused(server: FakeServer, donabe: Run, rate: str) -> None:
    outcome = donabe("pull", "m", "--limit-rate", rate)
    assert outcome.code != 0
    assert "--limit-rate" in outcome.err
    assert server.bodies("/api/pull") == []


def test_pull_error_inside_the_stream(server: FakeServer, donabe: Run) -> None:
    server.reply("POST", "/api/pull", [{"status": "pulling manifest"}, {"error": "no such file"}])
    outcome = donabe("pull", "missing")
    assert (outcome.out, outcome.code) == ("", 1)
    assert outcome.err == "pulling manifest\nError: no such file\n"


def test_version_of_server_and_client(server: FakeServer, donabe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("donabe.cli.version.own_version", lambda: "0.1.0")
    server.reply("GET", "/api/version", [{"version": "0.33.0", "donabe": "0.1.0"}])
    server.reply("GET", "/api/version", [{"version": "0.33.0", "donabe": "0.0.9"}])
    server.reply("GET", "/api/version", [{"version": "0.33.0"}])
    assert donabe("-v").out == "donabe version is 0.1.0\n"
    assert donabe("--version").out == "donabe version is 0.0.9\nWarning: client version is 0.1.0\n"
    assert "is not donabe" in donabe("-v").out


def test_version_without_server_is_no_error(donabe_alone: Run) -> None:
    outcome = donabe_alone("-v")
    assert outcome.code == 0
    assert outcome.out.startswith("Warning: could not connect to a running donabe instance\nWarning: client version is")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["foo"], 'unknown command "foo" for "donabe"'),
        (["lst"], 'unknown command "lst" for "donabe", did you mean list?'),
        (["list", "--bogus"], "unknown flag: --bogus"),
        (["--bogus"], "unknown flag: --bogus"),
        (["show", "m", "-z"], "unknown shorthand flag: 'z' in -z"),
        (["run"], "requires at least 1 arg(s), only received 0"),
        (["rm"], "requires at least 1 arg(s), only received 0"),
        (["show"], "accepts 1 arg(s), received 0"),
        (["stop"], "accepts 1 arg(s), received 0"),
        (["stop", "m", "--server"], "takes a MODEL or --server, not both"),
        (["stop", "--server"], "no server runs in the background; Ctrl-C ends one started with donabe serve"),
        (["stop", "a", "b"], "accepts between 0 and 1 arg(s), received 2"),
        (["serve", "x"], "accepts 0 arg(s), received 1"),
        (["list"], "could not connect to donabe server at http://127.0.0.1:1; run 'donabe serve' to start it"),
        (["serve", "--port", "x"], "setting port (flag --port) must be a whole number, 0 to 65535, not 'x'"),
        (["help", "foo"], 'unknown command "foo" for "donabe"'),
    ],
)
def test_error_is_one_line_and_exit_code_one(donabe_alone: Run, args: list[str], message: str) -> None:
    outcome = donabe_alone(*args)
    assert (outcome.err, outcome.out, outcome.code) == (f"Error: {message}\n", "", 1)


def test_bad_setting_in_the_environment(donabe_alone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DONABE_NUM_PARALLEL", "many")
    outcome = donabe_alone("list")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: setting num_parallel (environment DONABE_NUM_PARALLEL) must be")


def test_serve_hands_its_settings_to_the_server(donabe_alone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("donabe.server.main.serve", seen.append)
    outcome = donabe_alone("serve", "--port", "99", "--max-queue", "3", "--strict")
    assert (outcome.code, outcome.err) == (0, "")
    assert (seen[0].port, seen[0].max_queue, seen[0].strict) == (99, 3, True)
