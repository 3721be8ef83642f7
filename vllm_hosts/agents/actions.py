"""Starting, stopping and restarting deployed agents. Their definitions stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.context import ctx_host

from vllm_hosts.connect.connections import ask_host, carry_out
from vllm_hosts.facts.agents import AgentsInspected
from vllm_hosts.facts.edge import EdgeRuns
from vllm_hosts.host.compose import COMPOSE, without_halves
from vllm_hosts.host.containers import Container, Standing
from vllm_hosts.host.gpus import turns
from vllm_hosts.operations.base import watched
from vllm_hosts.operations.edge import divert, taken_up
from vllm_hosts.operations.healthy import wait_healthy
from vllm_hosts.operations.rotation import Rotation
from vllm_hosts.settings import HostSettings

#: Where there is nothing to stop.
_GONE = (Standing.ABSENT, Standing.ENDED)


@dataclass(frozen=True)
class Plan:
    """How one agent restarts. ``twin`` answers for it in the meantime; None: nobody does."""

    agent: str
    twin: str | None


def planned(settings: HostSettings, agent: str, found: dict[str, Container]) -> Plan:
    """How an agent restarts, given what runs on its host now."""
    well = [name for name in settings.twins(agent) if name in found and found[name].well]
    return Plan(agent, well[0] if well else None)


def start(settings: HostSettings, agents: Sequence[str], rotation: Rotation) -> None:
    """Start agents of the current host as its compose.yaml and .env say, and wait until they are
    healthy. One that runs is left as it is. Gateways send them requests again.

    :raises HostError: Compose cannot start one, or one does not become healthy.
    """
    found = ask_host(AgentsInspected, agents=list(agents))
    stopped = [agent for agent in agents if not found[agent].up]
    for agent in agents:
        if agent not in stopped:
            _say(f"{agent} is already running")
    edge = bool(stopped) and ask_host(EdgeRuns)
    cards = {agent.name: agent.gpus for agent in settings.agents}
    before: list[str] = []
    for turn in turns(stopped, cards):
        # Agents of one card start one after the other: each measures what is free on it.
        if before:
            wait_healthy(settings.vllm.directory, before, settings.vllm.health_timeout)
        names = " ".join(turn)
        up = f"{_alone(settings, turn)}{_compose(settings)} up {_UP} {names}"
        carry_out([watched(f"starting {names}", up)])
        if edge:
            carry_out(taken_up(agent) for agent in turn)
        before = turn
    wait_healthy(settings.vllm.directory, agents, settings.vllm.health_timeout)
    rotation.back(agents)


def stop(settings: HostSettings, agents: Sequence[str], rotation: Rotation) -> None:
    """Stop agents of the current host, after draining their requests. They stay
    stopped, over reboots too, until a start or the next deploy.

    :raises HostError: Compose cannot stop one, or a gateway cannot be told.
    """
    found = ask_host(AgentsInspected, agents=list(agents))
    running = [agent for agent in agents if found[agent].standing not in _GONE]
    for agent in agents:
        if agent not in running:
            _say(f"{agent} does not run")
    if running:
        rotation.out(running)
        names = " ".join(running)
        carry_out([watched(f"stopping {names}", f"{_compose(settings)} stop {names}")])
        for agent in running:
            _say(f"{agent} is stopped")


def restart(settings: HostSettings, agent: str, rotation: Rotation) -> None:
    """Recreate an agent of the current host, so that it reads .env again, and wait until it is
    healthy. A healthy twin answers for it meanwhile, and gateways send its requests elsewhere. The
    edge sends the key that it then has.

    :raises HostError: it does not come back, or a gateway cannot be told. Where it has a twin, that
        one keeps answering.
    """
    found = ask_host(AgentsInspected, agents=[other.name for other in settings.agents])
    edge = ask_host(EdgeRuns)
    plan = planned(settings, agent, found) if edge else Plan(agent, None)
    recreate = watched(
        f"restarting {agent}",
        f"{_alone(settings, [agent])}{_compose(settings)} up {_UP} --force-recreate {agent}",
    )
    rotation.out([agent])
    if plan.twin is not None:
        _say(f"{plan.twin} answers for {agent} meanwhile")
        carry_out([divert(agent, plan.twin), recreate])
        wait_healthy(settings.vllm.directory, [agent], settings.vllm.health_timeout)
        carry_out([taken_up(agent)])
        rotation.back([agent])
        return
    _say(f"restarting {agent}")
    carry_out([recreate])
    if edge:
        # Before it answers, so that no request reaches it with the key that it had.
        carry_out([taken_up(agent)])
    wait_healthy(settings.vllm.directory, [agent], settings.vllm.health_timeout)
    rotation.back([agent])


#: A restart never touches other services. `docker compose restart` would not read .env again.
_UP = "--detach --no-deps"


def _compose(settings: HostSettings) -> str:
    return f"{COMPOSE} --project-directory {settings.vllm.directory} --progress plain"


def _alone(settings: HostSettings, agents: Sequence[str]) -> str:
    return without_halves(_compose(settings), agents)


def _say(text: str) -> None:
    ctx_host.get().log(f"    {text}")
