"""Compressed request bodies: unpacked, bounded, and refused where they are not what they say."""

from __future__ import annotations

import gzip
import random
import sys
import tracemalloc
import zlib

import msgspec
import pytest
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.server.bodies import MAX_UNPACKED_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHAT = {"model": "C", "messages": [{"role": "user", "content": "hi"}]}
PACK = {"gzip": gzip.compress, "x-gzip": gzip.compress, "zstd": zstd.compress}
ROUTES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "C", "prompt": "hi"},
    "/v1/embeddings": {"model": "E", "input": "hi"},
    "/v1/responses": {"model": "C", "input": "hi", "store": False},
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/api/chat": {**CHAT, "stream": False},
}


async def send(body: bytes, encoding: str, path: str = "/v1/chat/completions", **settings):
    server = make_server(settings=FakeSettings(**settings))
    return await server.post(path, body, headers={"content-encoding": encoding})


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("path", ROUTES)
async def test_is_unpacked(path, encoding):
    response = await send(PACK[encoding](msgspec.json.encode(ROUTES[path])), encoding, path)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_several_frames_are_one_body(encoding):
    text = msgspec.json.encode(CHAT)
    body = b"".join(PACK[encoding](part) for part in (text[:9], b"", text[9:]))
    assert (await send(body, encoding)).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_large_text_arrives_whole(encoding):
    text = "".join(random.Random(3).choices("abcdefgh ", k=1_000_000))
    server = make_server(settings=FakeSettings())
    messages = [{"role": "user", "content": text}]
    body = PACK[encoding](msgspec.json.encode({"model": "C", "messages": messages}))
    response = await server.post("/v1/chat/completions", body, headers={"content-encoding": encoding})
    assert response.status_code == 200, response.text
    assert server.runners.last.requests[0].messages[0].content == text


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_costs_no_more_than_the_cap(encoding):
    bomb = PACK[encoding](bytes(10 * MAX_UNPACKED_BYTES))
    tracemalloc.start()
    try:
        response = await send(bomb, encoding, max_body_bytes=256_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.status_code == 413
    assert f"unpacks to more than {MAX_UNPACKED_BYTES} bytes" in response.text
    assert peak < 2 * MAX_UNPACKED_BYTES


async def test_the_body_setting_bounds_what_is_unpacked():
    body = gzip.compress(msgspec.json.encode({**CHAT, "user": "x" * 5000}))
    response = await send(body, "gzip", max_body_bytes=1000)
    assert (response.status_code, "more than 1000 bytes" in response.text) == (413, True)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize(
    "cut",
    [lambda body: body[:-1], lambda body: body[:5], lambda body: body[: len(body) // 2]],
    ids=["end", "head", "half"],
)
async def test_cut_off_is_refused(encoding, cut):
    response = await send(cut(PACK[encoding](msgspec.json.encode(CHAT))), encoding)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "unexpected EOF")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("body", [b'{"model": "C"}', b"(\xb5/", zlib.compress(b"{}")], ids=["plain", "magic", "zlib"])
async def test_what_is_not_compressed_is_refused(encoding, body):
    response = await send(body * 10, encoding)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "Content-Encoding"), response.text
    assert error["message"].startswith("invalid input: ")


async def test_a_window_larger_than_allowed_is_refused():
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    body = packer.compress(msgspec.json.encode(CHAT)) + packer.flush()
    response = await send(body, "zstd")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "Content-Encoding")


@pytest.mark.parametrize("encoding", ["br", "gzip, zstd", "compress"])
async def test_other_encodings_are_refused_by_name(encoding):
    response = await send(b"x", encoding)
    assert response.status_code == 400
    assert repr(encoding) in response.json()["error"]["message"]
