"""Every route x address listened on x Host x Origin x key: who gets in. A new route without a row here fails."""

from __future__ import annotations

import itertools
import socket

import httpx
import pytest
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.server.keys import KeyFile

# What a caller's key must allow, for every method and path; "open" asks for none.
SCOPES = {
    "GET /": "open",
    "HEAD /": "open",
    "GET /api/version": "open",
    "HEAD /api/version": "open",
    "GET /api/status": "open",
    "GET /health": "open",
    "GET /openapi.json": "open",
    "GET /api/tags": "inference",
    "HEAD /api/tags": "inference",
    "GET /api/ps": "inference",
    "POST /api/show": "inference",
    "POST /api/generate": "inference",
    "POST /api/chat": "inference",
    "POST /api/embed": "inference",
    "POST /api/embeddings": "inference",
    "POST /api/tokenize": "inference",
    "POST /api/detokenize": "inference",
    "POST /api/rerank": "inference",
    "POST /api/me": "inference",
    "POST /api/signout": "inference",
    "DELETE /api/user/keys/{key}": "inference",
    "POST /api/experimental/web_search": "inference",
    "POST /api/experimental/web_fetch": "inference",
    "GET /api/experimental/model-recommendations": "inference",
    "POST /v1/chat/completions": "inference",
    "POST /v1/completions": "inference",
    "POST /v1/embeddings": "inference",
    "POST /v1/audio/transcriptions": "inference",
    "GET /v1/models": "inference",
    "GET /v1/models/{model:path}": "inference",
    "POST /v1/responses": "inference",
    "POST /v1/responses/input_tokens": "inference",
    "POST /v1/responses/{id}/cancel": "inference",
    "GET /v1/responses/{id}": "inference",
    "DELETE /v1/responses/{id}": "inference",
    "GET /v1/responses/{id}/input_items": "inference",
    "POST /v1/messages": "inference",
    "POST /v1/messages/count_tokens": "inference",
    "POST /v1/rerank": "inference",
    "POST /rerank": "inference",
    "POST /reranking": "inference",
    "POST /infill": "inference",
    "POST /tokenize": "inference",
    "POST /embedding": "inference",
    "POST /embeddings": "inference",
    "POST /classify": "inference",
    "POST /detokenize": "inference",
    "POST /apply-template": "inference",
    "GET /props": "inference",
    "POST /api/pull": "manage",
    "POST /api/push": "manage",
    "POST /api/create": "manage",
    "POST /api/copy": "manage",
    "DELETE /api/delete": "manage",
    "HEAD /api/blobs/{digest}": "manage",
    "POST /api/blobs/{digest}": "manage",
    "GET /metrics": "admin",
}
ALLOWING = {
    "open": {"none", "wrong", "inference", "manage", "admin"},
    "inference": {"inference", "manage", "admin"},
    "manage": {"manage", "admin"},
    "admin": {"admin"},
}
# Host header -> whether a server on the loopback interface, and one on all interfaces, takes it.
HOSTS = {
    "127.0.0.1:11434": (True, True),
    "localhost": (True, True),
    "192.168.7.7:11434": (True, True),
    socket.gethostname(): (True, True),
    "a.localhost:80": (True, True),
    "x.local": (True, False),
    "x.internal:80": (True, False),
    "donabe": (False, False),
    "": (False, False),
    "named.example.com": (True, True),  # a configured origin's
    "rebound.example.com:11434": (False, False),
    "8.8.8.8": (False, True),
}
NAMELESS = {""}  # what keys don't make up for
ORIGINS = {
    None: True,
    "http://localhost:3000": True,
    "vscode-webview://x": True,
    "https://named.example.com:444": True,
    "https://evil.example.com": False,
    "http://localhost.evil.example.com": False,
    "null": False,
}
# The whole product of key, Host and Origin is asked of these: of each scope one that reads, one that changes something.
WHOLE = {
    "GET /api/version",
    "GET /api/tags",
    "POST /api/chat",
    "HEAD /api/blobs/{digest}",
    "POST /api/pull",
    "DELETE /api/delete",
    "GET /metrics",
}
FORMS = ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
PAGES = (
    {"origin": "https://evil.example.com"},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
)
BINDS = {"127.0.0.1": 0, "0.0.0.0": 1}


def outcome(response: httpx.Response) -> str:
    """Which guard turned the request away, or that none did."""
    if response.status_code == 403 and (response.headers.get("content-length") == "0" or "Host" in response.text):
        return "page or host"
    if response.status_code == 401 and "www-authenticate" in response.headers:
        return "key"
    if response.status_code == 403 and ("scope is" in response.text or response.request.method == "HEAD"):
        return "scope"
    return "in"


def expected(route: str, bind: str, host: str, origin: str | None, key: str, *, with_keys: bool) -> str:
    is_named = HOSTS[host][BINDS[bind]] or (with_keys and host not in NAMELESS)  # a rebound page has no key
    if not ORIGINS[origin] or not is_named:
        return "page or host"
    if not with_keys or key in ALLOWING[SCOPES[route]]:
        return "in"
    return "key" if key in ("none", "wrong") else "scope"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """By (bind, with keys): a server, and the texts of its keys."""
    found = {}
    for bind, with_keys in itertools.product(BINDS, (False, True)):
        home = tmp_path_factory.mktemp("home")
        keys = {"none": "", "wrong": "dnb_wrong"}
        for scope in ("inference", "manage", "admin"):
            keys[scope] = KeyFile(home / "keys.json").create(scope, scope=scope)[1] if with_keys else "dnb_other"
        settings = FakeSettings(home=home, host=bind, origins=("https://named.example.com:444",), insecure_no_auth=True)
        found[bind, with_keys] = (make_server(settings=settings), keys)
    return found


@pytest.fixture(scope="module")
def every_origin():
    return make_server(settings=FakeSettings(origins=("*",)))


def test_every_route_has_a_row():
    routes = {f"{m} {route.path}" for route in make_server().app.router.routes for m in route.methods}
    assert routes == set(SCOPES)


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("bind", BINDS)
@pytest.mark.parametrize("route", SCOPES)
async def test_who_gets_in(servers, route, bind, with_keys):
    server, keys = servers[bind, with_keys]
    method, path = route.split(" ")
    url = path.replace("{", "").replace("}", "").replace(":path", "")
    if route in WHOLE:
        combinations = list(itertools.product(HOSTS, ORIGINS, keys))
    else:  # pairs of the axes that do not depend on each other
        combinations = [
            *itertools.product(HOSTS, ORIGINS, ["admin"]),
            *itertools.product(["127.0.0.1:11434", "8.8.8.8", "rebound.example.com:11434"], [None, "null"], keys),
        ]
    for host, origin, key in combinations:
        headers = {"host": host}
        if origin is not None:
            headers["origin"] = origin
        if keys[key]:
            headers["authorization"] = f"Bearer {keys[key]}"
        response = await server.client.request(method, url, headers=headers)
        wanted = expected(route, bind, host, origin, key, with_keys=with_keys)
        assert outcome(response) == wanted, (host, origin, key, response.status_code, response.text)
        if wanted == "in" and origin is not None:
            assert response.headers["access-control-allow-origin"] == origin
        elif wanted == "page or host" and not ORIGINS[origin]:
            assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", [route.split(" ")[1] for route in SCOPES if route.startswith("POST")])
async def test_a_page_elsewhere_can_not_post_without_being_asked(servers, path):
    """A form or an image of another site: simple requests, for which a browser asks nobody first."""
    server, _ = servers["127.0.0.1", False]
    for kind, page in itertools.product(FORMS, PAGES):
        headers = {**page, "content-type": kind}
        assert (await server.client.post(path, content=b"{}", headers=headers)).status_code == 403, headers
    preflight = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
    assert (await server.client.options(path, headers=preflight)).status_code == 403


@pytest.mark.parametrize("path", [route.split(" ")[1] for route in SCOPES if route.startswith("POST")])
async def test_every_origin_allowed_is_not_every_form(every_origin, path):
    for kind, page in itertools.product(FORMS, PAGES):
        headers = {**page, "content-type": kind}
        assert (await every_origin.client.post(path, content=b"{}", headers=headers)).status_code == 403, headers
    answer = await every_origin.client.post(path, content=b"{}", headers={"content-type": FORMS[1]})  # as curl does
    assert answer.status_code != 403 or "cloud" in answer.text


async def test_revoking_the_last_key_opens_nothing(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    file.create("only")
    server = make_server(settings=FakeSettings(home=tmp_path, host="0.0.0.0"))
    assert (await server.client.get("/api/tags")).status_code == 401
    file.revoke("only")
    assert (await server.client.get("/api/tags")).status_code == 401
    (tmp_path / "keys.json").unlink()
    assert (await server.client.get("/api/tags")).status_code == 401


async def test_first_key_closes_a_running_server(tmp_path):
    server = make_server(settings=FakeSettings(home=tmp_path))
    assert (await server.client.get("/api/tags")).status_code == 200
    KeyFile(tmp_path / "keys.json").create("first")
    assert (await server.client.get("/api/tags")).status_code == 401
