"""The one way in which containers are started, changed and waited for."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from pydantic import SecretStr
from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.compose import (
    COMPOSE,
    AgentLog,
    AgentState,
    AgentStates,
    ComposeProject,
    Project,
)
from vllm_hosts.gpus import turns
from vllm_hosts.operations.base import OFTEN, Commands, host_operation, watched
from vllm_hosts.operations.differences import differs
from vllm_hosts.operations.edge import EdgeRuns, divert, give_back
from vllm_hosts.settings.cells import Cell

#: Seconds between two looks at an agent that is not healthy yet, and until the first line about it.
_LOOK_EVERY = 2.0
_SAY_AFTER = 10.0
#: vLLM that ends this often while it is waited for will not come up by itself.
_CRASHES = 2
_LOG_LINES = 30


@host_operation
def agents_running(
    directory: str,
    project: str,
    agents: Sequence[str],
    *,
    timeout: int,
    peers: Mapping[str, Sequence[str]],
    internal_keys: Mapping[str, SecretStr],
    cells: Mapping[str, Cell],
    cards: Mapping[str, Collection[int]] = {},
) -> Commands:
    """Start agents, and recreate those whose definition or key changed.

    An agent whose definition is what it was keeps running. Services that are no longer in the
    compose file are removed. Behind a running edge, an agent that another one can answer for is
    recreated alone, while that one does. Agents that have a card in common start one after the
    other, each when the one before it is healthy.

    :param directory: holds compose.yaml and .env.
    :param timeout: seconds in which an agent must become healthy before the next one restarts.
    :param peers: by agent, those with the same model.
    :param internal_keys: by agent, what it asks for once it is recreated.
    :param cells: by agent, the network that it should have.
    :param cards: by agent, its GPUs.
    """
    found = look(ComposeProject, directory=directory, project=project)
    by_service = {container.service: container for container in found.containers}
    changed = [
        agent
        for agent in agents
        if (container := by_service.get(agent)) is None
        or container.config_hash != found.wanted.get(agent)
        or container.status != "running"
    ]
    removed = sorted(set(by_service) - set(agents))
    for agent in changed:
        differs(f"agent {agent}", "does not run, or not as compose.yaml says")
    for agent in removed:
        differs(f"agent {agent}", "is no longer in the settings")
    healthy = {name for name, container in by_service.items() if container.health == "healthy"}
    rolled = []
    if changed and healthy and look(EdgeRuns):
        rolled = [agent for agent in changed if healthy & set(peers.get(agent, ())) - {agent}]
    at_once = [agent for agent in changed if agent not in rolled]
    moved = _moved(found, cells)
    compose = f"{COMPOSE} --project-directory {directory} --progress plain"
    up = f"{compose} up --detach --no-deps"
    for agent in rolled:
        yield divert(agent, sorted(healthy & set(peers[agent]) - {agent})[0])
        yield watched(f"recreating {agent}", f"{_left(compose, moved, [agent])}{up} {agent}")
        if ctx_state.get().is_executing:
            wait_healthy(directory, [agent], timeout)
        yield give_back(agent, internal_keys[agent])
        healthy.add(agent)
    starting = [
        name
        for name, container in by_service.items()
        if container.health == "starting" and name in agents and name not in changed
    ]
    done = list(starting)
    for turn in turns([*starting, *at_once], cards):
        now = [agent for agent in turn if agent in at_once]
        if not now:
            continue
        before = [agent for agent in done if _shared(agent, now, cards)]
        if before and ctx_state.get().is_executing:
            wait_healthy(directory, before, timeout)
        done += now
        # What the next ones hold of the card may be what these need.
        held = [agent for agent in by_service if agent in at_once and agent not in done]
        held = [agent for agent in held if _shared(agent, now, cards)]
        stop = f"{compose} stop {' '.join(held)} && " if held else ""
        yield watched(
            f"starting {' '.join(now)}",
            f"{stop}{_left(compose, moved, now)}{up} --remove-orphans {' '.join(now)}",
        )
    if removed and not at_once:
        yield watched(f"removing {' '.join(removed)}", f"{up} --remove-orphans {' '.join(agents)}")
    if unused := _unused(found, cells):
        differs(f"network {' '.join(unused)}", "is no longer needed")
        yield StringCommand(f"docker network rm {' '.join(unused)} >/dev/null")


def _shared(agent: str, others: Sequence[str], cards: Mapping[str, Collection[int]]) -> bool:
    """Whether an agent has a card in common with one of these."""
    return any(set(cards.get(agent, ())) & set(cards.get(other, ())) for other in others)


def _moved(found: Project, cells: Mapping[str, Cell]) -> dict[str, str]:
    """By agent, its network where that is another than it should be; Compose changes none."""
    return {
        network.key: network.name
        for network in found.networks
        if (cell := cells.get(network.key)) is not None
        and (network.subnet, network.bridge) != (str(cell.subnet), cell.bridge)
    }


def _left(compose: str, moved: Mapping[str, str], agents: Sequence[str]) -> str:
    """Shell: agents leave networks that are to be made anew."""
    leaving = [agent for agent in agents if agent in moved]
    if not leaving:
        return ""
    names = " ".join(moved[agent] for agent in leaving)
    return f"{compose} rm --stop --force {' '.join(leaving)} && docker network rm {names} && "


def _unused(found: Project, cells: Mapping[str, Cell]) -> list[str]:
    """Networks of the project that no agent has, but for those that somebody else is in."""
    ours = {container.name for container in found.containers}
    return [
        network.name
        for network in found.networks
        if network.key not in cells and ours.issuperset(network.containers)
    ]


@host_operation
def agents_healthy(directory: str, agents: Sequence[str], timeout: int) -> Commands:
    """Wait until all agents are healthy, saying how long each takes. Changes nothing.

    :param timeout: seconds; an agent that is not healthy by then, that stops, or that crashes
        again and again, fails the host with its last log lines.
    """
    if ctx_state.get().is_executing:
        wait_healthy(directory, agents, timeout)
    yield from ()


def wait_healthy(directory: str, agents: Sequence[str], timeout: int) -> None:
    """Wait at the host at hand until all agents are healthy, and say how long each took.

    :param timeout: seconds.
    :raises HostError: an agent is not healthy by then, stops, or crashes again and again.
    """
    host = ctx_host.get()
    started = time.monotonic()
    due = _SAY_AFTER
    first = look(AgentStates, agents=list(agents))
    waiting = {agent: first[agent] for agent in agents if not _well(first[agent])}
    failed: list[str] = []
    while waiting:
        time.sleep(_LOOK_EVERY)
        now = look(AgentStates, agents=list(waiting))
        seconds = time.monotonic() - started
        for agent in list(waiting):
            if _well(now[agent]):
                host.log(f"    {agent} is healthy after {seconds:.0f} s")
                del waiting[agent]
            elif why := _hopeless(first[agent], now[agent], seconds, timeout):
                lines = look(AgentLog, agent=agent, directory=directory, lines=_LOG_LINES)
                shown = "".join(f"\n      | {line}" for line in lines)
                failed.append(f"agent {agent} {why}; its last lines:{shown}")
                del waiting[agent]
        if waiting and seconds >= due:
            due = seconds + OFTEN
            states = ", ".join(f"{agent} is {now[agent].health}" for agent in waiting)
            host.log(f"    waiting for agents: {seconds:.0f} s, {states}")
    if failed:
        raise HostError("\n    ".join(failed))


def _well(state: AgentState) -> bool:
    return state.status == "running" and state.health in ("healthy", "none")


def _hopeless(first: AgentState, now: AgentState, seconds: float, timeout: int) -> str | None:
    """Why there is no point in waiting longer."""
    if now.status in ("exited", "dead", "removing", "paused"):
        return f"is {now.status}"
    if now.restarts - first.restarts >= _CRASHES:
        return f"crashed {now.restarts - first.restarts} times"
    if seconds >= timeout:
        return f"is not healthy after {seconds:.0f} s (vllm.health_timeout)"
    return None
