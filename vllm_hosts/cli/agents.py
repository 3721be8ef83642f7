"""`vllm-hosts agents`: what runs on hosts, and starting, stopping and restarting it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import NoReturn

import click
from rich.console import Console

from vllm_hosts.agents import actions as operations
from vllm_hosts.agents.chosen import Chosen
from vllm_hosts.agents.edited import Edited, edited
from vllm_hosts.agents.logs import News, Reader
from vllm_hosts.agents.status import Drained, status_json, status_table
from vllm_hosts.cli.choice import WithHosts, choose, host_option, name_argument
from vllm_hosts.cli.command import Exit, agreed, show_lines, yes_option
from vllm_hosts.cli.common import inventory_argument, say_errors
from vllm_hosts.cli.drains import drain, show_progress, undrain
from vllm_hosts.connect.connections import ask_host
from vllm_hosts.connect.lock import Purpose, holding
from vllm_hosts.errors import HostError
from vllm_hosts.facts.agents import AgentsInspected
from vllm_hosts.facts.rotation import BalancerSeen
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import pyinfra_line
from vllm_hosts.operations.rotation import Rotation
from vllm_hosts.project.site import held_for
from vllm_hosts.settings import HostSettings

#: Seconds in which a host must say what runs there.
_LIMIT = 30.0
#: Seconds between two polls of logs.
_FOLLOW_EVERY = 1.0
#: Columns of a table that is no terminal's: nothing is cut.
_WIDE = 240
as_is_option = click.option(
    "--as-is", is_flag=True, help="Go on even if compose.yaml was edited since the last deploy."
)


@click.group(cls=WithHosts)
@inventory_argument
@host_option
@click.pass_context
def agents(context: click.Context, inventory: Path, hosts: tuple[str, ...]) -> None:
    """Show, start, stop, restart and drain agents, and read their logs.

    Example: vllm-hosts agents inventory/prod.py restart qwen3-8b
    """
    context.obj = inventory


agents.add_command(drain)
agents.add_command(undrain)


@agents.command()
@name_argument
@host_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
@click.pass_obj
def status(inventory: Path, name: str | None, hosts: tuple[str, ...], as_json: bool) -> None:
    """Show agents' states. Exit code 0 only if every agent is running and healthy.

    An agent that gets no requests from a gateway, since it was drained, is shown as such.
    """
    chosen = choose(inventory, hosts, name)
    found = chosen.connections.each(
        chosen.agents,
        lambda host: ask_host(AgentsInspected, agents=chosen.agents[host]),
        limit=_LIMIT,
    )
    gateways = chosen.gateways
    seen = chosen.connections.each(gateways, lambda gate: ask_host(BalancerSeen), limit=_LIMIT)
    drained = Drained(seen) if gateways else None
    if as_json:
        click.echo(json.dumps(status_json(chosen.agents, found, drained), indent=2))
    else:
        width = None if sys.stdout.isatty() else _WIDE
        Console(width=width, highlight=False).print(status_table(found, utc_now(), drained))
    say_errors({**found, **seen})
    if any(
        isinstance(host, HostError) or not all(agent.well for agent in host.values())
        for host in found.values()
    ):
        sys.exit(Exit.WRONG)


@agents.command()
@name_argument
@host_option
@as_is_option
@click.pass_obj
def start(inventory: Path, name: str | None, hosts: tuple[str, ...], as_is: bool) -> None:
    """Start stopped agents, and wait until they are healthy.

    Refused if compose.yaml is not what was deployed, unless --as-is is given.
    """
    chosen = choose(inventory, hosts, name)
    found = chosen.connections.each(
        chosen.agents, lambda host: edited(chosen.settings[host]), limit=_LIMIT
    )
    # Hosts that do not answer are named by what follows; the others start.
    if _say_edited(found, as_is):
        _refuse("started", inventory, found)
    _at_once(chosen, operations.start, held_for("agents start", inventory))


@agents.command()
@name_argument
@host_option
@yes_option
@click.pass_obj
def stop(inventory: Path, name: str | None, hosts: tuple[str, ...], yes: bool) -> None:
    """Drain in-flight requests, then stop agents. Asks first if no agent is named.

    They stay stopped across reboots, until they are started or deployed again. Gateways send their
    requests to other hosts first.
    """
    chosen = choose(inventory, hosts, name)
    if name is None:
        agreed(f"Stop every agent on {', '.join(chosen.agents)}?", yes=yes)
    _at_once(chosen, operations.stop, held_for("agents stop", inventory))


@agents.command()
@name_argument
@host_option
@as_is_option
@click.pass_obj
def restart(inventory: Path, name: str | None, hosts: tuple[str, ...], as_is: bool) -> None:
    """Restart agents one at a time, with the present contents of .env.

    Each has to be healthy before the next one restarts; if one does not come back, the rest are
    left as they are. Gateways send its requests to other hosts meanwhile. Refused if compose.yaml
    is not what was deployed, unless --as-is is given.
    """
    chosen = choose(inventory, hosts, name)
    show_progress()
    # Nothing is touched while a host is out of reach.
    found = chosen.connections.each(
        chosen.agents, lambda host: edited(chosen.settings[host]), limit=_LIMIT
    )
    if say_errors(found):
        click.secho(
            "Nothing was restarted. Name hosts that can be reached with --host.", fg="red", err=True
        )
        sys.exit(Exit.WRONG)
    if _say_edited(found, as_is):
        _refuse("restarted", inventory, found)
    purpose = held_for("agents restart", inventory)
    left = [(host, agent) for host, names in chosen.agents.items() for agent in names]
    while left:
        host, agent = left.pop(0)
        try:
            rotation = chosen.rotation(host)
            do = partial(operations.restart, chosen.settings[host], agent, rotation)
            chosen.connections.at(host, partial(_held, purpose, f"restart of {agent}", do))
        except HostError as error:
            click.secho(f"{host}: {error}", fg="red", err=True)
            click.secho(f"{host}: agent {agent} did not come back", fg="red", err=True)
            if left:
                click.echo(f"not restarted: {_listed(left)}", err=True)
            sys.exit(Exit.WRONG)
        click.echo(f"{host}: {agent} restarted")


@agents.command()
@name_argument
@host_option
@click.option("--follow", "-f", is_flag=True, help="Keep printing new lines.")
@click.option(
    "--lines",
    type=click.IntRange(0, 100_000),
    default=50,
    show_default=True,
    help="How many of each agent's last lines to print.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Include successful requests for /health and /metrics.",
)
@click.pass_obj
def logs(
    inventory: Path,
    name: str | None,
    hosts: tuple[str, ...],
    follow: bool,
    lines: int,
    everything: bool,
) -> None:
    """Show agents' logs, with host and agent before each line. Keys are masked."""
    reader = Reader(choose(inventory, hosts, name), lines, everything)
    news = reader.read()
    _show(news)
    if not follow:
        sys.exit(Exit.WRONG if news.problems else Exit.OK)
    try:
        while True:
            time.sleep(_FOLLOW_EVERY)
            _show(reader.read())
    except KeyboardInterrupt:
        sys.exit(Exit.OK)


def _show(news: News) -> None:
    for host, agent, line in news.lines:
        click.echo(f"{click.style(f'{host} {agent} |', fg='cyan')} {line.text}")
    for problem in news.problems:
        click.secho(problem, fg="red", err=True)


def _at_once(
    chosen: Chosen,
    do: Callable[[HostSettings, Sequence[str], Rotation], None],
    purpose: Purpose,
) -> None:
    """All hosts at the same time; each says how far it is."""
    show_progress()

    def one(host: str) -> None:
        agents = chosen.agents[host]
        step = f"{purpose.what.split()[1]} of {', '.join(agents)}"
        rotation = chosen.rotation(host)
        _held(purpose, step, partial(do, chosen.settings[host], agents, rotation))

    done = chosen.connections.each(chosen.agents, one)
    if say_errors(done):
        sys.exit(Exit.WRONG)


def _held(purpose: Purpose, step: str, do: Callable[[], None]) -> None:
    with holding(purpose, step):
        do()


def _say_edited(found: Mapping[str, list[Edited] | HostError], as_is: bool) -> bool:
    """What was edited on hosts; whether that is a reason to do nothing."""
    refused = False
    for host, edits in found.items():
        for edit in [] if isinstance(edits, HostError) else edits:
            stops = edit.stops and not as_is
            refused = refused or stops
            colour = "red" if stops else "yellow"
            click.secho(f"{host}: {edit.sentence}", fg=colour, err=True)
            show_lines(edit.lines, err=True)
    return refused


def _refuse(done: str, inventory: Path, found: Mapping[str, list[Edited] | HostError]) -> NoReturn:
    hosts = [
        host
        for host, edits in found.items()
        if not isinstance(edits, HostError) and any(edit.stops for edit in edits)
    ]
    limits = " ".join(f"--limit {quote(host)}" for host in hosts)
    click.secho(f"Nothing was {done}.", fg="red", bold=True, err=True)
    click.echo("To restore what the settings say, deploy:", err=True)
    click.echo(f"  {pyinfra_line(inventory, options=limits)}", err=True)
    click.echo("To use the files as they are until the next deploy, add --as-is", err=True)
    sys.exit(Exit.WRONG)


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{agent} on {host}" for host, agent in pairs)
