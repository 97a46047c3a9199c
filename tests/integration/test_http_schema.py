"""Requests made up from the OpenAPI document never make the server fail, and its answers are those of the document:
their statuses, types, headers and bodies. Needs schemathesis from `ci/clients`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.client_programs import program
from tests.fakes.client_script import script
from tests.fakes.live import running
from tests.fakes.runner import Request, RunnerFactory, hello, make_spec
from tests.fakes.server import MODELS
from tests.fakes.settings import FakeSettings
from tests.fakes.store import FakePull, FakeStore, read_fake_header

from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.models import ModelStore

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance"),
)
# /api/me answers 503 on purpose: there are no accounts. A transfer that fails before its first event is a 500, as in
# the reference.
MAY_FAIL = ("/api/me", "/api/pull", "/api/push")
INSTALLED = [*MODELS, make_spec("R:latest", capabilities=("rerank",))]


def with_names(value: Any) -> Any:
    """The document with the names of models that are installed, so that most requests are answered; bodies are sent as
    they are."""
    if isinstance(value, list):
        kept = [item for item in value if not (isinstance(item, dict) and item.get("name") == "Content-Encoding")]
        return [with_names(item) for item in kept]
    if not isinstance(value, dict):
        return value
    names = {"enum": [spec.name.partition(":")[0] for spec in INSTALLED]}
    return {
        key: names if key == "model" and isinstance(item, dict) and item.get("type") == "string" else with_names(item)
        for key, item in value.items()
    }


def answer(request: Request) -> list[Any]:
    """With thinking, calls and schemas where they are asked for; the script fills in no schema but an object's."""
    schema = request.constraint.json_schema
    return hello(request) if schema is not None and "properties" not in schema else script(request)


def make_app(home: Path):
    files, pull = ModelStore(home / "store"), FakePull()
    return create_app(
        FakeSettings(home=home),
        Collaborators(
            store=FakeStore(*INSTALLED),
            pull=pull,
            read_metadata=read_fake_header,
            start_runner=RunnerFactory(answer),
            creator=ModelCreator(files, pull=pull),
            uploads=Uploads(files),
            push=pull,
        ),
    )


@pytest.mark.parametrize("routes", ["native", "openai", "anthropic", "server", "may fail"])
def test_made_up_requests_are_answered_as_documented(tmp_path, routes):
    schemathesis = program("schemathesis")
    with running(make_app(tmp_path)) as url:
        document = httpx.get(f"{url}/openapi.json").json()
        for name, schema in document["components"]["schemas"].items():
            if name.endswith(("Request", "Rows")):
                document["components"]["schemas"][name] = with_names(schema)
        document["paths"] = with_names(document["paths"])
        (tmp_path / "document.json").write_text(json.dumps(document), encoding="utf-8")
        may_fail = routes == "may fail"
        checks = [check for check in CHECKS if check != "not_a_server_error" or not may_fail]
        options = ["--phases", "fuzzing", "--max-examples", "8", "--checks", ",".join(checks)]
        options += [] if may_fail else ["--include-tag", routes]
        for path in MAY_FAIL:
            options += ["--include-path" if may_fail else "--exclude-path", path]
        done = subprocess.run(
            [schemathesis, "run", tmp_path / "document.json", "--url", url, *options],
            capture_output=True,
            text=True,
            timeout=280,
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:]
