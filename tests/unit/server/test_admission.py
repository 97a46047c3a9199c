"""Keys, scopes and limits, over every route of the app."""

from __future__ import annotations

import pytest
from starlette.routing import Route
from tests.fakes.connection import Connection
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.errors import SettingsError
from donabe.server.keys import KeyFile
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


async def test_hostile_request_id_is_replaced():
    response = await make_server().client.get("/", headers={"x-request-id": "a b\x7f"})
    assert response.headers["x-request-id"].startswith("req_")


BODY = {"model": "C", "prompt": "hi"}


@pytest.mark.parametrize(("priority", "number"), [("low", -1), ("normal", 0), ("high", 1)])
async def test_priority_of_the_key_reaches_the_engine(tmp_path, priority, number):
    _, text = KeyFile(tmp_path / "keys.json").create("mine", priority=priority)
    server = make_server(settings=FakeSettings(home=tmp_path))
    await server.post("/api/generate", BODY, headers={"authorization": f"Bearer {text}"})
    assert server.runners.last.requests[0].scheduling.priority == number


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a socket", "a socket"),
    ],
)
async def test_callers_without_keys_take_turns_by_address_and_share_the_cache(address, place):
    server = make_server()
    await Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi"}', address=address).done
    scheduling = server.runners.last.requests[0].scheduling
    assert (scheduling.caller, scheduling.cache_salt, scheduling.priority) == (place, "", 0)


async def test_responses_without_keys_are_shared_between_addresses(tmp_path):
    server = make_server(settings=FakeSettings(home=tmp_path))
    first = (await server.post("/v1/responses", {"model": "C", "input": "hi"})).json()["id"]
    body = b'{"model":"C","input":"more","previous_response_id":"%s"}' % first.encode()
    connection = Connection(server.app, "/v1/responses", body, address="10.0.0.7")
    await connection.done
    assert connection.status == 200
