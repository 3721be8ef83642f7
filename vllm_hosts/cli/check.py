"""`vllm-hosts check`: whether the settings can be deployed, without connecting to any host."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_hosts.cli.command import Command
from vllm_hosts.cli.common import inventory_argument, opened
from vllm_hosts.settings.exposure import exposed


@click.command(cls=Command)
@inventory_argument
def check(inventory: Path) -> None:
    """Validate all settings, without connecting to any host.

    Example: vllm-hosts check inventory/prod.py
    """
    settings = opened(inventory).settings
    for host in settings.values():
        both = " and a GPU host" if host.runs_agents else ""
        kind = f", a gateway{both}" if host.is_gateway else ""
        click.secho(f"{host.name} ({host.address}){kind}", bold=True)
        for pool in host.edge_side.pools:
            who = ", ".join(dict.fromkeys(replica.host for replica in pool.replicas))
            click.echo(f"  {pool.model:32} of {who}")
        if host.virtual is not None:
            click.echo(f"  shares {host.virtual.address} with the other gateways")
        for agent in host.own_agents:
            click.echo(f"  {agent.name:16} {agent.model:32} port {agent.port}  {_gpus(agent.gpus)}")
        for sentence in exposed(host):
            click.secho(f"  {sentence}", fg="yellow")
    agents = sum(len(host.own_agents) for host in settings.values())
    click.echo(
        f"{_count(len(settings), 'host')} and {_count(agents, 'agent')}: all settings are valid"
    )


def _gpus(gpus: tuple[int, ...]) -> str:
    if not gpus:
        return "no GPU"
    return f"GPU {', '.join(str(gpu) for gpu in gpus)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
