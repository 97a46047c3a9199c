"""`create`, `cp`, `push` and `render` against the real app over a store in a folder; only runners and registries are
fakes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.command_line import Run, command_line
from tests.fakes.live import running
from tests.fakes.registry_gguf import F16, FakeGguf, FakeTensor, tiny_model, u32
from tests.fakes.runner import RunnerFactory, hello
from tests.fakes.settings import FakeSettings
from tests.fakes.store import FakePull

from donabe.client import AsyncClient, Client
from donabe.convert.quantize import QuantizeJob
from donabe.errors import SourceAuthError
from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore
from donabe.types import PullProgress


async def fake_quantize(job: QuantizeJob) -> AsyncGenerator[tuple[int, int], None]:
    tiny_model(general__file_type=u32(15)).write(job.target)
    yield 1, 1


async def fake_push(name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
    yield PullProgress(status="retrieving manifest")
    if name == "denied":
        raise SourceAuthError("unauthorized: access denied")
    yield PullProgress(status="pushing 0123", digest="sha256:0123", total=2, completed=2)
    yield PullProgress(status="success")


@dataclass(frozen=True)
class Site:
    """A running server and its store; `host` as the command line is told."""

    store: ModelStore
    host: str


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store, pull = ModelStore(tmp_path / "store"), FakePull()
    app = create_app(
        FakeSettings(),
        Collaborators(
            store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
            pull=pull,
            read_metadata=read_metadata,
            start_runner=RunnerFactory(hello),
            creator=ModelCreator(store, pull=pull, quantize=fake_quantize),
            uploads=Uploads(store),
            push=fake_push,
        ),
    )
    with running(app) as url:
        yield Site(store, url.removeprefix("http://"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def donabe(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys, tmp_path / "home", site)  # type: ignore[arg-type]  # only `host` is used


def f16_model() -> FakeGguf:
    return FakeGguf(tiny_model().values, (FakeTensor("token_embd.weight", (4, 3), F16),))


# --- create ----------------------------------------------------------------------------------------------------------


def test_modelfile_makes_a_model(site: Site, work: Path, donabe: Run) -> None:
    tiny_model().write(work / "m.gguf")
    (work / "Modelfile").write_text(
        'FROM ./m.gguf\nSYSTEM """Be\nbrief."""\nPARAMETER stop a\nPARAMETER stop "b"\nPARAMETER temperature 0.5\n'
        "PARAMETER mirostat 1\nLICENSE MIT\nMESSAGE user hi\nTEMPLATE {{ .Prompt }}\n"
    )
    outcome = donabe("create", "mine")
    assert (outcome.code, outcome.out) == (0, "warning: parameter mirostat is deprecated\n")
    assert outcome.err.startswith("gathering model components\ncopying file sha256:")
    assert outcome.err.endswith("writing manifest\nsuccess\n")
    spec = site.store.resolve("mine")
    assert (spec.system, spec.template, spec.licenses) == ("Be\nbrief.", "{{ .Prompt }}", ("MIT",))
    assert spec.parameters == {"stop": ["a", "b"], "temperature": 0.5}
    assert [message.content for message in spec.messages] == ["hi"]
    assert donabe("show", "mine", "--system").out == "Be\nbrief."


def test_file_that_is_on_the_server_is_not_sent_again(work: Path, donabe: Run) -> None:
    tiny_model().write(work / "m.gguf")
    assert "copying file" in donabe("create", "one").err
    assert "copying file" not in donabe("create", "two").err


def test_model_from_a_model_and_a_modelfile_on_stdin(site: Site, work: Path, donabe: Run) -> None:
    tiny_model().write(work / "m.gguf")
    donabe("create", "base")
    assert donabe("create", "child", "-f", "-", stdin="FROM base\nSYSTEM S\n").code == 0
    assert site.store.resolve("child").details.parent_model == "base:latest"


def test_paths_start_at_the_modelfile(site: Site, work: Path, donabe: Run) -> None:
    tiny_model().write(work / "sub" / "m.gguf")
    (work / "sub" / "My.modelfile").write_text("FROM m.gguf\n")
    assert donabe("create", "x", "-f", "sub/My.modelfile").code == 0
    assert site.store.has("x")


def test_quantising_is_asked_for_and_shown(site: Site, work: Path, donabe: Run) -> None:
    f16_model().write(work / "m.gguf")
    outcome = donabe("create", "q", "-q", "q4_K_M")
    assert "quantizing F16 model to Q4_K_M 100%" in outcome.err
    assert site.store.resolve("q").details.quantization_level == "Q4_K_M"


@pytest.mark.parametrize(
    ("modelfile", "arguments", "error"),
    [
        ("FROM x", ("bad name!",), "invalid model name: bad name!"),
        ("FROM x", ("m", "-f", "nosuch"), "no Modelfile or safetensors files found; there is no file nosuch"),
        (None, ("m",), "no Modelfile or safetensors files found"),
        ("SYSTEM x", ("m",), "no FROM line"),
        ("FROM x\nFOO bar", ("m",), '(line 2): command must be one of "from"'),
        ("FROM x\nPARAMETER temperature a", ("m",), "invalid float value [a]"),
        ("FROM x\nPARAMETER  temperature 1", ("m",), "unknown parameter ''"),
        ("FROM ./nosuch.gguf", ("m",), "nosuch.gguf: no such file or directory"),
        ("FROM x\nADAPTER ./a", ("m",), "/a: no such file or directory"),
        ("FROM x", ("m", "--draft-quantize", "q8_0"), "--draft-quantize requires a DRAFT model"),
        ("FROM x", ("m", "-q", "q9"), "unsupported quantization type Q9"),
        ("FROM x\nTEMPLATE {{ .Prompt", ("m",), "template error: template: :1: unclosed action"),
    ],
)
def test_mistakes_are_one_line(
    work: Path, donabe: Run, modelfile: str | None, arguments: tuple[str, ...], error: str
) -> None:
    if modelfile is not None:
        (work / "Modelfile").write_text(modelfile)
    outcome = donabe("create", *arguments)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert error in last


# --- cp, push --------------------------------------------------------------------------------------------------------


def test_copy_gives_a_second_name(site: Site, work: Path, donabe: Run) -> None:
    tiny_model().write(work / "m.gguf")
    donabe("create", "a")
    assert donabe("cp", "a", "b").out == "copied 'a' to 'b'\n"
    assert site.store.has("b")
    outcome = donabe("cp", "nosuch", "x")
    assert (outcome.code, outcome.err.startswith('Error: model "nosuch" not found')) == (1, True)
    assert donabe("cp", "a").err == "Error: accepts 2 arg(s), received 1\n"


def test_push_shows_progress(donabe: Run) -> None:
    outcome = donabe("push", "me/x")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("retrieving manifest\npushing 0123 100%")
    assert outcome.err.endswith("success\n")


def test_refused_push_says_what_to_do(donabe: Run) -> None:
    outcome = donabe("push", "denied")
    assert outcome.code == 1
    assert "you are not authorized to push to this namespace, create the model under a namespace you own" in outcome.err


# --- render ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(work: Path, donabe: Run) -> str:
    tiny_model().write(work / "m.gguf")
    (work / "Modelfile").write_text("FROM ./m.gguf\nSYSTEM S\n")
    donabe("create", "mine")
    return "mine"


def test_render_prints_prompt_and_tokens(mine: str, donabe: Run) -> None:
    outcome = donabe("render", mine, "hi")
    assert outcome.out.startswith("[system]S[user]hi\n\n")
    assert outcome.out.splitlines()[-1].split(" tokens: ")[0].isdigit()
    answer = json.loads(donabe("render", mine, "hi", "--json").out)
    assert answer["prompt"] == "[system]S[user]hi"
    assert all(isinstance(token, int) for token in answer["tokens"])


def test_render_takes_a_conversation_from_a_file(mine: str, work: Path, donabe: Run) -> None:
    conversation = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    (work / "list.json").write_text(json.dumps(conversation))
    (work / "object.json").write_text(json.dumps({"messages": conversation}))
    for name in ("list.json", "object.json"):
        assert donabe("render", mine, "--messages", name).out.startswith("[system]S[user]a[assistant]b[user]c\n")
    assert donabe("render", mine, "--messages", "-", stdin=json.dumps(conversation)).code == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "give either PROMPT or --messages FILE"),
        (("hi", "--messages", "x.json"), "give either PROMPT or --messages FILE"),
        (("--messages", "nosuch.json"), "nosuch.json: No such file or directory"),
        (("--messages", "bad.json"), "bad.json is not JSON"),
        (("--messages", "empty.json"), "messages must be a list of JSON objects with at least one item"),
    ],
)
def test_render_refuses_what_is_no_conversation(
    mine: str, work: Path, donabe: Run, arguments: tuple[str, ...], error: str
) -> None:
    (work / "bad.json").write_text("{")
    (work / "empty.json").write_text("[]")
    outcome = donabe("render", mine, *arguments)
    assert (outcome.code, error in outcome.err) == (1, True)


# --- the clients -----------------------------------------------------------------------------------------------------


async def test_clients_upload_and_create(site: Site, work: Path) -> None:
    path = tiny_model().write(work / "m.gguf")
    sent: list[int] = []
    with Client(site.host) as client:
        digest = client.upload(path, on_progress=sent.append)
        assert client.create("one", files={"m.gguf": digest}) == {"status": "success"}
        assert client.render("one", [{"role": "user", "content": "x"}])["prompt"] == "[user]x"
    assert sent == [path.stat().st_size]
    async with AsyncClient(site.host) as async_client:
        assert await async_client.upload(path, on_progress=sent.append) == digest
        events = await async_client.create("two", stream=True, from_="one")
        assert [event["status"] async for event in events][-1] == "success"
        assert (await async_client.render("two", [{"role": "user", "content": "x"}]))["prompt"] == "[user]x"
        other = work / "o.bin"
        other.write_bytes(b"x" * 3_000_000)
        await async_client.upload(other, on_progress=sent.append)
    assert len(sent) == 4
    assert {name.short for name in site.store.names()} == {"one:latest", "two:latest"}
