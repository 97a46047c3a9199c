"""`donabe fit`: what a model would take of this machine's memory and devices, and with which context it would fit.

Works on this machine, in a child process that reads the head of the file: no server has to run, nothing is loaded.
"""

from __future__ import annotations

import json

import click

from donabe.cli.base import Command, file_as_absolute
from donabe.cli.native_child import ask_child, device_options
from donabe.cli.text import format_bytes, format_table
from donabe.types import JsonObject, LoadOptions, ModelSpec

_TIMEOUT_S = 300.0
# Stored parameters that change what is loaded; not those for which donabe would choose by itself.
_STORED = {"num_ctx": "n_ctx_per_request", "num_batch": "n_batch"}


@click.command(
    "fit",
    cls=Command,
    settings=("models", "context_length", "num_parallel", "kv_cache_type", "gpu_layers", "auto_tune"),
)
@click.argument("model", callback=file_as_absolute)
@click.option("--context", type=click.IntRange(4, 1 << 24), help="Tokens of context per request")
@click.option("--parallel", type=click.IntRange(1, 256), help="Requests that run at once")
@click.option("--json", "as_json", is_flag=True, help="Print the plans as JSON")
@click.pass_context
def fit(ctx: click.Context, model: str, context: int | None, parallel: int | None, as_json: bool) -> None:
    """Show the memory MODEL would take, and which contexts would fit. The exit code is 1 if the plan does not fit."""
    import msgspec

    from donabe.store.resolve import resolve_model

    spec = resolve_model(model, pull=False)
    options = _options(spec, context, parallel)
    request = {"spec": msgspec.to_builtins(spec), "options": msgspec.to_builtins(options), "contexts": True}
    answer = ask_child("donabe.runner.plan_child", request, timeout_s=_TIMEOUT_S)
    click.echo(
        json.dumps({"model": spec.name, **answer}, indent=2) if as_json else _report(spec.name, answer), nl=as_json
    )
    ctx.exit(0 if answer["plan"]["fits"] else 1)


def _options(spec: ModelSpec, context: int | None, parallel: int | None) -> LoadOptions:
    """As the server would load the model: the settings, the stored parameters, and what was asked for."""
    import msgspec

    from donabe.settings import load_settings

    settings = load_settings()
    values: JsonObject = {
        "n_ctx_per_request": settings.context_length or None,
        "n_parallel": parallel or settings.num_parallel or None,
        "flash_attention": settings.flash_attention,
        "type_k": spec.parameters.get("kv_cache_type") or settings.kv_cache_type,
        "type_v": spec.parameters.get("kv_cache_type") or settings.kv_cache_type,
        "prefix_cache_ram_bytes": settings.prefix_cache_ram_bytes,
        "prefix_cache_home": str(settings.home),  # tuned settings are there, too
        "auto_tune": settings.auto_tune,
        **device_options(settings, spec.parameters),
    }
    for name, field in _STORED.items():
        if spec.parameters.get(name):
            values[field] = spec.parameters[name]
    if context is not None:
        values["n_ctx_per_request"] = context
    n_trained = spec.details.context_length
    if values["n_ctx_per_request"] and 0 < n_trained < values["n_ctx_per_request"]:
        values["n_ctx_per_request"] = n_trained
    return msgspec.convert(values, LoadOptions)


def _report(name: str, answer: JsonObject) -> str:
    plan = answer["plan"]
    rows = [(_kind, format_bytes(n_bytes)) for _kind, n_bytes in _parts(plan) if n_bytes]
    lines = [
        f"{name}: {plan['n_parallel']} requests at once, {plan['n_ctx_per_request']} tokens each at most, "
        f"{plan['n_ctx']} in the pool\n\n",
        format_table(("PART", "SIZE"), rows),
        "\n",
    ]
    lines.append(
        format_table(("DEVICE", "TAKES", "FREE", ""), [_device_row(plan, device) for device in plan["devices"]])
    )
    lines.append("\n" + format_table(("CONTEXT", "IN THE POOL", "MEMORY", "FITS"), _context_rows(answer["contexts"])))
    if answer["given_up"]:
        lines.append(f"\na load would be made to fit: {answer['given_up']}\n")
    if plan["projector"] is not None:
        lines.append("\n" + _projector_line(plan["projector"]))
    if plan["prefix_cache_bytes"]:
        lines.append(f"\nkept prefixes may add up to {format_bytes(plan['prefix_cache_bytes'])}\n")
    return "".join(lines)


def _parts(plan: JsonObject) -> list[tuple[str, int]]:
    def total(field: str) -> int:
        return sum(device[field] for device in plan["devices"])

    return [
        ("weights", total("weights_bytes")),
        ("cache, attention", plan["attention_bytes"]),
        ("cache, sliding window", plan["window_bytes"]),
        ("cache, recurrent state", plan["state_bytes"]),
        ("compute buffers", total("compute_bytes")),
        ("output rows", plan["output_bytes"]),
        ("draft model", total("draft_bytes")),
        ("the process itself", plan["process_bytes"]),
    ]


def _projector_line(projector: JsonObject) -> str:
    size = format_bytes(projector["file_bytes"])
    if projector["is_loaded"]:
        return f"its projector takes {size} of the memory\n"
    return f"its projector ({size}) is not loaded: this version runs text only\n"


def _device_row(plan: JsonObject, device: JsonObject) -> tuple[str, str, str, str]:
    is_machine = device["name"] == "CPU"
    takes = plan["resident_bytes"] if is_machine else _device_bytes(device)
    verdict = "fits" if takes <= device["free_bytes"] else "does not fit"
    return (
        "memory" if is_machine else device["name"],
        format_bytes(takes),
        format_bytes(device["free_bytes"]),
        verdict,
    )


def _device_bytes(device: JsonObject) -> int:
    return sum(int(device[f"{part}_bytes"]) for part in ("weights", "cache", "compute", "draft"))


def _context_rows(plans: list[JsonObject]) -> list[tuple[str, str, str, str]]:
    rows = []
    for plan in plans:
        gpus = sum(_device_bytes(device) for device in plan["devices"] if device["name"] != "CPU")
        memory = format_bytes(plan["resident_bytes"]) + (f" + {format_bytes(gpus)} on devices" if gpus else "")
        rows.append((str(plan["n_ctx_per_request"]), str(plan["n_ctx"]), memory, "yes" if plan["fits"] else "no"))
    return rows
