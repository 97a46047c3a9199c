"""The table of clients and features in docs/compatibility.md: read, compared with what the checks found, written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.client_programs import CHECKS

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
KINDS = ("scripted", "real")
REST = "\n## Where answers differ"
# Which clients each script checks, and the packages it needs.
CLIENTS = {
    "ollama": {"PyPI ollama": ("ollama",)},
    "openai": {"PyPI openai": ("openai",)},
    "anthropic": {"PyPI anthropic": ("anthropic",)},
    "langchain": {"PyPI langchain-ollama": ("langchain-ollama",)},
    "litellm": {"PyPI litellm": ("litellm",)},
    "llama_index": {"PyPI llama-index": ("llama-index-llms-ollama", "llama-index-embeddings-ollama")},
    "node": {
        "npm ollama": ("ollama",),
        "npm openai": ("openai",),
        "npm @anthropic-ai/sdk": ("@anthropic-ai/sdk",),
        "npm ai, Ollama provider": ("ai", "ollama-ai-provider-v2"),
        "npm ai, OpenAI-compatible provider": ("ai", "@ai-sdk/openai-compatible"),
    },
}

Results = dict[tuple[str, str], dict[str, str]]  # (client, feature) -> outcome by kind


def committed(page: str) -> Results:
    """The table of a page."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (\S+) \| (\S+) \|$", page.partition(REST)[0], re.MULTILINE)
    return {
        (client, feature): dict(zip(KINDS, outcomes, strict=True))
        for client, feature, *outcomes in rows
        if client != "client"
    }


def of_check(results: Results, check: str, kind: str) -> dict[tuple[str, str], str]:
    """The outcomes of one script against one kind of server; features without one are left out."""
    found = {key: outcomes.get(kind, "-") for key, outcomes in results.items() if key[0] in CLIENTS[check]}
    return {key: outcome for key, outcome in found.items() if outcome != "-"}


def head(results: Results) -> str:
    """The page up to the differences."""
    pinned = _pinned()
    versions = {
        client: ", ".join(f"{package} {pinned[client.split()[0]][package]}" for package in packages)
        for clients in CLIENTS.values()
        for client, packages in clients.items()
    }
    lines = [
        "# Clients that work",
        "",
        "Written by `tests/integration/test_http_clients.py`, which runs every feature of every client, unmodified,",
        "against a live server: over scripted models, and with SmolLM2 135M. That model was taught neither tools nor",
        "thinking; it is given a template that shows it examples, or a call is forced.",
        "",
        "| client | versions |",
        "|---|---|",
        *(f"| {client} | {text} |" for client, text in sorted(versions.items())),
        "",
        "| client | feature | scripted | real model |",
        "|---|---|---|---|",
    ]
    for (client, feature), outcomes in sorted(results.items()):
        lines.append(f"| {client} | {feature} | {' | '.join(outcomes.get(kind, '-') for kind in KINDS)} |")
    return "\n".join(lines) + "\n"


def write(page: Path, results: Results, ran: Collection[tuple[str, str]]) -> None:
    """Rewrite the page up to the differences.

    Raises:
        ValueError: Not every (script, kind) ran; the page would lose rows.
    """
    left_out = [f"{check} ({kind})" for check in CLIENTS for kind in KINDS if (check, kind) not in ran]
    if left_out:
        raise ValueError(f"the page is not written, as these checks did not run: {', '.join(left_out)}")
    page.write_text(head(results) + REST + page.read_text(encoding="utf-8").partition(REST)[2], encoding="utf-8")


def _pinned() -> Mapping[str, Mapping[str, str]]:
    """Versions of packages, by where they come from."""
    lines = (CHECKS / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {
        "PyPI": dict(line.split("==") for line in lines if "==" in line),
        "npm": json.loads((CHECKS / "package.json").read_text(encoding="utf-8"))["dependencies"],
    }
