"""`donabe doctor`: is everything donabe needs here, is the store sound, and can models be pulled?"""

from __future__ import annotations

import json

import click

from donabe.cli.base import Command
from donabe.cli.health import (
    Finding,
    ask_machine,
    check_installation,
    check_models,
    check_network,
    machine_facts,
)
from donabe.cli.text import format_table
from donabe.types import JsonObject


@click.command("doctor", cls=Command, settings=("host", "models"))
@click.option("--store", "only_store", is_flag=True, help="Check only the models in the store")
@click.option("--deep", is_flag=True, help="Also read every file of the store in full and compare its digest")
@click.option("--network", is_flag=True, help="Also ask the package index and the registries whether they answer")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON")
@click.pass_context
def doctor(ctx: click.Context, only_store: bool, deep: bool, network: bool, as_json: bool) -> None:
    """Check the installation and the store. Changes nothing; the exit code is 1 if something is wrong."""
    machine = None if only_store else ask_machine()
    findings = [*(check_installation(machine) if machine is not None else ()), *check_models(deep=deep)]
    findings += check_network() if network else ()
    n_problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        value: JsonObject = {"problems": n_problems, "findings": [finding.to_json() for finding in findings]}
        if machine is not None:
            value |= machine_facts(machine)
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        click.echo(_table(findings), nl=False)
        click.echo("no problem found" if not n_problems else f"{n_problems} problem{'s' * (n_problems > 1)} found")
    ctx.exit(1 if n_problems else 0)


def _table(findings: list[Finding]) -> str:
    rows = [(finding.level, finding.subject, finding.text) for finding in findings]
    return format_table(("STATE", "WHAT", "FINDING"), rows)
