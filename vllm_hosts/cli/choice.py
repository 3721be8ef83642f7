"""Which agents of an inventory a command is about."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_hosts.agents.chosen import Chosen
from vllm_hosts.cli.command import Group
from vllm_hosts.cli.common import only, opened, with_agents
from vllm_hosts.connect.connections import Connections
from vllm_hosts.project.loaded import Project
from vllm_hosts.project.rotation import rotation_of


class WithHosts(Group):
    """A group of commands that take ``--host`` before their name as well as behind it.

    The group's own argument, the inventory, ends its options for click; they are put before it.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        front: list[str] = []
        rest: list[str] = []
        left = list(args)
        while left and sum(not word.startswith("-") for word in rest) < 2:
            word = left.pop(0)
            if word == "--host" and left:
                front += [word, left.pop(0)]
            else:
                (front if word.startswith("--host=") else rest).append(word)
        return super().parse_args(ctx, [*front, *rest, *left])


def _with_those_before(
    context: click.Context, parameter: click.Parameter, hosts: tuple[str, ...]
) -> tuple[str, ...]:
    """The hosts that stood before the command's name, and those behind it."""
    before = context.parent.params.get("hosts") if context.parent else None
    return (*(before or ()), *hosts)


host_option = click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Only this host. May be repeated.",
    callback=_with_those_before,
)
name_argument = click.argument("name", required=False)


def choose(
    inventory: Path, hosts: tuple[str, ...], name: str | None, *, gateways: bool = False
) -> Chosen:
    """What a command is about.

    :param gateways: whether it is about them too, which run no agents.
    :raises SettingsError: the settings cannot be deployed.
    :raises click.UsageError: there is no such host, or no such agent on these hosts.
    """
    project = opened(inventory)
    chosen = only(project, hosts)
    there = {
        host: [agent.name for agent in one.agents]
        for host, one in (chosen if gateways else with_agents(chosen)).items()
    }
    if name is None:
        return _chosen(project, there)
    agents = {host: [name] for host, names in there.items() if name in names}
    if not agents:
        known = sorted({agent for names in there.values() for agent in names})
        where = f"on {', '.join(hosts)}" if hosts else f"in {inventory}"
        raise click.UsageError(f"there is no agent {name} {where}; there is {', '.join(known)}")
    return _chosen(project, agents)


def _chosen(project: Project, agents: dict[str, list[str]]) -> Chosen:
    connections = Connections(project.inventory)
    return Chosen(
        connections,
        project.settings,
        agents,
        lambda host: rotation_of(project, host, lambda: connections),
    )
