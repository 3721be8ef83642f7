"""`vllm-hosts history`: who changed hosts, when, from where and what."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from vllm_hosts.cli.choice import choose, host_option
from vllm_hosts.cli.command import Command, Exit
from vllm_hosts.cli.common import inventory_argument, say_errors
from vllm_hosts.connect.connections import ask_host
from vllm_hosts.errors import HostError
from vllm_hosts.facts.lock import HostHistory
from vllm_hosts.host.history import HistoryEntry

#: Seconds in which a host must answer.
_LIMIT = 60.0


@click.command(cls=Command, problems="The history cannot be shown:")
@inventory_argument
@host_option
@click.option(
    "--lines",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="How many runs of each host, the last ones.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
def history(inventory: Path, hosts: tuple[str, ...], lines: int, as_json: bool) -> None:
    """Show who changed hosts, from where, and what.

    Each host keeps this itself, the last 500 runs, and root there can edit it. Runs that changed
    nothing leave no line.

    Exit code 1 if a host did not answer.

    Example: vllm-hosts history inventory/prod.py --host gpu1.example.com
    """
    chosen = choose(inventory, hosts, None, gateways=True)
    found = chosen.connections.each(
        chosen.agents, lambda _: ask_host(HostHistory, lines=lines), limit=_LIMIT
    )
    if as_json:
        click.echo(json.dumps([_as_json(host, one) for host, one in found.items()], indent=2))
    else:
        for host, one in found.items():
            if not isinstance(one, HostError):
                _show(host, one)
    if say_errors(found):
        sys.exit(Exit.WRONG)


def _show(host: str, changes: tuple[HistoryEntry, ...]) -> None:
    click.secho(host, bold=True, nl=not changes)
    if not changes:
        click.echo("  nothing was changed since this is kept")
        return
    click.echo()
    for change in changes:
        commit = f" at {change.commit}" if change.commit else ""
        at = f" ({change.address})" if change.address not in ("", "-") else ""
        colour = None if change.ended == "done" else "yellow"
        click.echo(f"  {change.at} {change.what} by {change.who}{at}{commit}: ", nl=False)
        click.secho(change.ended, fg=colour)
        for step in change.changed:
            click.echo(f"      {step}")


def _as_json(host: str, found: tuple[HistoryEntry, ...] | HostError) -> dict[str, object]:
    """The names here are the names in the JSON, and stay."""
    if isinstance(found, HostError):
        return {"host": host, "runs": None, "error": str(found)}
    runs = [
        {
            "ended_at": one.at,
            "began_at": one.since,
            "who": one.who,
            "from": one.address,
            "what": one.what,
            "commit": one.commit or None,
            "version": one.version,
            "ended": one.ended,
            "changed": list(one.changed),
        }
        for one in found
    ]
    return {"host": host, "runs": runs, "error": None}
