"""Keys, scopes and limits, over every route of the app."""

from __future__ import annotations

import stat

import pytest
from starlette.routing import Route
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.errors import InvalidRequestError, SettingsError
from donabe.server.errors import TooManyRequestsError
from donabe.server.keys import KeyFile, KeyRing
from donabe.server.limits import WINDOW_S, CallerLimits, Limits
from donabe.server.main import refuse_open_door

OPEN_PATHS = {"/", "/api/version", "/api/status", "/health", "/openapi.json"}
MANAGING_PATHS = {"/api/pull", "/api/delete", "/api/copy", "/api/push", "/api/create", "/api/blobs/{digest}"}
ADMIN_PATHS = {"/metrics"}


def routes():
    for route in make_server().app.router.routes:
        assert isinstance(route, Route)
        for method in sorted(route.methods):
            yield method, route.path


@pytest.fixture
def keys(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    return {scope: file.create(scope, scope=scope)[1] for scope in ("inference", "manage", "admin")}


@pytest.mark.parametrize(("method", "path"), list(routes()))
async def test_every_route_asks_for_the_right_key(tmp_path, keys, method, path):
    server = make_server(settings=FakeSettings(home=tmp_path))
    url = path.replace("{", "").replace("}", "")

    async def status(headers) -> int:
        return (await server.client.request(method, url, headers=headers)).status_code

    needed = (
        ()
        if path in OPEN_PATHS
        else ("admin",)
        if path in ADMIN_PATHS
        else ("admin", "manage")
        if path in MANAGING_PATHS
        else ("admin", "manage", "inference")
    )
    assert (await status({}) == 401) is bool(needed)
    assert (await status({"authorization": "Bearer dnb_wrong"}) == 401) is bool(needed)
    for scope, key in keys.items():
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert (await status(headers) == 403) is (bool(needed) and scope not in needed)


async def test_refusal_has_the_shape_of_the_dialect(tmp_path):
    server = make_server(settings=FakeSettings(api_keys=("secret",)))
    response = await server.post("/api/generate", {"model": "C", "prompt": "hi"})
    assert response.status_code == 401
    assert response.json()["error"] == "an API key is required"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_key_of_the_settings_opens_everything():
    server = make_server(settings=FakeSettings(api_keys=("secret",)))
    headers = {"authorization": "Bearer secret"}
    assert (await server.post("/api/generate", {"model": "C"}, headers=headers)).status_code == 200
    assert (await server.post("/api/pull", {"model": "tiny"}, headers=headers)).status_code == 200


async def test_key_is_the_fairness_group_and_the_cache_salt():
    server = make_server(settings=FakeSettings(api_keys=("one", "two")))
    for key in ("one", "two"):
        body = {"model": "C", "prompt": "hi"}
        headers = {"authorization": f"Bearer {key}", "x-request-id": f"id-{key}"}
        response = await server.post("/api/generate", body, headers=headers)
        assert response.headers["x-request-id"] == f"id-{key}"
    first, second = (request.scheduling for request in server.runners.last.requests)
    assert first.cache_salt
    assert first.cache_salt != second.cache_salt
    assert first.caller == first.cache_salt
    assert first.request_id == "id-one"


async def test_without_keys_everybody_shares_the_cache():
    server = make_server()
    await server.post("/api/generate", {"model": "C", "prompt": "hi"})
    assert server.runners.last.requests[0].scheduling.cache_salt == ""


async def test_revoked_key_ends_at_once(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    file.create("other")
    _, text = file.create("mine")
    server = make_server(settings=FakeSettings(home=tmp_path))
    headers = {"authorization": f"Bearer {text}"}
    assert (await server.client.get("/api/tags", headers=headers)).status_code == 200
    file.revoke("mine")
    assert (await server.client.get("/api/tags", headers=headers)).status_code == 401


def test_file_holds_no_key_and_is_private(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    key, text = file.create("mine", requests_per_minute=5)
    assert text not in (tmp_path / "keys.json").read_text()
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert KeyRing((), file).find(text) == key
    with pytest.raises(InvalidRequestError, match="already"):
        file.create("mine")
    with pytest.raises(InvalidRequestError, match="no key"):
        file.revoke("nobody")


def test_damaged_key_file_lets_nobody_in(tmp_path):
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        KeyRing((), KeyFile(tmp_path / "keys.json")).find("x")


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": ""}, True),
        ({"host": "192.168.1.2"}, True),
        ({"host": "0.0.0.0", "insecure_no_auth": True}, False),
        ({"host": "0.0.0.0", "api_keys": ("k",)}, False),
        ({"host": "0.0.0.0", "api_keys": ("k",), "require_api_key": False}, True),
    ],
)
def test_listening_openly_needs_keys(changes, is_refused):
    if is_refused:
        with pytest.raises(SettingsError, match="without API keys"):
            refuse_open_door(FakeSettings(**changes))
    else:
        refuse_open_door(FakeSettings(**changes))


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


async def test_limited_caller_gets_429_with_retry_after():
    server = make_server(settings=FakeSettings(requests_per_minute=1))
    assert (await server.client.get("/api/tags")).status_code == 200
    response = await server.client.get("/api/tags")
    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert (await server.client.get("/")).status_code == 200


async def test_hostile_request_id_is_replaced():
    response = await make_server().client.get("/", headers={"x-request-id": "a b\x7f"})
    assert response.headers["x-request-id"].startswith("req_")


async def test_output_tokens_count_against_the_limit():
    server = make_server(settings=FakeSettings(tokens_per_minute=3))
    body = {"model": "C", "prompt": "hi"}
    assert (await server.post("/api/generate", body)).status_code == 200
    assert (await server.post("/api/generate", body)).status_code == 429
