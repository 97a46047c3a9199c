"""`donabe tune`: measure which settings are fastest for a model on this machine.

Works on this machine and in the user's own folder, in a child process that loads the model itself: the figures are the
machine's, and no server has to run. Servers and programs that share the folder use the result at the model's next load.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import click

from donabe.child_process import child_environment, python_command
from donabe.cli.base import Command, file_as_absolute
from donabe.cli.native_child import device_options
from donabe.errors import InvalidRequestError, RunnerDiedError, RunnerError
from donabe.types import JsonObject

CHILD_COMMAND = (python_command(), "-m", "donabe.runner.tune_child")
_N_TAIL_BYTES = 2000


@click.command("tune", cls=Command, settings=("models", "auto_tune"))
@click.argument("model", required=False, default="", callback=file_as_absolute)
@click.option("--seconds", type=float, default=60.0, show_default=True, help="Begin no new measurement after this time")
@click.option("--forget", is_flag=True, help="Remove the stored result of MODEL, or all of them")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def tune(model: str, seconds: float, forget: bool, as_json: bool) -> None:
    """Measure thread count, flash attention, micro-batch and weight order for MODEL on this machine.

    What is clearly faster than the defaults is stored and used from the model's next load on. Keep the machine quiet
    meanwhile.
    """
    from donabe.settings import load_settings
    from donabe.store.resolve import resolve_model

    settings = load_settings()
    home = str(settings.home)
    if not model and not forget:
        raise InvalidRequestError("a model is missing", field="model", hint="donabe list shows those you have")
    if forget:
        name = resolve_model(model, pull=False).name if model else None
        (answer,) = _ask({"home": home, "forget": name})
        count = int(answer["result"])
        click.echo(f"forgot {count} result{'s' * (count != 1)}")
        return
    import msgspec

    spec = resolve_model(model, pull=False)
    _warn_of_other_work()
    result: JsonObject = {}
    options = device_options(settings, spec.parameters)  # results are kept by the devices they were measured with
    request = {"home": home, "spec": msgspec.to_builtins(spec), "options": options, "seconds": seconds}
    for message in _ask(request):
        if "result" in message:
            result = message["result"]
        else:
            click.echo(_line(message["fraction"], message["setup"], message), err=True)
    click.echo(json.dumps(result, indent=2) if as_json else _summary(spec.name, result))


def _line(fraction: float, setup: str, speed: JsonObject) -> str:
    return f"{fraction:4.0%}  {setup}: {_speed(speed)}"


def _speed(speed: JsonObject) -> str:
    return f"answer {speed['decode']:.1f}, four answers {speed['batch']:.1f}, prompt {speed['prefill']:.0f} tokens/s"


def _summary(name: str, result: JsonObject) -> str:
    lines = [f"default: {_speed(result['default']['speed'])}"]
    if result["gain"] > 0:
        lines.append(f"chosen:  {_speed(result['chosen']['speed'])} ({result['gain']:+.0%})")
    lines.append(f"'{name}' uses {result['setup']} from its next load on")
    if result["was_cut_short"]:
        lines.append("not everything could be measured in this time; --seconds gives more")
    return "\n".join(lines)


def _warn_of_other_work() -> None:
    from donabe.client import Client
    from donabe.errors import DonabeError

    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5:
        click.echo(f"warning: the machine is busy (load {load:.1f}): the figures may mislead", err=True)
    try:
        with Client(timeout_s=2) as client:
            names = [model["name"] for model in client.ps().get("models", [])]
    except DonabeError:
        return  # no server, or none that would tell
    if names:
        click.echo(f"warning: loaded in the server: {', '.join(names)}; `donabe stop` them for true figures", err=True)


def _ask(request: JsonObject) -> Iterator[JsonObject]:
    """Run the child; yields its messages. Raises RunnerError with what it reported or how it ended."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            CHILD_COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=child_environment(),
            encoding="utf-8",
        )
        assert process.stdin is not None and process.stdout is not None  # asked for pipes
        is_done = False
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                message: dict[str, Any] = json.loads(line)
                if "error" in message:
                    raise RunnerError(str(message["error"]), hint=str(message["hint"]) or None)
                is_done = "result" in message
                yield message
        except BrokenPipeError:
            pass  # its end says why
        finally:
            if not is_done:
                process.kill()
            process.stdin.close()
            code = process.wait()
            process.stdout.close()
        if not is_done:
            errors.seek(max(errors.seek(0, os.SEEK_END) - _N_TAIL_BYTES, 0))
            tail = errors.read().decode("utf-8", "replace").strip().splitlines()
            raise RunnerDiedError(
                f"measuring ended early: {tail[-1] if tail else f'exit {code}'}", exit_reason=f"exit {code}"
            )
