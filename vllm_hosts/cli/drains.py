"""`vllm-hosts agents INVENTORY drain` and `undrain`: whether gateways send agents requests."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import click
import gevent
from pyinfra.api.output import set_echo, set_formatter
from pyinfra_cli.log import setup_logging

from vllm_hosts.agents.chosen import Chosen
from vllm_hosts.cli.choice import choose, host_option, name_argument
from vllm_hosts.cli.command import Command, Exit, agreed, yes_option
from vllm_hosts.cli.common import say_errors
from vllm_hosts.errors import HostError
from vllm_hosts.operations.rotation import Rotation, alone


@click.command(cls=Command)
@name_argument
@host_option
@click.option("--last", is_flag=True, help="Also where no other agent answers for their clients.")
@yes_option
@click.pass_obj
def drain(inventory: Path, name: str | None, hosts: tuple[str, ...], last: bool, yes: bool) -> None:
    """Have gateways send agents no new requests.

    The agents keep running, and stay drained over deploys until undrain. Asks first if no agent is
    named. Waits at most gateway.drain_timeout.
    """
    chosen = _behind_gateways(choose(inventory, hosts, name))
    if name is None:
        agreed(f"Drain every agent on {', '.join(chosen.agents)}?", yes=yes)
    show_progress()
    rotations = {host: chosen.rotation(host) for host in chosen.agents}
    if not last:
        _refuse_the_last(rotations, chosen)

    def one(host: str) -> None:
        rotation, agents = rotations[host], chosen.agents[host]
        # Whether others take their place was asked about all hosts together.
        rotation.out(agents, by_hand=True, last=True)
        found = rotation.drained()
        if missing := [agent for agent in agents if agent not in found]:
            raise HostError(
                f"no gateway knows {', '.join(missing)}, so there is nothing to drain; deploy the"
                " gateways first"
            )

    if _each(chosen, one):
        sys.exit(Exit.WRONG)


@click.command(cls=Command)
@name_argument
@host_option
@click.pass_obj
def undrain(inventory: Path, name: str | None, hosts: tuple[str, ...]) -> None:
    """Have gateways send agents requests again.

    Their host's own edge has to answer for them first.
    """
    chosen = _behind_gateways(choose(inventory, hosts, name))
    show_progress()

    def one(host: str) -> None:
        rotation, agents = chosen.rotation(host), chosen.agents[host]
        before = rotation.drained()
        rotation.back(agents, by_hand=True)
        for agent in agents:
            if agent not in before:
                click.echo(f"{host}: {agent} is not drained")

    if _each(chosen, one):
        sys.exit(Exit.WRONG)


def show_progress() -> None:
    """What hosts say while something is done there goes to standard error, as in a deploy."""
    setup_logging(logging.INFO)
    set_formatter(click.style)
    set_echo(click.echo)


def _behind_gateways(chosen: Chosen) -> Chosen:
    """:raises click.UsageError: nobody could send these agents requests, or not."""
    if direct := [host for host in chosen.agents if not chosen.settings[host].behind_gateways]:
        raise click.UsageError(
            f"no gateway is in front of {', '.join(direct)}, whose clients ask it itself; add a"
            " group gateways to the inventory, or stop agents with `vllm-hosts agents INVENTORY"
            " stop`, which lets running requests end"
        )
    return chosen


def _refuse_the_last(rotations: dict[str, Rotation], chosen: Chosen) -> None:
    """Ends the command before anything is drained, if clients would have nobody left to answer."""
    try:
        left = alone({rotations[host]: names for host, names in chosen.agents.items()})
    except HostError as error:
        click.secho(str(error), fg="red", err=True)
        sys.exit(Exit.WRONG)
    for agent, gates in sorted(left.items()):
        click.secho(
            f"no other agent answers for {agent} at {', '.join(gates)}, and its clients would get"
            " 503",
            fg="red",
            err=True,
        )
    if left:
        click.secho("Nothing was drained.", fg="red", bold=True, err=True)
        click.echo("To drain them nevertheless, add --last", err=True)
        sys.exit(Exit.WRONG)


def _each(chosen: Chosen, do: Callable[[str], None]) -> bool:
    """All hosts at the same time, none of which has to answer; whether one failed."""

    def one(host: str) -> HostError | None:
        try:
            do(host)
        except HostError as error:
            return error
        return None

    jobs = {host: gevent.spawn(one, host) for host in chosen.agents}
    gevent.joinall(jobs.values(), raise_error=True)
    return say_errors({host: job.value for host, job in jobs.items()})
