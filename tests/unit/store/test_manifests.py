"""Manifests: exact bytes out, hostile bytes in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from donabe.errors import StoreError
from donabe.store.digest import Digest
from donabe.store.manifests import CONFIG_TYPE, LAYER_PREFIX, MANIFEST_TYPE, Layer, Manifest, encode_json

GOOD_DIGEST = str(Digest.of_bytes(b"x"))


def _layer(**changes: Any) -> dict[str, Any]:
    return {"mediaType": LAYER_PREFIX + "model", "digest": GOOD_DIGEST, "size": 1} | changes


def _encode(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": _layer(), "layers": [_layer()]} | changes).encode()


def test_encode_gives_the_exact_bytes() -> None:
    digest = Digest.of_bytes(b"x")
    manifest = Manifest(
        Layer(CONFIG_TYPE, digest, 3),
        (Layer(LAYER_PREFIX + "model", digest, 5, from_="base:latest"), Layer("a/b", digest, 1, name="w<1>")),
    )
    text = (
        f'{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}",'
        f'"config":{{"mediaType":"{CONFIG_TYPE}","digest":"{digest}","size":3}},'
        f'"layers":[{{"mediaType":"{LAYER_PREFIX}model","digest":"{digest}","size":5,"from":"base:latest"}},'
        f'{{"mediaType":"a/b","digest":"{digest}","size":1,"name":"w\\u003c1\\u003e"}}]}}\n'
    )
    assert manifest.encode() == text.encode()
    assert Manifest.decode(manifest.encode()) == manifest


@pytest.mark.parametrize(
    ("value", "hex_digits"),
    [
        (
            {"stop": ["USER:", "ASSISTANT:"], "temperature": 1, "top_k": 10},
            "1d0ad71299d48c2fb7ae2b98e683643e771f8a5b72be34942af90d97a91c1e37",
        ),
        (
            {"stop": ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]},
            "0d79f567714c62c048378f2107fb332dabee0135d080c302d884317da9433cc5",
        ),
        (
            {
                "model_format": "gguf",
                "model_family": "test",
                "model_families": ["test"],
                "model_type": "0",
                "file_type": "unknown",
                "architecture": "amd64",
                "os": "linux",
            },
            "99759ad5b91e723db0393d698ffbb448b1b7df5ff6377a108c49254583b1bc8c",
        ),
    ],
)
def test_encode_json_gives_the_digests_known_from_the_reference(value: dict[str, Any], hex_digits: str) -> None:
    assert Digest.of_bytes(encode_json(value)).hex == hex_digits


def test_size_counts_repeated_layers_and_the_config() -> None:
    assert Manifest.decode(_encode(layers=[_layer(size=5), _layer(size=5)])).size_bytes == 11


def test_unknown_keys_are_tolerated() -> None:
    assert Manifest.decode(_encode(extra={"a": 1}, layers=[_layer(urls=["http://x"])])).layers[0].size == 1


HOSTILE = {
    "not JSON": b"{",
    "binary": b"\xff\xfe",
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "no layers": json.dumps({"config": _layer()}).encode(),
    "layers null": _encode(layers=None),
    "layers object": _encode(layers={}),
    "layer null": _encode(layers=[None]),
    "layer text": _encode(layers=["x"]),
    "no config": json.dumps({"layers": []}).encode(),
    "config null": _encode(config=None),
    "config list": _encode(config=[]),
    "digest missing": _encode(layers=[{"mediaType": "x", "size": 1}]),
    "digest traversal": _encode(layers=[_layer(digest="sha256:../../../../etc/passwd")]),
    "digest number": _encode(layers=[_layer(digest=5)]),
    "config digest bad": _encode(config=_layer(digest="sha256:x")),
    "size negative": _encode(layers=[_layer(size=-1)]),
    "size text": _encode(layers=[_layer(size="1")]),
    "size bool": _encode(layers=[_layer(size=True)]),
    "size float": _encode(layers=[_layer(size=1.5)]),
    "size huge": _encode(layers=[_layer(size=2**63)]),
    "media type number": _encode(layers=[_layer(mediaType=5)]),
    "from list": _encode(layers=[_layer(**{"from": ["x"]})]),
    "too many layers": _encode(layers=[_layer()] * 10_001),
    "too large": b" " * ((4 << 20) + 1),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_decode_refuses_with_a_typed_error(data: bytes) -> None:
    with pytest.raises(StoreError, match="manifest"):
        Manifest.decode(data)
