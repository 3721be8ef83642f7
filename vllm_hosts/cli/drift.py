"""`vllm-hosts drift`: where hosts differ from what a deploy would leave."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from vllm_hosts.cli.choice import host_option
from vllm_hosts.cli.command import Command, Exit, show_lines
from vllm_hosts.cli.common import inventory_argument, only, opened
from vllm_hosts.drift import HostDrift
from vllm_hosts.drift import drift as find_drift
from vllm_hosts.host.files import Cause

_CAUSES = {
    Cause.SETTINGS: "the settings or the toolkit changed since the last deploy; the host did not",
    Cause.HOST: "the host was changed since the last deploy; the settings were not",
    Cause.BOTH: "the host was changed since the last deploy, and so were the settings",
    Cause.UNFINISHED: "the last deploy was cut off before it wrote this",
}
_NO_RECORD = (
    "whether the settings or the host changed cannot be determined for the rest: the host has no"
    " record of what was deployed there; the next deploy leaves one"
)


@click.command(cls=Command)
@inventory_argument
@host_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drift(inventory: Path, hosts: tuple[str, ...], as_json: bool) -> None:
    """Show where hosts differ from what a deploy would leave. Changes nothing.

    For files it shows the lines that differ, - as on the host and + as a deploy writes them, with
    secrets masked, and whether the host or the settings changed since the last deploy.

    Exit codes: 0 nothing differs, 3 something does, 1 some checks could not be completed.

    Example: vllm-hosts drift inventory/prod.py --json
    """
    project = opened(inventory)
    # What is wrong with it ends pyinfra's part below with a code of its own.
    project.store.peek()
    found = find_drift(project, only(project, hosts))
    if as_json:
        click.echo(json.dumps({name: host.as_json() for name, host in found.items()}, indent=2))
    else:
        _show(found)
    if any(host.unknown for host in found.values()):
        sys.exit(Exit.WRONG)
    sys.exit(Exit.DIFFERS if any(host.drifted for host in found.values()) else Exit.OK)


def _show(found: Mapping[str, HostDrift]) -> None:
    """What differs on each host, with the lines, and who changed it."""
    for name, host in found.items():
        if not host.drifted and not host.unknown:
            click.echo(f"{click.style(name, bold=True)}: nothing differs")
            continue
        click.secho(name, bold=True)
        for item in host.drifted:
            click.secho(f"  {item.what} {item.how}  ", nl=False, fg="yellow")
            click.echo(f"(role {item.role})")
            # What is missing speaks for itself, unless somebody took it away.
            brought = item.missing and item.cause is Cause.SETTINGS
            if item.cause in _CAUSES and not brought:
                click.echo(f"    {_CAUSES[item.cause]}")
            show_lines(item.diff)
        if any(item.cause is Cause.UNKNOWN for item in host.drifted):
            click.echo(f"  {_NO_RECORD}")
        for why in host.unknown:
            click.secho(f"  could not check: {why}", fg="red")
