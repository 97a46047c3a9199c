"""Answers with many vectors: written beside the event loop, and no larger than one may be."""

from __future__ import annotations

import threading

import pytest
from tests.fakes.server import make_server

from donabe.api import native_replies, openai_replies, vectors

ROUTES = [
    ("/api/embed", native_replies, "embed_body"),
    ("/v1/embeddings", openai_replies, "embedding_body"),
    ("/embedding", vectors, "token_embedding_body"),
]


@pytest.mark.parametrize(("path", "module", "name"), ROUTES)
@pytest.mark.parametrize(("n_inputs", "is_beside"), [(1, False), (32, True)])
async def test_many_vectors_are_written_beside_the_event_loop(monkeypatch, path, module, name, n_inputs, is_beside):
    write, threads = getattr(module, name), []

    def noted(*args, **kwargs):
        threads.append(threading.current_thread())
        return write(*args, **kwargs)

    monkeypatch.setattr(module, name, noted)
    server = make_server()
    await server.post("/api/embed", {"model": "E"})
    server.runners.last.embedding = (0.25,) * 1024
    assert (await server.post(path, {"model": "E", "input": ["a"] * n_inputs})).status_code == 200
    assert [thread is not threading.current_thread() for thread in threads][-1] is is_beside


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings", "/embedding"])
async def test_vectors_of_one_answer_are_bounded_before_they_are_computed(path):
    server = make_server()
    server.runners.info["n_embd"] = 4096
    body = {"model": "E", "input": ["a"] * 8193}
    response = await server.post(path, body)
    assert (response.status_code, "33554432" in response.text) == (400, True)
    assert server.runners.last.requests == []
    if path != "/embedding":
        assert (await server.post(path, body | {"dimensions": 4})).status_code == 200
    assert (await server.post(path, body | {"input": ["a"] * 8192})).status_code == 200
