"""How much one caller may do: over HTTP with settings, keys and flags, and the table behind it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from click.testing import CliRunner
from tests.fakes.connection import Connection, until
from tests.fakes.runner import USAGE
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.cli.app import root
from donabe.server.errors import TooManyRequestsError
from donabe.server.keys import KeyFile
from donabe.server.limits import GRAIN_S, WINDOW_S, CallerLimits, Limits
from donabe.settings import load_settings
from donabe.types import Delta, Failed, Finished, FinishReason

BODY = {"model": "C", "prompt": "hi"}


def endless(_request):
    while True:
        yield Delta(text="x", tokens=(1,))
        yield 0.001


async def test_limited_caller_gets_429_with_retry_after():
    server = make_server(settings=FakeSettings(requests_per_minute=1))
    assert (await server.client.get("/api/tags")).status_code == 200
    response = await server.client.get("/api/tags")
    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert (await server.client.get("/")).status_code == 200


async def test_output_tokens_count_against_the_limit():
    server = make_server(settings=FakeSettings(tokens_per_minute=3))
    body = {"model": "C", "prompt": "hi"}
    assert (await server.post("/api/generate", body)).status_code == 200
    assert (await server.post("/api/generate", body)).status_code == 429


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_tokens_of_an_abandoned_answer_count(stream):
    server = make_server(settings=FakeSettings(tokens_per_minute=3), script=endless)
    connection = Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi","stream":%s}' % stream.encode())
    await until(lambda: server.runners.runners and server.runners.last.requests)
    await asyncio.sleep(0.1)
    connection.leave()
    await connection.done
    assert (await server.post("/api/generate", BODY)).status_code == 429


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_of_a_failed_answer_count(stream):
    steps = [Delta(text="xxx", tokens=(1, 2, 3)), Failed(kind="RunnerDiedError", message="gone")]
    server = make_server(settings=FakeSettings(tokens_per_minute=3), script=lambda _: steps)
    await server.post("/api/generate", {**BODY, "stream": stream})
    assert (await server.post("/api/generate", BODY)).status_code == 429


async def test_a_running_answer_counts_before_it_ends():
    server = make_server(settings=FakeSettings(tokens_per_minute=3), script=endless)
    connection = Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi"}')
    await until(lambda: len(connection.chunks) >= 3)
    assert (await server.post("/api/generate", BODY)).status_code == 429
    connection.leave()
    await connection.done


async def test_tokens_are_not_charged_twice():
    """Three tokens in the events and in the usage: a limit of four lets one more answer in."""
    steps = [
        Delta(text="xx", tokens=(1, 2)),
        Delta(text="x", tokens=(3,)),
        Finished(reason=FinishReason.STOP, usage=USAGE),
    ]
    server = make_server(settings=FakeSettings(tokens_per_minute=4), script=lambda _: steps)
    codes = [(await server.post("/api/generate", BODY)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_answers_that_are_held_back_count_while_they_are_made(path):
    """Not streamed, or a forced tool call, which is sent when it is whole."""
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    body = {"model": "C", "messages": [{"role": "user", "content": "hi"}]}
    body |= {"tools": tools, "tool_choice": "required", "stream": True} if path.startswith("/v1") else {"stream": False}
    server = make_server(settings=FakeSettings(tokens_per_minute=3), script=endless)
    connection = Connection(server.app, path, msgspec.json.encode(body))
    await until(lambda: server.runners.runners and server.runners.last.requests)
    await asyncio.sleep(0.1)
    assert connection.chunks == []
    assert (await server.post("/api/generate", BODY)).status_code == 429
    assert server.runners.last.requests[0].output.stream_interval_s <= 1
    connection.leave()
    await connection.done


@pytest.mark.parametrize("ending", ["leaves", "ends"])
async def test_requests_at_once_are_limited_until_one_is_over(ending):
    released = asyncio.Event()

    def script(_request):
        yield Delta(text="x", tokens=(1,))
        while not released.is_set():
            yield 0.001
        yield Finished(reason=FinishReason.STOP, usage=USAGE)

    server = make_server(settings=FakeSettings(max_concurrent=1), script=script)
    connection = Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi"}')
    await until(lambda: connection.chunks)
    response = await server.post("/api/generate", BODY)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert "only 1 requests at once" in response.json()["error"]
    released.set()
    if ending == "leaves":
        connection.leave()
    await connection.done
    assert (await server.post("/api/generate", BODY)).status_code == 200


async def test_a_refused_request_frees_its_place():
    server = make_server(settings=FakeSettings(max_concurrent=1))
    for body in (b"{", b'{"model":"nope","prompt":"hi"}'):
        assert (await server.post("/api/generate", body)).status_code in (400, 404)
    assert (await server.post("/api/generate", BODY)).status_code == 200


@pytest.mark.parametrize(
    ("servers", "own", "n_allowed"),
    [
        ({"requests_per_minute": 1}, {"requests_per_minute": 3}, 3),
        ({"requests_per_minute": 3}, {"requests_per_minute": 1}, 1),
        ({"requests_per_minute": 2}, {}, 2),
        ({"tokens_per_minute": 1}, {"tokens_per_minute": 6}, 2),
    ],
)
async def test_limits_of_a_key_win_over_those_of_the_server(tmp_path, servers, own, n_allowed):
    _, text = KeyFile(tmp_path / "keys.json").create("mine", **own)
    server = make_server(settings=FakeSettings(home=tmp_path, **servers))
    headers = {"authorization": f"Bearer {text}"}
    codes = [(await server.post("/api/generate", BODY, headers=headers)).status_code for _ in range(4)]
    assert codes == [200] * n_allowed + [429] * (4 - n_allowed)


@pytest.mark.parametrize(("own", "n_allowed"), [(2, 2), (0, 1)])
async def test_a_keys_own_number_of_requests_at_once_wins(tmp_path, own, n_allowed):
    _, text = KeyFile(tmp_path / "keys.json").create("mine", max_concurrent=own)
    server = make_server(settings=FakeSettings(home=tmp_path, max_concurrent=1), script=endless)
    headers = {"authorization": f"Bearer {text}"}
    running = [
        Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi"}', headers=headers)
        for _ in range(n_allowed)
    ]
    await until(lambda: all(connection.chunks for connection in running))
    assert (await server.post("/api/generate", BODY, headers=headers)).status_code == 429
    for connection in running:
        connection.leave()
        await connection.done


def key_command(home, *args: str) -> str:
    return CliRunner(env={"DONABE_HOME": str(home)}).invoke(root, ["key", *args], catch_exceptions=False).stdout


async def test_limits_given_to_the_key_command_hold(tmp_path):
    flags = ("--requests-per-minute", "2", "--tokens-per-minute", "9", "--max-concurrent", "4", "--priority", "high")
    text = key_command(tmp_path, "create", "laptop", *flags).strip()
    server = make_server(settings=FakeSettings(home=tmp_path))
    headers = {"authorization": f"Bearer {text}"}
    codes = [(await server.post("/api/generate", BODY, headers=headers)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert server.runners.last.requests[0].scheduling.priority == 1
    shown = key_command(tmp_path, "list")
    assert shown.rstrip().endswith("2 requests/min, 9 tokens/min, 4 at once, high priority")


def test_a_key_without_limits_is_listed_without(tmp_path):
    key_command(tmp_path, "create", "plain")
    assert key_command(tmp_path, "list").split()[-1] == KeyFile(tmp_path / "keys.json").load()[0].id


@pytest.mark.parametrize(
    ("flag", "n_allowed"), [("requests_per_minute", 1), ("tokens_per_minute", 1), ("max_concurrent", 2)]
)
async def test_limits_of_the_settings_hold(tmp_path, flag, n_allowed):
    """`max_concurrent` lets both in: they come one after the other."""
    settings = load_settings({flag: "1"}, environ={"DONABE_HOME": str(tmp_path)})
    server = make_server(settings=settings)
    codes = [(await server.post("/api/generate", BODY)).status_code for _ in range(2)]
    assert codes == [200] * n_allowed + [429] * (2 - n_allowed)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_limits_slide_with_the_minute():
    clock = Clock()
    callers = CallerLimits(clock=clock)
    limits = Limits(requests_per_minute=2)
    for _ in range(2):
        callers.begin("a", limits)
        clock.now += 10
    with pytest.raises(TooManyRequestsError) as caught:
        callers.begin("a", limits)
    assert caught.value.retry_after_s == WINDOW_S - 20
    callers.begin("b", limits)
    clock.now = WINDOW_S
    callers.begin("a", limits)


def test_tokens_and_concurrency_are_limited():
    callers = CallerLimits(clock=Clock())
    callers.charge("a", 100)
    with pytest.raises(TooManyRequestsError, match="100 output tokens"):
        callers.begin("a", Limits(tokens_per_minute=100))
    callers.begin("b", Limits(max_concurrent=1))
    with pytest.raises(TooManyRequestsError, match="at once"):
        callers.begin("b", Limits(max_concurrent=1))
    callers.end("b")
    callers.begin("b", Limits(max_concurrent=1))


def test_a_full_table_forgets_the_caller_that_was_quiet_longest():
    clock = Clock()
    callers, limits = CallerLimits(clock=clock, max_callers=3), Limits(requests_per_minute=1)
    for name in ("a", "b", "c"):
        callers.begin(name, limits)
        callers.end(name)
        clock.now += 1
    callers.begin("d", limits)  # forgets a, who may call again; the others may not
    for name in ("b", "c"):
        with pytest.raises(TooManyRequestsError):
            callers.begin(name, limits)
    assert len(callers) == 3


def test_a_full_table_forgets_all_that_did_nothing_for_a_minute():
    clock = Clock()
    callers = CallerLimits(clock=clock, max_callers=3)
    for name in ("a", "b"):
        callers.begin(name, Limits())
        callers.end(name)
    clock.now = WINDOW_S
    callers.begin("c", Limits())
    callers.begin("d", Limits())
    assert len(callers) == 2


@pytest.mark.parametrize("others", [Limits(), Limits(requests_per_minute=9)])
def test_a_full_table_keeps_the_caller_whose_tokens_count(others):
    clock = Clock()
    callers, limits = CallerLimits(clock=clock, max_callers=3), Limits(requests_per_minute=9, tokens_per_minute=10)
    callers.begin("spent", limits)
    callers.charge("spent", 10)
    callers.end("spent")
    for name in ("a", "b", "c", "d"):
        clock.now += 1
        callers.begin(name, others)
        callers.end(name)
    with pytest.raises(TooManyRequestsError, match="10 output tokens"):
        callers.begin("spent", limits)
    assert len(callers) == 3


def test_a_full_table_keeps_the_caller_whose_requests_count():
    clock = Clock()
    callers, limits = CallerLimits(clock=clock, max_callers=2), Limits(requests_per_minute=1)
    for name, own in (("spent", limits), ("a", Limits()), ("b", Limits())):
        callers.begin(name, own)
        callers.end(name)
        clock.now += 1
    with pytest.raises(TooManyRequestsError, match="1 requests per minute"):
        callers.begin("spent", limits)


def test_a_full_table_forgets_among_callers_whose_tokens_count_the_one_that_was_quiet_longest():
    clock = Clock()
    callers, limits = CallerLimits(clock=clock, max_callers=2), Limits(tokens_per_minute=10)
    for name in ("a", "b"):
        callers.begin(name, limits)
        callers.charge(name, 10)
        callers.end(name)
        clock.now += 1
    callers.begin("c", limits)
    with pytest.raises(TooManyRequestsError):
        callers.begin("b", limits)


@pytest.mark.parametrize("limits", [Limits(tokens_per_minute=10), Limits(requests_per_minute=1)])
def test_what_was_more_than_a_minute_ago_keeps_nobody_in_a_full_table(limits):
    clock = Clock()
    callers = CallerLimits(clock=clock, max_callers=2)

    def use_up(name: str) -> None:
        callers.begin(name, limits)
        if limits.tokens_per_minute:
            callers.charge(name, 10)
        callers.end(name)

    use_up("a")
    clock.now = WINDOW_S - 1
    use_up("b")
    with pytest.raises(TooManyRequestsError):
        use_up("a")  # is seen last
    clock.now = WINDOW_S + 1
    use_up("c")  # forgets a
    with pytest.raises(TooManyRequestsError):
        use_up("b")


def test_running_callers_are_never_forgotten():
    callers, limits = CallerLimits(clock=Clock(), max_callers=2), Limits(max_concurrent=1)
    callers.begin("a", limits)
    callers.begin("b", limits)
    with pytest.raises(TooManyRequestsError, match="too many callers"):
        callers.begin("c", limits)
    callers.end("b")
    callers.begin("c", limits)
    with pytest.raises(TooManyRequestsError, match="at once"):
        callers.begin("a", limits)


def test_tokens_that_come_together_are_one_entry_and_end_with_the_minute():
    clock = Clock()
    callers, limits = CallerLimits(clock=clock), Limits(tokens_per_minute=100)
    for _ in range(100):
        callers.charge("a", 1)
        clock.now += GRAIN_S / 50
    with pytest.raises(TooManyRequestsError) as caught:
        callers.begin("a", limits)
    assert caught.value.retry_after_s == pytest.approx(WINDOW_S - clock.now)
    clock.now = WINDOW_S
    callers.begin("a", limits)
