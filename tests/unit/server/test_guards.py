"""Who may talk to the server: origins, hosts, preflights, on known and unknown paths."""

from __future__ import annotations

import pytest
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.errors import SettingsError
from donabe.server.guards import HostRules, OriginRules, is_loopback

URL = "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://0.0.0.0:1", 200),
        ("app://foo", 200),
        ("vscode-webview://x", 200),
        ("https://evil.com", 403),
        ("http://localhost.evil.com", 403),
        ("http://localhost:80.evil.com", 200),  # a port can't hold a dot in a browser; the pattern allows it
        ("http://LOCALHOST", 403),
        ("null", 403),
        ("chrome-extension://abc", 403),
    ],
)
async def test_origins(origin, status):
    server = make_server()
    response = await server.client.get("/api/version", headers={"origin": origin})
    assert response.status_code == status
    if status == 200:
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["vary"] == "Origin"
    else:
        assert response.content == b""


async def test_own_origin_gets_no_cors_headers():
    response = await make_server().client.get("/api/version", headers={"origin": URL})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/api/chat", "/nope"])
async def test_preflight(path):
    headers = {"origin": "http://localhost:3000"}
    response = await make_server().client.options(path, headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-max-age"] == "43200"
    assert response.headers["access-control-allow-methods"] == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert response.headers.get_list("vary") == [
        "Origin",
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
    ]


async def test_preflight_of_a_stranger_is_refused():
    response = await make_server().client.options("/api/chat", headers={"origin": "https://evil.com"})
    assert response.status_code == 403


async def test_star_allows_every_origin():
    server = make_server(settings=FakeSettings(origins=("*",)))
    response = await server.client.get("/api/version", headers={"origin": "https://evil.com"})
    assert response.headers["access-control-allow-origin"] == "*"


async def test_configured_origin_is_allowed():
    server = make_server(settings=FakeSettings(origins=("https://chat.example.com", "chrome-extension://*")))
    for origin, status in [
        ("https://chat.example.com", 200),
        ("chrome-extension://abc", 200),
        ("https://chat.example.com.evil.com", 403),
    ]:
        assert (await server.client.get("/api/version", headers={"origin": origin})).status_code == status


@pytest.mark.parametrize("entry", ["example.com", "http://*.*"])
def test_bad_origin_settings_stop_the_start(entry):
    with pytest.raises(SettingsError, match="bad origin"):
        OriginRules.parse([entry])


HOSTS = [
    # host header, allowed when bound to loopback, allowed when bound openly
    ("localhost:11434", True, True),
    ("LOCALHOST", True, True),
    ("127.0.0.1:11434", True, True),
    ("[::1]:11434", True, True),
    ("192.168.1.5", True, True),
    ("0.0.0.0:80", True, True),
    ("foo.local", True, True),
    ("x.internal:80", True, True),
    ("donabe:11434", False, True),
    ("evil.com", False, False),
    ("evil.com:11434", False, False),
    ("127.0.0.1.nip.io", False, False),
    ("localhost.evil.com", False, False),
    ("8.8.8.8", False, False),
    ("[2001:4860:4860::8888]", False, False),
]


@pytest.mark.parametrize(("host", "on_loopback", "openly"), HOSTS)
def test_hosts(host, on_loopback, openly):
    assert HostRules("127.0.0.1").allows(host) is on_loopback
    assert HostRules("0.0.0.0").allows(host) is openly


def test_host_of_a_configured_origin_is_allowed():
    names = OriginRules.parse(["https://chat.example.com"]).hosts()
    assert HostRules("0.0.0.0", names).allows("chat.example.com:443")


async def test_rebound_host_is_refused_with_an_empty_body():
    server = make_server(host="evil.com:11434")
    response = await server.client.get("/api/tags")
    assert (response.status_code, response.content) == (403, b"")


async def test_cross_site_post_without_origin_is_refused():
    headers = {"sec-fetch-site": "cross-site", "content-type": "text/plain"}
    response = await make_server().post("/api/pull", {"model": "tiny"}, headers=headers)
    assert response.status_code == 403


@pytest.mark.parametrize(("host", "status"), [("localhost", 204), ("127.0.0.1", 405)])
async def test_options_without_origin(host, status):
    server = make_server(host=f"{host}:11434")
    assert (await server.client.options("/api/chat")).status_code == status


async def test_too_large_bodies_are_refused():
    server = make_server(settings=FakeSettings(max_body_bytes=100))
    response = await server.post("/api/generate", {"model": "C", "prompt": "x" * 200})
    assert response.status_code == 413
    assert "larger than 100 bytes" in response.json()["error"]


async def test_too_large_chunked_bodies_are_refused():
    async def chunks():
        for _ in range(50):
            yield b" " * 10

    server = make_server(settings=FakeSettings(max_body_bytes=100))
    assert (await server.client.post("/api/generate", content=chunks())).status_code == 413


async def test_strict_servers_refuse_unknown_fields():
    server = make_server(settings=FakeSettings(strict=True))
    response = await server.post("/api/generate", {"model": "C", "prompt": "x", "bogus": 1})
    assert (response.status_code, response.json()["error"]) == (400, "unknown field bogus")


@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("", False)])
def test_is_loopback(host, is_local):
    assert is_loopback(host) is is_local
