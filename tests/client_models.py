"""Servers for the checks of client libraries: models made over the API, a registry on this machine, and runners that
are real or scripted. Nothing else is fake: store, uploads, pulls and pushes are the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bert_gguf import MEAN, RANK, random_bert
from tests.fakes.client_script import script
from tests.fakes.live import running
from tests.fakes.registry_gguf import tiny_model
from tests.fakes.registry_oci import fake_registry
from tests.fakes.runner import RunnerFactory
from tests.fakes.settings import FakeSettings
from tests.model_store import SMOLLM2, ensure_model

from donabe.client import Client
from donabe.registry.jobs import Puller, Pusher
from donabe.registry.sources import PullOptions
from donabe.runner.client import RunnerProcess
from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore

# Tools and thinking for weights that were taught neither: the prompt shows some calls or a thought, which even a small
# model goes on to imitate. Of a tool it shows the name only: SmolLM2 takes words of a description for names.
_CALL = """
<|im_start|>user
%s<|im_end|>
<|im_start|>assistant
<tool_call>{"name": "{{ .Function.Name }}", "arguments": {"a": %d}}</tool_call><|im_end|>"""
_CALLS = "".join(
    _CALL % example
    for example in (
        ("What is the weather?", 3),
        ("Who wrote Hamlet?", 5),
        ("How tall is it?", 8),
        ("Where is Rome?", 2),
    )
)
TAUGHT = (
    "{{- if .Tools }}{{- range .Tools }}"
    + _CALLS
    + """
{{- end }}
{{- else if .Think }}<|im_start|>user
Is two an even number?<|im_end|>
<|im_start|>assistant
<think>Two can be halved.</think>Yes.<|im_end|>
{{- end }}
{{- range .Messages }}
<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}
{{- if .ToolCalls }}
{{- range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>
{{- end }}
{{- end }}<|im_end|>
{{- end }}
<|im_start|>assistant
{{ if and .Think (not .Tools) }}<think>{{ end }}"""
)
INSERT = "{{ .Prompt }}{{ if .Suffix }} ... {{ .Suffix }}{{ end }}{{ .Response }}"
COLD = {"temperature": 0, "num_predict": 64}


@contextmanager
def scripted_server(folder: Path) -> Iterator[dict[str, str]]:
    """What the check scripts are told about a server whose models answer what the script says."""
    weights = tiny_model().write(folder / "tiny.gguf")
    with _server(folder, weights, RunnerFactory(script)) as about:
        yield about


@contextmanager
def real_server(folder: Path) -> Iterator[dict[str, str]]:
    """The same with runner processes over SmolLM2."""
    with _server(folder, ensure_model(SMOLLM2), RunnerProcess.start) as about:
        yield about


@contextmanager
def _server(folder: Path, weights: Path, start_runner: Any) -> Iterator[dict[str, str]]:
    store = ModelStore(folder / "store")
    file = random_bert(MEAN).write(folder / "bert.gguf")
    ranker = random_bert(RANK).write(folder / "ranker.gguf")
    settings = FakeSettings(keep_alive_s=600, num_parallel=4, context_length=2048, home=folder)
    with fake_registry() as registry:
        transfer = PullOptions(private_hosts=(registry.host,), key_folder=folder)
        pull = Puller(store, transfer)
        collaborators = Collaborators(
            store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
            pull=pull,
            read_metadata=read_metadata,
            start_runner=start_runner,
            creator=ModelCreator(store, pull=pull),
            uploads=Uploads(store),
            push=Pusher(store, transfer),
        )
        with running(create_app(settings, collaborators), timeout_s=60) as url, Client(url) as client:
            client.create("chat", files={"chat.gguf": client.upload(weights)})
            client.create("taught", from_="chat", template=TAUGHT, parameters=COLD)
            client.create("insert", from_="chat", template=INSERT, parameters=COLD)
            client.create("ranker", files={"ranker.gguf": client.upload(ranker)})
            client.create("embedder", files={"bert.gguf": client.upload(file)})
            yield {
                "url": url,
                "chat": "chat",
                "tools": "taught",
                "insert": "insert",
                "rerank": "ranker",
                "embed": "chat" if start_runner is RunnerProcess.start else "embedder",
                "file": str(file),
                "registry": registry.host,
            }
