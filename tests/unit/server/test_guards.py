"""Who may talk to the server: origins, hosts, preflights, on known and unknown paths."""

from __future__ import annotations

import socket

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
    ("a.localhost", True, True),
    (f"{socket.gethostname()}:11434", True, True),
    (f"{socket.gethostname().partition('.')[0]}.local:11434", True, True),
    ("foo.local", True, False),
    ("x.internal:80", True, False),
    ("donabe:11434", False, False),
    ("", False, False),
    (":11434", False, False),
    (".", False, False),
    ("[::1].evil.com", False, False),
    ("[::1]evil.com", False, False),
    ("[::ffff:127.0.0.1]", True, True),
    ("[::ffff:808:808]", False, True),
    ("100.64.1.2:11434", True, True),  # of a carrier or a private overlay network
    ("169.254.1.2", True, True),
    ("localhost.", True, True),
    ("LOCALHOST.:11434", True, True),
    ("127.0.0.1.", True, True),
    ("x.internal.:80", True, False),
    ("localhost..", False, False),
    ("evil.com.", False, False),
    ("localhost@evil.com", False, False),
    ("evil.com#.local", True, False),  # no browser sends it; the suffix is what counts
    ("evil.internal.com", False, False),
    ("evil.com", False, False),
    ("evil.com:11434", False, False),
    ("127.0.0.1.nip.io", False, False),
    ("localhost.evil.com", False, False),
    ("8.8.8.8", False, True),
    ("[2001:4860:4860::8888]", False, True),
]


@pytest.mark.parametrize(("host", "on_loopback", "openly"), HOSTS)
def test_hosts(host, on_loopback, openly):
    assert HostRules("127.0.0.1").allows(host) is on_loopback
    assert HostRules("0.0.0.0").allows(host) is openly


def test_host_of_a_configured_origin_is_allowed():
    names = OriginRules.parse(["https://chat.example.com"]).hosts()
    assert HostRules("0.0.0.0", names).allows("chat.example.com:443")
    assert HostRules("127.0.0.1", OriginRules.parse(["http://8.8.8.8"]).hosts()).allows("8.8.8.8:11434")


@pytest.mark.parametrize("bound_to", ["192.168.7.7", "mybox.example.com"])
def test_interface_listened_on_is_allowed(bound_to):
    assert HostRules(bound_to).allows(f"{bound_to}:11434")
    assert not HostRules("").allows("mybox.example.com")


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        ([b"localhost"], "1.1", 200),
        ([], "1.1", 403),
        ([b""], "1.1", 403),
        ([b" "], "1.1", 403),
        ([b"evil.com", b"localhost"], "1.1", 403),
        ([b"localhost", b"localhost"], "1.1", 403),
        ([], "1.0", 200),
        ([b"evil.com"], "1.0", 403),
    ],
)
async def test_host_headers_that_are_missing_empty_or_two(bind, hosts, version, status):
    app = make_server(settings=FakeSettings(host=bind, insecure_no_auth=True)).app
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/version",
        "raw_path": b"/api/version",
        "query_string": b"",
        "http_version": version,
        "headers": [(b"host", host) for host in hosts],
    }
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    await app(scope, receive, send)
    assert sent[0]["status"] == status


FORMS = [
    "text/plain",
    "Text/Plain; charset=utf-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
]
PAGES = [
    {"origin": "https://evil.example.com"},
    {"origin": "null"},
    {"sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
    {"sec-fetch-mode": "no-cors"},
    {"sec-fetch-dest": "empty"},
]


@pytest.mark.parametrize("headers", PAGES)
@pytest.mark.parametrize("kind", FORMS)
async def test_body_of_a_form_from_a_page_is_refused_also_when_every_origin_is_allowed(headers, kind):
    server = make_server(settings=FakeSettings(origins=("*",)))
    sent = {**headers, "content-type": kind} if kind else headers
    response = await server.post("/api/chat", {"model": "C", "messages": []}, headers=sent)
    assert response.status_code == 403
    assert "application/json" in response.json()["error"]
    if "origin" in headers:
        assert response.headers["access-control-allow-origin"] == "*"  # so that its author can read why
    assert not server.runners.loads
    as_json = {**headers, "content-type": "application/json"}
    assert (await server.post("/api/chat", {"model": "C", "messages": []}, headers=as_json)).status_code == 200


@pytest.mark.parametrize("origins", [("https://chat.example.com",), ("https://chat.example.com", "*")])
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("origin", ["http://localhost:3000", URL, "app://x", "https://chat.example.com"])
async def test_pages_that_are_named_may_send_any_type(kind, origin, origins):
    """A page's `fetch(url, {method, body: JSON.stringify(...)})` sends text/plain."""
    server = make_server(settings=FakeSettings(origins=origins))
    headers = {"origin": origin, "sec-fetch-site": "cross-site"} | ({"content-type": kind} if kind else {})
    response = await server.post("/api/chat", {"model": "C", "messages": []}, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("headers", [{"user-agent": "curl/8.5.0"}, {"sec-fetch-mode": "cors", "user-agent": "node"}])
async def test_programs_may_send_any_type(kind, headers):
    sent = {**headers, "content-type": kind} if kind else headers
    response = await make_server().post("/api/chat", {"model": "C", "messages": []}, headers=sent)
    assert response.status_code == 200


async def test_refused_form_is_told_in_the_words_of_its_api():
    headers = {"origin": "https://evil.com", "content-type": "text/plain"}
    server = make_server(settings=FakeSettings(origins=("*",)))
    response = await server.post("/v1/messages", {}, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (403, "permission_error")


async def test_requests_without_a_body_need_no_type():
    headers = {"origin": "http://localhost:3000"}
    server = make_server()
    assert (await server.client.post("/api/signout", headers=headers)).status_code == 401
    assert (await server.client.get("/api/tags", headers=headers)).status_code == 200


async def test_chunked_form_from_a_page_is_refused():
    async def chunks():
        yield b"{}"

    headers = {"sec-fetch-site": "cross-site", "origin": "https://evil.com", "content-type": "text/plain"}
    server = make_server(settings=FakeSettings(origins=("*",)))
    response = await server.client.post("/api/pull", content=chunks(), headers=headers)
    assert response.status_code == 403


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
async def test_rebound_host_is_refused_and_told_what_to_set(bind):
    server = make_server(settings=FakeSettings(host=bind, insecure_no_auth=True), host="evil.com:11434")
    response = await server.client.get("/api/tags")
    assert (response.status_code, '"evil.com"' in response.json()["error"]) == (403, True)
    assert "http://evil.com" in response.json()["hint"]
    assert "DONABE_ORIGINS" in response.json()["hint"]
    response = await server.client.get("/v1/models")
    assert (response.status_code, response.json()["error"]["type"]) == (403, "permission_error")
    assert (await server.client.head("/api/tags")).headers["content-length"] == "0"
    response = await server.client.get("/api/tags", headers={"host": ""})
    assert (response.status_code, "one Host header" in response.json()["error"]) == (403, True)


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(("host", "status"), [("proxy.example.com", 200), ("", 403), (".", 403), (":80", 403)])
async def test_keys_make_every_name_good(bind, host, status):
    """A page that has rebound its name has no key."""
    server = make_server(settings=FakeSettings(host=bind, api_keys=("secret",)))
    headers = {"host": host, "authorization": "Bearer secret"}
    assert (await server.client.get("/api/tags", headers=headers)).status_code == status
    if status == 200:
        assert (await server.client.get("/api/tags", headers={"host": host})).status_code == 401


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
