"""`vllm-hosts lock`: who holds hosts, and ending a run that nobody is behind any more."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from vllm_hosts.cli.choice import WithHosts, choose, host_option
from vllm_hosts.cli.command import Exit, agreed, yes_option
from vllm_hosts.cli.common import inventory_argument, say_errors
from vllm_hosts.connect.connections import ask_host
from vllm_hosts.errors import HostError
from vllm_hosts.facts.lock import LockFound, LockState, Released

#: Seconds in which a host must say who holds it, or end that.
_LIMIT = 60.0
Found = Mapping[str, "LockFound | HostError"]


@click.group(cls=WithHosts, problems="The locks cannot be shown or released:")
@inventory_argument
@host_option
@click.pass_context
def lock(context: click.Context, inventory: Path, hosts: tuple[str, ...]) -> None:
    """Show which runs hold hosts at the moment, or end such a run.

    A run that changes a host holds it until it ends, is cut off, or its connection is lost; others
    wait meanwhile.

    Example: vllm-hosts lock inventory/prod.py status
    """
    context.obj = inventory


@lock.command()
@host_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
@click.pass_obj
def status(inventory: Path, hosts: tuple[str, ...], as_json: bool) -> None:
    """Show who holds each host, since when and what for.

    Exit codes: 0 nobody holds a host, 3 somebody does, or what a run has left is still at work, 1
    a host did not answer.
    """
    chosen = choose(inventory, hosts, None, gateways=True)
    found = chosen.connections.each(chosen.agents, lambda _: ask_host(LockState), limit=_LIMIT)
    if as_json:
        click.echo(json.dumps([_as_json(host, one) for host, one in found.items()], indent=2))
    else:
        _show(found)
    if say_errors(found):
        sys.exit(Exit.WRONG)
    busy = any(one.held or one.left for one in found.values() if isinstance(one, LockFound))
    sys.exit(Exit.DIFFERS if busy else Exit.OK)


def _show(found: Found) -> None:
    for host, one in found.items():
        if isinstance(one, HostError):
            continue
        said = [f"held by {_whose(one)}"] if one.held else []
        said += [one.left.sentence] if one.left else []
        for words in said or ["free"]:
            click.secho(host, bold=True, nl=False)
            click.secho(f": {words}", fg="yellow" if said else "green")


def _whose(found: LockFound) -> str:
    return found.owner.sentence if found.owner else "a run that has just begun"


def _as_json(host: str, found: LockFound | HostError) -> dict[str, object]:
    """The names here are the names in the JSON, and stay."""
    if isinstance(found, HostError):
        return {"host": host, "held": None, "owner": None, "left": None, "error": str(found)}
    owner = found.owner
    return {
        "host": host,
        "held": found.held,
        "owner": owner
        and {
            "who": owner.who,
            "from": owner.address,
            "what": owner.what,
            "since": owner.since,
            "pid": owner.pid,
        },
        "left": {
            "programs": [
                {"pid": pid, "since": since, "program": name}
                for pid, since, name in found.left.programs
            ],
            "changes": list(found.left.changes),
        },
        "error": None,
    }


@lock.command()
@host_option
@yes_option
@click.pass_obj
def release(inventory: Path, hosts: tuple[str, ...], yes: bool) -> None:
    """End the runs that hold hosts, by ending their connections.

    Only for a run that nobody is behind any more. What it has started on a host continues to its
    end, and the next run waits for that.

    Example: vllm-hosts lock inventory/prod.py release --host gpu1.example.com
    """
    chosen = choose(inventory, hosts, None, gateways=True)
    found = chosen.connections.each(chosen.agents, lambda _: ask_host(LockState), limit=_LIMIT)
    _show(found)
    failed = say_errors(found)
    owners = {
        host: one.owner
        for host, one in found.items()
        if isinstance(one, LockFound) and one.held and one.owner
    }
    if owners:
        one = "this run" if len(owners) == 1 else "these runs"
        agreed(f"End {one}?", yes=yes)
    ended = chosen.connections.each(
        owners,
        lambda host: ask_host(Released, pid=owners[host].pid, boot=owners[host].boot),
        limit=_LIMIT,
    )
    for host, free in ended.items():
        if free is True:
            click.echo(f"{host} is free")
        elif free is False:
            failed = True
            click.secho(f"{host} is still held; see vllm-hosts lock status", fg="red", err=True)
    if say_errors(ended) or failed:
        sys.exit(Exit.WRONG)
