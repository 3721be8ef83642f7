"""Drift, in words for people."""

from __future__ import annotations

from collections.abc import Mapping

import click

from vllm_hosts.cli.common import show_lines
from vllm_hosts.drift import HostDrift
from vllm_hosts.host.files import MISSING, Cause

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


def show_drift(found: Mapping[str, HostDrift]) -> None:
    """What differs on each host, with the lines, and who changed it."""
    for name, host in found.items():
        if not host.drifted and not host.unknown:
            click.echo(f"{click.style(name, bold=True)}: in line")
            continue
        click.secho(name, bold=True)
        for item in host.drifted:
            click.secho(f"  {item.what} {item.how}  ", nl=False, fg="yellow")
            click.echo(f"(role {item.role})")
            # What is missing speaks for itself, unless somebody took it away.
            if item.cause in _CAUSES and (item.how, item.cause) != (MISSING, Cause.SETTINGS):
                click.echo(f"    {_CAUSES[item.cause]}")
            show_lines(item.diff)
        if any(item.cause is Cause.UNKNOWN for item in host.drifted):
            click.echo(f"  {_NO_RECORD}")
        for why in host.unknown:
            click.secho(f"  could not tell: {why}", fg="red")
