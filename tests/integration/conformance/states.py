"""Cases that need a state of their own: each list runs in order against a server of its own."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from tests.fakes.registry_gguf import tiny_model
from tests.integration.conformance.expectations import ABSENT, HI, Case

MODEL = tiny_model().encode()
DIGEST = "sha256:" + hashlib.sha256(MODEL).hexdigest()
ZEROS = "sha256:" + "0" * 64
BUSY = "server busy, please try again.  maximum pending requests exceeded"
BLOB = f"POST /api/blobs/{DIGEST}"


def _ends_in_success(lines: list[Any]) -> bool:
    return lines[-2:] == [{"status": "writing manifest"}, {"status": "success"}]


def _are_both(models: list[Any]) -> bool:
    return {model["name"] for model in models} == {"C:latest", "x:latest"}


LOADING = [
    Case("72", "GET /api/ps", expect={"models": []}),
    Case("16", "POST /api/generate", {"model": "C"}, expect={
        "response": "", "done": True, "done_reason": "load", "total_duration": ABSENT}),
    Case("72", "GET /api/ps", expect={
        "models.0.name": "C:latest", "models.0.expires_at": str, "models.0.size_vram": int,
        "models.0.context_length": int}),
    Case("34", "POST /api/generate", {"model": "C", "keep_alive": -1}),
    Case("34", "GET /api/ps", expect={"models.0.expires_at": lambda text: text[:4] > "2125"}),
    Case("17", "POST /api/generate", {"model": "C", "keep_alive": 0}, expect={"done_reason": "unload"}),
    Case("17", "GET /api/ps", expect={"models": []}, is_eventual=True),
    Case("41", "POST /api/chat", {"model": "C", "messages": [], "keep_alive": 0}, expect={
        "message": {"role": "assistant", "content": ""}, "done_reason": "unload"}),
]  # fmt: skip
NAMING = [
    Case("63", "POST /api/copy", {"source": "C", "destination": "C2"}, text=""),
    Case("63", "POST /api/show", {"model": "C2"}, expect={"details.family": str}),
    Case("64", "DELETE /api/delete", {"model": "C2"}, text=""),
    Case("64", "DELETE /api/delete", {"model": "C2"}, 404, error="model 'C2' not found"),
]
MAKING = [
    Case("60", "GET /api/tags", expect={"models": []}),
    Case("65", f"HEAD /api/blobs/{DIGEST}", status=404),
    Case("65", BLOB, MODEL, 201, text=""),
    Case("65", BLOB, MODEL, 200, text=""),
    Case("65", f"HEAD /api/blobs/{DIGEST}", status=200),
    Case("66", f"POST /api/blobs/{ZEROS}", MODEL, 400, error=f'digest mismatch, expected "{ZEROS}", got "{DIGEST}"'),
    Case("66", f"HEAD /api/blobs/{ZEROS}", status=404),
    Case("68", "POST /api/create", {"model": "C", "files": {"m.gguf": DIGEST}, "stream": False},
         type="application/json", expect={"status": "success"}),
    Case("68", "POST /api/create", {"model": "x", "from": "C", "system": "hi", "stream": False},
         type="application/json", text='{"status":"success"}'),
    Case("68", "POST /api/create", {"model": "x", "from": "C", "system": "ho"}, type="application/x-ndjson",
         lines=_ends_in_success),
    Case("68", "POST /api/show", {"model": "x"}, expect={"system": "ho"}),
    Case("60", "GET /api/tags", expect={"models": _are_both}),
]  # fmt: skip
# Against a server whose only place is taken and whose queue holds nobody.
FULL = [
    Case("75", "POST /api/generate", {"model": "T", "prompt": "hi"}, 503, error=BUSY,
         headers={"retry-after": re.compile("[1-9][0-9]*")}),
    Case("75", "POST /v1/chat/completions", {"model": "T", "messages": HI}, 503,
         expect={"error.message": BUSY, "error.type": "api_error"}),
    Case("100", "POST /v1/messages", {"model": "T", "messages": HI, "max_tokens": 5}, 503,
         expect={"error.message": BUSY, "error.type": "overloaded_error"}),
]  # fmt: skip
CASES = [*LOADING, *NAMING, *MAKING, *FULL]
