"""Cases of the server as a whole: routing, decoding, pages, names."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

from tests.integration.conformance.expectations import ABSENT, HI, Case

NATIVE = "application/json; charset=utf-8"
_STRUCTS = {
    "/api/generate": "GenerateRequest",
    "/api/chat": "ChatRequest",
    "/api/embed": "EmbedRequest",
    "/api/embeddings": "EmbeddingRequest",
    "/api/show": "ShowRequest",
    "/api/pull": "PullRequest",
    "/api/push": "PushRequest",
    "/api/create": "CreateRequest",
    "/api/copy": "CopyRequest",
}
_V1_STRUCTS = {
    "/v1/chat/completions": "ChatCompletionRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/embeddings": "EmbedRequest",
    "/v1/responses": "ResponsesRequest",
    "/v1/messages": "MessagesRequest",
}
_EVERY = {**_STRUCTS, **_V1_STRUCTS}


def zstd_frame(value: Any) -> bytes:
    """A frame that holds the JSON as it is, in one block (RFC 8878, 3.1.1)."""
    text = json.dumps(value).encode()
    assert len(text) < 256
    return b"(\xb5/\xfd" + bytes([0x20, len(text)]) + (len(text) << 3 | 1).to_bytes(3, "little") + text


ROUTING = [
    Case("1", "GET /", text="Ollama is running", type="text/plain; charset=utf-8"),
    Case("2", "HEAD /", text="", headers={"content-length": "17"}),
    Case("3", "GET /api/version", expect={"version": re.compile(r"\d+\.\d+\.\d+")}, type=NATIVE),
    Case("3", "POST /api/version", status=405, text="405 method not allowed", headers={"allow": "HEAD, GET"}),
    Case("4", "GET /api/nope", status=404, text="404 page not found", type="text/plain"),
    Case("5", "GET /api/chat", status=405, headers={"allow": "POST"}),
    Case("6", "HEAD /api/tags"),
    Case("6", "HEAD /api/ps", status=405),
    Case("6", "HEAD /v1/models", status=405),
    Case("7", "GET /api/version/", status=301, headers={"location": "/api/version"}),
    Case("7", "POST /api/chat/", status=307, headers={"location": "/api/chat"}),
    Case("1.4", "GET /v1/models/", status=301, headers={"location": "/v1/models"}),
    Case("1.4", "GET //api//version", status=307, headers={"location": "/api/version"}),
    Case("1.4", "GET /API/version", status=404),
    Case("8.8", "GET /api/blobs/sha256:00", status=405, headers={"allow": "HEAD, POST"}),
    Case("12", "GET /api/status", expect={"cloud": {"disabled": True, "source": "env"}}),
    Case("93", "POST /v1/images/generations", status=404, text="404 page not found"),
    Case("2", "GET /v1/models/ns/x", status=404, error="model 'ns/x:latest' not found",
         differs="A name with a namespace is looked up; the reference has no route for it."),
    Case("2", "GET /health", expect={"status": "ok"},
         differs="The reference has no such route; llama.cpp and vLLM do."),
    Case("2", "POST /v1/rerank", {"model": "nope", "query": "a", "documents": ["b"]}, 404,
         differs="The reference has no such route; llama.cpp and vLLM do."),
    Case("101", "POST /v1/messages/count_tokens", {"model": "C", "messages": HI}, expect={"input_tokens": int},
         real=True, differs="Tokens are counted; the reference answers 404."),
]  # fmt: skip

PAGES = [
    Case("8", "GET /api/version", sent={"origin": "http://localhost:3000"},
         headers={"access-control-allow-origin": "http://localhost:3000", "vary": "Origin"}),
    Case("9", "GET /api/version", sent={"origin": "https://evil.com"}, status=403, text=""),
    Case("9", "GET /api/version", sent={"origin": "app://foo"}),
    Case("1.5", "GET /api/version", sent={"origin": "http://LOCALHOST"}, status=403),
    Case("10", "OPTIONS /api/chat", sent={"origin": "http://localhost:3000"}, status=204, text="",
         headers={"access-control-max-age": "43200",
                  "access-control-allow-methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"}),
    Case("1.5", "OPTIONS /nope", sent={"origin": "http://localhost:3000"}, status=204),
    *(Case("11", "GET /api/version", sent={"host": host}, status=status) for host, status in (
        ("evil.com", 403), ("foo.local", 200), ("x.internal:80", 200), ("192.168.1.5", 200), ("LOCALHOST", 200),
        ("8.8.8.8", 403))),
    Case("1.6", "OPTIONS /api/chat", sent={"host": "localhost"}, status=204),
    Case("1.6", "OPTIONS /api/chat", sent={"host": "127.0.0.1"}, status=405),
]  # fmt: skip

DECODING = [
    Case("13", "POST /api/generate", b"", 400, error="missing request body"),
    Case("14", "POST /api/generate", b"{", 400, error="unexpected EOF"),
    Case("15", "POST /api/generate", {"model": 5}, 400,
         error=re.compile(r"json: cannot unmarshal number into Go struct field GenerateRequest\.model.*")),
    Case("77", "POST /v1/chat/completions", b"", 400, error="EOF"),
    Case("59", "POST /api/embeddings", {"model": ""}, 400, error="model is required"),
    *(Case("1.2", f"POST {path}", b" \n", 400, error="missing request body", type=NATIVE) for path in _STRUCTS),
    *(Case("1.2", f"POST {path}", b"", 400, error="EOF", type=NATIVE) for path in _V1_STRUCTS),
    *(Case("1.2", f"POST {path}", b"{", 400, error="unexpected EOF") for path in _EVERY),
    *(Case("1.2", f"POST {path}", b"[]", 400, error=re.compile(
        rf"json: cannot unmarshal array into Go value of type \w+\.{struct}")) for path, struct in _EVERY.items()),
    *(Case("1.2", f"POST {path}", {"model": 5}, 400, error=re.compile(
        rf"json: cannot unmarshal number into Go struct field {struct}\.model of type string"))
      for path, struct in _EVERY.items() if path != "/api/copy"),
    *(Case("1.2", f"POST {path}", b"{nope}", 400, error=re.compile("invalid character '.*", re.DOTALL))
      for path in _EVERY),
    Case("1.2", "POST /api/generate", b'{"model":"C","prompt":"a","prompt":"b","stream":false} rest'),
    Case("1.2", "POST /api/generate", {"model": "C", "stream": 1.5}, 400,
         error="json: cannot unmarshal number into Go struct field GenerateRequest.stream of type bool"),
    *(Case("1.7", f"POST {path}", zstd_frame(body), sent={"content-encoding": "zstd"}) for path, body in (
        ("/v1/chat/completions", {"model": "C", "messages": HI}), ("/v1/completions", {"model": "C", "prompt": "hi"}),
        ("/v1/embeddings", {"model": "E", "input": "hi"}), ("/v1/responses", {"model": "C", "input": "hi"}),
        ("/v1/messages", {"model": "C", "messages": HI, "max_tokens": 8}))),
    Case("1.7", "POST /v1/messages", b"(\xb5/\xfd", 400, sent={"content-encoding": "zstd"}, error="unexpected EOF"),
    Case("1.7", "POST /v1/messages", b"{}" * 9, 400, sent={"content-encoding": "zstd"},
         error=re.compile("invalid input: .*")),
    Case("1.7", "POST /api/chat", gzip.compress(b'{"model":"C","messages":[],"stream":false}'),
         sent={"content-encoding": "gzip"},
         differs="Bodies may come as zstd or gzip on every route; the reference takes zstd, on its /v1 routes."),
    Case("1.2", "POST /api/generate", {"model": "C", "prompt": "hi", "bogus": 1, "stream": False},
         headers={"warning": re.compile(".*unknown field bogus.*")},
         differs="Unknown fields are named in a Warning header; the reference is silent."),
]  # fmt: skip

NAMES = [
    Case("36", "POST /api/generate", {"model": "nope", "prompt": "x"}, 404, error="model 'nope' not found"),
    Case("36", "POST /api/generate", {"model": "", "prompt": "x"}, 404, error="model '' not found"),
    Case("36", "POST /api/generate", {"model": "a b"}, 400, error="invalid model name"),
    Case("58", "POST /api/embed", {"model": "nope", "input": "x"}, 404,
         error='model "nope" not found, try pulling it first'),
    *(Case("3.4", f"POST {path}", {**body, "model": ""}, status, error=error) for path, body, status, error in (
        ("/api/generate", {"prompt": "x"}, 404, "model '' not found"),
        ("/api/chat", {"messages": HI}, 400, "model is required"),
        ("/api/embed", {"input": "x"}, 404, "model '' not found"),
        ("/api/embeddings", {"prompt": "x"}, 400, "model is required"),
        ("/api/show", {}, 400, "model is required"),
        ("/api/pull", {}, 400, "invalid model name"),
        ("/api/push", {}, 400, "model is required"),
        ("/api/create", {}, 400, "invalid model name"),
        ("/v1/embeddings", {"input": "x"}, 404, "model '' not found"),
    )),
    *(Case("3.4", f"POST {path}", {**body, "model": "a b"}, 400, error="invalid model name") for path, body in (
        ("/api/generate", {"prompt": "x"}), ("/api/chat", {"messages": HI}), ("/api/embed", {"input": "x"}),
        ("/api/embeddings", {"prompt": "x"}), ("/api/show", {}), ("/api/pull", {}), ("/api/create", {"from": "C"}),
        ("/v1/chat/completions", {"messages": HI}))),
    *(Case("3.4", f"POST {path}", {**body, "model": "nope"}, 404, error=error) for path, body, error in (
        ("/api/generate", {"prompt": "x"}, "model 'nope' not found"),
        ("/api/chat", {"messages": HI}, "model 'nope' not found"),
        ("/api/embed", {"input": "x"}, 'model "nope" not found, try pulling it first'),
        ("/api/embeddings", {"prompt": "x"}, 'model "nope" not found, try pulling it first'),
        ("/api/show", {}, "model 'nope:latest' not found"),
        ("/v1/chat/completions", {"messages": HI}, "model 'nope' not found"),
        ("/v1/completions", {"prompt": "x"}, "model 'nope' not found"),
        ("/v1/responses", {"input": "x"}, "model 'nope' not found"),
    )),
    Case("64", "DELETE /api/delete", {"model": "nope"}, 404, error="model 'nope' not found"),
    Case("64", "DELETE /api/delete", {"name": "a b"}, 400, error='name "a b" is invalid'),
    Case("64", "DELETE /api/delete", {}, 400, error="model is required"),
    Case("63", "POST /api/copy", {"source": "nope", "destination": "x"}, 404, error='model "nope" not found'),
    Case("63", "POST /api/copy", {"source": "", "destination": "x"}, 400, error='source "" is invalid'),
    Case("63", "POST /api/copy", {"source": "C", "destination": ""}, 400, error='destination "" is invalid'),
    Case("74", "POST /api/generate", {"model": "x:cloud:local"}, 400,
         error='use either :local or :cloud, not both: "x:cloud:local"'),
    Case("74", "POST /api/generate", {"model": "x:cloud", "prompt": "y"}, 403,
         error="ollama cloud is disabled: remote model is unavailable"),
    Case("71", "POST /api/push", {}, 400, error="model is required"),
    Case("73", "POST /api/experimental/web_search", b"", 400, error="missing request body"),
    Case("73", "POST /api/experimental/web_search", {"query": "x"}, 403,
         error="ollama cloud is disabled: web search is unavailable"),
    Case("8.14", "POST /api/experimental/web_fetch", {"url": "x"}, 403,
         error="ollama cloud is disabled: web fetch is unavailable"),
    Case("8.13", "POST /api/me", {}, 503, error="account unavailable"),
    Case("8.13", "POST /api/signout", {}, 401, error="you are not currently signed in"),
    Case("62", "POST /api/show", {"name": "C:LATEST"}, expect={"details.family": "llama"}),
    Case("61", "POST /api/show", {"model": "C"}, real=True, expect={
        "model_info": lambda info: "general.architecture" in info, "capabilities": lambda c: "completion" in c,
        "modified_at": str, "details.quantization_level": str}),
    Case("8.5", "POST /api/show", {"model": "c"}, sent={"user-agent": "GitHubCopilotChat/0.30"},
         expect={"model_info": lambda info: info["general.basename"] == "c"}),
    Case("8.7", "POST /api/create", {"model": "a b", "from": "C", "parameters": {"temprature": 1}}, 400,
         error="invalid model name"),
    Case("60", "GET /api/tags", real=True, expect={"models.0.name": re.compile(".+:.+"), "models.0.size": int,
         "models.0.digest": re.compile("[0-9a-f]{64}"), "models.0.details.families": list}),
    Case("65", "HEAD /api/blobs/xyz", status=400),
    Case("65", "HEAD /api/blobs/sha256:" + "0" * 64, status=404),
    Case("67", "POST /api/create", {"model": "x"}, 400, error="neither 'from' or 'files' was specified"),
    Case("69", "POST /api/create", {"model": "x", "files": {"../m.gguf": "sha256:aa"}}, 400,
         error="file path must be relative"),
    Case("69", "POST /api/create", {"model": "x", "files": {"x.gguf": ""}}, 400, error="invalid digest format"),
    Case("70", "POST /api/pull", {"model": "absent"}, type="application/x-ndjson",
         lines=lambda values: values[0] == {"status": "pulling manifest"} and "error" in values[-1]),
    Case("70", "POST /api/pull", {"model": "absent", "stream": False}, 500),
    Case("88", "GET /v1/models", real=True, expect={
        "object": "list", "data.0.id": re.compile(".+:.+"), "data.0.owned_by": "library", "data.0.created": int}),
    Case("88", "GET /v1/models/C", expect={"id": "C"}),
    Case("88", "GET /v1/models/nope", status=404, error="model 'nope:latest' not found",
         expect={"error.type": "not_found_error", "error.code": "model_not_found"},
         differs="Errors have `param` and `code` where they are known, and may have a `hint`."),
    Case("88", "GET /v1/models/nope", status=404, expect={"error.choices": ABSENT}),
]  # fmt: skip

CASES = [*ROUTING, *PAGES, *DECODING, *NAMES]
