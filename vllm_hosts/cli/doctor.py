"""`vllm-hosts doctor`: what is wrong, most likely first, and what to do."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.choice import host_option
from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.cli.common import inventory_argument, only, opened
from vllm_hosts.doctor.diagnoses import Certainty, Diagnosis
from vllm_hosts.doctor.examine import Examined, examine
from vllm_hosts.keys.places import pyinfra_line

_WIDTH = 80
_COLOURS = {Certainty.CERTAIN: "red", Certainty.LIKELY: "yellow", Certainty.POSSIBLE: "cyan"}


@click.command(cls=Command, problems="The settings are not valid:")
@inventory_argument
@host_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(inventory: Path, hosts: tuple[str, ...], as_json: bool) -> None:
    """Diagnose hosts: what is wrong, and what to do.

    The most likely cause comes first. Changes nothing.

    Exit codes: 0 nothing is wrong, 1 something is, or some checks could not be completed.

    Example: vllm-hosts doctor inventory/prod.py --host gpu1
    """
    project = opened(inventory)
    examined = examine(project, only(project, hosts))
    if as_json:
        found = {name: host.as_json() for name, host in examined.items()}
        click.echo(json.dumps(found, indent=2))
    else:
        _show(examined, inventory)
    if any(host.found or host.blind for host in examined.values()):
        sys.exit(Exit.WRONG)


def _show(examined: Mapping[str, Examined], inventory: Path) -> None:
    to_deploy: list[str] = []
    for name, host in examined.items():
        if not host.found and not host.blind:
            click.echo(f"{click.style(name, bold=True)}: no problem found")
            continue
        click.secho(name, bold=True)
        for number, diagnosis in enumerate(host.found, 1):
            _show_diagnosis(number, diagnosis)
        for why in host.blind:
            click.secho(wrapped("  could not check  ", why), fg="red")
        if any(diagnosis.deploys for diagnosis in host.found):
            to_deploy.append(name)
    if to_deploy:
        limits = " ".join(f"--limit {quote(name)}" for name in to_deploy)
        click.echo(f"to deploy: {pyinfra_line(inventory, f'deploy.py {limits}')}")


def _show_diagnosis(number: int, diagnosis: Diagnosis) -> None:
    colour = _COLOURS[diagnosis.certainty]
    heading = f"  {number}. {diagnosis.identifier} ({diagnosis.certainty})"
    click.secho(heading, fg=colour, bold=True)
    click.echo(wrapped("     ", diagnosis.what))
    click.echo(wrapped("     seen  ", diagnosis.evidence))
    click.echo(wrapped("     do    ", diagnosis.remedy))


def wrapped(first: str, text: str) -> str:
    """Text in lines of 80 columns; all but the first are indented like the text after ``first``."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
        break_long_words=True,
    )
