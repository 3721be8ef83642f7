"""`vllm-hosts images`: container images on hosts, and removing those that nobody needs any more."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_hosts.agents.chosen import Chosen
from vllm_hosts.agents.images import Row, State, gigabytes, judged, old_ones
from vllm_hosts.agents.prune import remove
from vllm_hosts.cli.choice import choose, host_option
from vllm_hosts.cli.command import Command, Exit, agreed, yes_option
from vllm_hosts.cli.common import inventory_argument, say_errors
from vllm_hosts.connect.connections import ask_host
from vllm_hosts.connect.lock import Purpose, holding
from vllm_hosts.errors import HostError
from vllm_hosts.facts.vllm_images import ImagesThere
from vllm_hosts.project.site import held_for

#: Seconds in which a host must say what it has.
_LIMIT = 60.0
_WIDE = 240
_COLOURS = {State.IN_USE: "green", State.SETTINGS: "green", State.OLD: "yellow"}
Found = Mapping[str, "list[Row] | HostError"]


@click.command(cls=Command)
@inventory_argument
@click.argument("action", required=False, type=click.Choice(["prune"]), metavar="[prune]")
@host_option
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How many previously used images to keep, to go back without a download.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@yes_option
def images(
    inventory: Path,
    action: str | None,
    hosts: tuple[str, ...],
    keep: int,
    as_json: bool,
    yes: bool,
) -> None:
    """List the vLLM images on hosts, or remove old ones.

    An image is old if agents used it, no container uses it any more, running or stopped, the
    settings do not name it, and it is not one of those to keep. Images that no agent used, or that
    somebody else tagged, are never removed.

    Exit code 1 if a host did not answer, or an image could not be removed.

    Example: vllm-hosts images inventory/prod.py prune
    """
    if (as_json and action) or (yes and not action):
        raise click.UsageError("--json goes with the list, and --yes with prune")
    chosen = choose(inventory, hosts, None)
    found = _look(chosen, keep)
    if action:
        _prune(chosen, found, yes, held_for("images prune", inventory))
        return
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2))
    else:
        width = None if sys.stdout.isatty() else _WIDE
        Console(width=width, highlight=False).print(_table(found))
    if say_errors(found):
        sys.exit(Exit.WRONG)


def _prune(chosen: Chosen, found: Found, yes: bool, purpose: Purpose) -> None:
    failed = say_errors(found)
    old = {
        host: rows
        for host, seen in found.items()
        if not isinstance(seen, HostError) and (rows := old_ones(seen))
    }
    for host, rows in old.items():
        for row in rows:
            click.echo(f"{host}: {row.name}, {gigabytes(row.image.size)}")
    if not old and any(not isinstance(seen, HostError) for seen in found.values()):
        click.echo("There is nothing to remove.")
    count = sum(len(rows) for rows in old.values())
    if count:
        agreed(f"Remove {'this image' if count == 1 else f'these {count} images'}?", yes=yes)
    done = chosen.connections.each(old, lambda host: _removed(old[host], purpose))
    for host, result in done.items():
        if isinstance(result, HostError):
            continue
        freed, problems = result
        for problem in problems:
            click.secho(f"{host}: {problem}", fg="red", err=True)
        failed = failed or bool(problems)
        click.echo(f"{host}: {gigabytes(freed)} freed on the disk")
    if say_errors(done) or failed:
        sys.exit(Exit.WRONG)


def _look(chosen: Chosen, keep: int) -> dict[str, list[Row] | HostError]:
    return chosen.connections.each(
        chosen.agents,
        lambda host: judged(ask_host(ImagesThere), chosen.settings[host].vllm.image, keep),
        limit=_LIMIT,
    )


def _removed(rows: Sequence[Row], purpose: Purpose) -> tuple[int, list[str]]:
    """Bytes that are free since on the current host, and what could not be removed."""
    freed, problems = 0, []
    with holding(purpose, *(f"removal of {row.name}" for row in rows)):
        for row in rows:
            try:
                freed += remove(row)
            except HostError as error:
                problems.append(f"{row.name} was not removed: {error}")
    return freed, problems


def _as_json(found: Found) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for host, seen in found.items():
        if isinstance(seen, HostError):
            rows.append({"host": host, "error": str(seen)})
            continue
        rows += [
            {
                "host": host,
                "image": row.name,
                "id": row.image.id,
                "size_bytes": row.image.size,
                "state": row.state,
                "used_by": row.used_by,
                "error": None,
            }
            for row in seen
        ]
    return rows


def _table(found: Found) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("HOST", "IMAGE"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    table.add_column("SIZE", justify="right", no_wrap=True)
    for heading in ("STATE", "USED BY"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for host, seen in found.items():
        if isinstance(seen, HostError):
            table.add_row(host, Text("no answer", style="red"))
            continue
        if not seen:
            table.add_row(host, "none")
        for row in seen:
            table.add_row(
                host,
                Text(row.name),
                gigabytes(row.image.size),
                Text(row.state, style=_COLOURS.get(row.state, "")),
                Text(" ".join(row.used_by) or "-"),
            )
    return table
