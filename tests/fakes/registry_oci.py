"""A model registry for tests, honest unless told otherwise: manifests, blobs, uploads, tokens, redirects."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.registry_http import FakeServer, Reply, Request, fake_server, ranged

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
PREFIX = "application/vnd.ollama.image."


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class FakeRegistry:
    """The registry's content and its habits."""

    server: FakeServer
    storage: FakeServer  # another host, where redirects lead
    manifests: dict[str, bytes] = field(default_factory=dict)  # "<repository>:<tag>"
    blobs: dict[str, bytes] = field(default_factory=dict)  # by digest text, whatever that is
    mountable: dict[str, set[str]] = field(default_factory=dict)  # repository -> digests
    token: str = ""  # when set, every request needs it
    realm: str = ""  # where the challenge points; "" = this registry
    redirect_blobs: int = 0  # answer blob requests with this redirect to the storage host
    redirect_uploads: bool = False
    sessions: dict[str, bytearray] = field(default_factory=dict)
    finished: list[dict[str, list[str]]] = field(default_factory=list)  # queries of finished uploads

    @property
    def host(self) -> str:
        return self.server.host

    def add_blob(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def add_model(self, name: str, weights: bytes, *, layers: dict[str, bytes] | None = None, **changes: Any) -> bytes:
        """Publish a model. `changes` replace keys of the model layer in the manifest."""
        config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
        entries = [{"mediaType": f"{PREFIX}model", "digest": self.add_blob(weights), "size": len(weights)} | changes]
        for kind, data in (layers or {}).items():
            entries.append({"mediaType": PREFIX + kind, "digest": self.add_blob(data), "size": len(data)})
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": self.add_blob(config), "size": len(config)},
            "layers": entries,
        }
        self.manifests[name] = json.dumps(value, separators=(",", ":")).encode()
        return self.manifests[name]

    def add_files(self, name: str, files: list[bytes]) -> bytes:
        """Publish a model of several model layers."""
        config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": self.add_blob(config), "size": len(config)},
            "layers": [
                {"mediaType": f"{PREFIX}model", "digest": self.add_blob(data), "size": len(data)} for data in files
            ],
        }
        self.manifests[name] = json.dumps(value, separators=(",", ":")).encode()
        return self.manifests[name]

    def answer(self, request: Request) -> Reply:
        if request.path == "/token":
            return Reply(200, json.dumps({"token": self.token}).encode())
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            realm = self.realm or f"{self.server.url}/token"
            challenge = f'Bearer realm="{realm}",service="fake",scope="repository:lib/m:pull"'
            return Reply(401, b"who are you?", {"WWW-Authenticate": challenge})
        repository, _, rest = request.path.removeprefix("/v2/").partition("/manifests/")
        if rest:
            return self._manifest(request, f"{repository}:{rest}")
        repository, _, rest = request.path.removeprefix("/v2/").partition("/blobs/")
        if rest.startswith("uploads/"):
            return self._upload(request, repository, rest.removeprefix("uploads/"))
        if rest not in self.blobs:
            return Reply(404, b"no such blob")
        if self.redirect_blobs and request.method == "GET":
            return Reply(self.redirect_blobs, b"", {"Location": f"{self.storage.url}/blobs/{rest}?signature=x"})
        return ranged(request, self.blobs[rest], self.server.supports_ranges)

    def _manifest(self, request: Request, name: str) -> Reply:
        if request.method == "PUT":
            self.manifests[name] = request.body
            return Reply(201)
        if name not in self.manifests:
            return Reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        return Reply(200, self.manifests[name], {"Content-Type": MANIFEST_TYPE})

    def _upload(self, request: Request, repository: str, session: str) -> Reply:
        if request.method == "POST":
            mount = request.query.get("mount", [""])[0]
            if mount and mount in self.mountable.get(request.query["from"][0], ()):
                self.blobs[mount] = b"mounted"
                return Reply(201)
            session = str(len(self.sessions))
            self.sessions[session] = bytearray()
            return Reply(202, b"", {"Location": f"/v2/{repository}/blobs/uploads/{session}?_state=a%3Db"})
        here = {"Location": f"/v2/{repository}/blobs/uploads/{session}?_state=next"}
        if request.method == "GET":
            n_there = len(self.sessions[session])
            return Reply(204, b"", here | {"Range": f"0-{max(n_there - 1, 0)}"})
        if request.method == "PATCH":
            if self.redirect_uploads:
                return Reply(
                    307,
                    b"",
                    {"Location": f"{self.storage.url}/put/{session}", "Docker-Upload-Location": here["Location"]},
                )
            self.sessions[session] += request.body
            return Reply(202, b"", here)
        self.finished.append(request.query)
        data = bytes(self.sessions[session])
        if sha256(data) != request.query["digest"][0]:
            return Reply(400, b"digest invalid")
        self.blobs[sha256(data)] = data
        return Reply(201)

    def stored_elsewhere(self, request: Request) -> Reply:
        """The storage host's side."""
        if request.method == "PUT":
            self.sessions[request.path.rpartition("/")[2]] += request.body
            return Reply(200)
        return ranged(request, self.blobs[request.path.rpartition("/")[2]], self.storage.supports_ranges)


def signature_parts(authorization: str) -> tuple[bytes, bytes]:
    """Public key bytes and signature of a token request's Authorization header."""
    key, _, signature = authorization.partition(":")
    return base64.b64decode(key), base64.b64decode(signature)


@contextmanager
def fake_registry(tls: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    """A registry on 127.0.0.1 and its storage on another name of this machine."""
    with ExitStack() as stack:
        server = stack.enter_context(fake_server(tls=tls))
        storage = stack.enter_context(fake_server(tls=tls))
        storage.host = storage.host.replace("127.0.0.1", "localhost")
        registry = FakeRegistry(server, storage)
        server.routes["/"] = registry.answer
        storage.routes["/"] = registry.stored_elsewhere
        yield registry
