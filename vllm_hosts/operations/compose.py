"""The one way in which containers are started, changed and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_hex
from typing import Any

from pydantic import SecretStr
from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import ahead, look
from vllm_hosts.facts.compose import ComposeHashes, ComposeProject
from vllm_hosts.facts.edge import EdgeRuns
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.agent_changes import (
    Change,
    Definition,
    changes,
    half_replaced,
    sentences,
    serving,
    with_new_key,
)
from vllm_hosts.host.compose import COMPOSE, ComposeFound
from vllm_hosts.host.containers import Standing
from vllm_hosts.host.files import Entry, differing
from vllm_hosts.host.gpus import turns
from vllm_hosts.operations.base import Commands, Tried, host_operation, watched
from vllm_hosts.operations.differences import differs, entries_differ, remember
from vllm_hosts.operations.edge import divert, give_back, taken_up
from vllm_hosts.operations.foreseen import Changing, agents_change, leads_to
from vllm_hosts.operations.healthy import wait_or_put_back
from vllm_hosts.operations.one_by_one import Serving, announce, announced, turn_taken
from vllm_hosts.operations.tree import change
from vllm_hosts.settings.cells import Cell

_LOOK_EVERY = 2.0
#: Checks the edge once the agents are healthy.
_EDGE_TRIES = 15


@dataclass(frozen=True)
class Agents:
    """A host's agents as a deploy wants them. ``directory`` holds compose.yaml and .env."""

    directory: str
    project: str
    names: Sequence[str]
    definition: Callable[[], Definition]
    serving: Serving
    #: By agent: others with the same model, its wanted network, its GPUs, and what it will request
    #: once it is recreated.
    peers: Mapping[str, Sequence[str]]
    cells: Mapping[str, Cell]
    cards: Mapping[str, Collection[int]]
    internal_keys: Mapping[str, SecretStr]
    #: Whether clients get an answer through the host's edge.
    edge_is_up: Callable[[], bool] = lambda: False
    #: Puts back what ran before, if agents do not come up: given why, it returns the sentence that
    #: the host fails with. None: nothing was done.
    put_back: Callable[[str], str | None] = lambda why: None
    #: What its host said when it announced that nothing changes.
    lately: list[tuple[ahead.Moment, SeenAgents]] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class SeenAgents:
    """What has to change on a host. ``different``: compose.yaml, if it has to be written."""

    different: Sequence[Entry]
    found: ComposeFound
    changed: Sequence[Change]

    @property
    def names(self) -> list[str]:
        return [change.agent for change in self.changed]


def _seen(wanted: Agents) -> SeenAgents:
    definition = wanted.definition()
    file = definition.file
    remember([file])
    tree = look(TreeState, paths=[file.path]).paths
    different = differing([file], tree)
    entries_differ(different, tree)
    asked: dict[str, Any] = {}
    salt = token_hex(16)
    if different or not ctx_state.get().is_executing:
        # Compose evaluates the future file as it would the present one.
        asked = {"file": file.content.decode(), "names": definition.names, "salt": salt}
    found = look(
        ComposeProject,
        directory=wanted.directory,
        project=wanted.project,
        **asked or {"hashes": False},
    )
    if not asked:
        hashes = look(ComposeHashes, directory=wanted.directory)
        found = replace(found, wanted=hashes.wanted, error=hashes.error)
    # While a run is prepared, .env still has the old keys.
    new_key = with_new_key(definition, found, salt) if asked else set[str]()
    return SeenAgents(different, found, changes(wanted.names, found, new_key))


@host_operation
def agents_announced(wanted: Agents) -> Commands:
    """Announce to all hosts which agents this one serves, and is about to change. Changes nothing.

    All hosts do this before any of them continues.
    """
    asked = ahead.Moment.now()
    seen = _seen(wanted)
    models = wanted.serving.of(seen.names)
    serves = wanted.serving.of(serving(wanted.names, seen.found))
    if any(one.well and one.service not in wanted.names for one in seen.found.containers):
        # An agent that leaves may have served what new ones will: it may only have another name.
        serves |= wanted.serving.of([change.agent for change in seen.changed if not change.runs])
    if ctx_state.get().is_executing:
        announce(models, serves, wanted.serving.at_once)
        wanted.lately[:] = [(asked, seen)]
    serving_ = wanted.serving
    agents_change(lambda: Changing(models, serves, serving_.together, serving_.at_once))
    yield from ()


@host_operation
def agents_running(wanted: Agents) -> Commands:
    """Write compose.yaml, start agents, and recreate those whose definition or key changed.

    An agent whose definition is unchanged keeps running. Services that are no longer in the
    compose file are removed. Behind a running edge, an agent is recreated alone if another one can
    answer for it meanwhile. Agents that share a card start one after the other, each once the one
    before it is healthy.

    Hosts that serve the same model do this one after the other. If one fails, the others stop, and
    keep their compose.yaml and agents as they are. Behind gateways, agents are out of rotation from
    before they stop until they answer again.
    """
    turn = announced() if ctx_state.get().is_executing else None
    if turn is None or not turn.models:
        # Compose takes long to say the same again.
        lately = [seen for asked, seen in wanted.lately if asked.lasts]
        yield from brought(wanted, lately[0] if lately else _seen(wanted))
        return
    was_up = bool(turn.serving) and wanted.edge_is_up()
    # Otherwise each host says so itself, and none has failed in its turn.
    wanted.serving.leaving.reachable()
    with turn_taken(turn, together=wanted.serving.together):
        # Other hosts may have taken long.
        seen = _seen(wanted)
        yield from brought(wanted, seen)
        if wanted.serving.together:
            return
        replaced = [change.agent for change in seen.changed if change.runs]
        edge = look(EdgeRuns) if replaced else False
        # Keys may have changed; the nginx role comes later, when all hosts have changed.
        for agent in replaced if edge else ():
            yield taken_up(agent)
        _wait(wanted, seen.names)
        # The edge follows what moves or goes once the nginx role has run, and gateways only then.
        stays = {one.service for one in seen.found.containers} <= set(wanted.names)
        stays = stays and not _moved(seen.found, wanted.cells)
        if was_up and stays and not answers_again(wanted.edge_is_up):
            raise HostError(
                "the agents are healthy, but the edge, which answered before, reports that they are"
                " not; see vllm-hosts doctor"
            )
        moved = _moved(seen.found, wanted.cells)
        wanted.serving.rotation.back(
            [agent for agent in seen.names if agent not in moved], again_later=True
        )


def _wait(wanted: Agents, names: Sequence[str]) -> None:
    """Wait until agents are healthy, and record how long they took, for forecasts of later runs."""
    wait_or_put_back(wanted.directory, names, wanted.serving.timeout, wanted.put_back)


def answers_again(up: Callable[[], bool]) -> bool:
    """Whether it answers within some seconds."""
    for _ in range(_EDGE_TRIES):
        if up():
            return True
        time.sleep(_LOOK_EVERY)
    return False


def brought(wanted: Agents, seen: SeenAgents) -> Commands:
    """The commands that bring agents to what they should be."""
    directory, cards, found = wanted.directory, wanted.cards, seen.found
    changed, by_service = seen.names, {one.service: one for one in seen.found.containers}
    removed = sorted(set(by_service) - set(wanted.names))
    for agent in changed:
        differs(f"agent {agent}", "does not run, or not as in compose.yaml")
    for agent in removed:
        differs(f"agent {agent}", "is no longer in the settings")
    healthy = {name for name, container in by_service.items() if container.well}
    rolled: dict[str, str] = {}
    if changed and healthy and look(EdgeRuns):
        peers = {agent: set(wanted.peers.get(agent, ())) - {agent} for agent in changed}
        for agent in [agent for agent in changed if healthy & peers[agent]]:
            rolled[agent] = sorted((healthy | rolled.keys()) & peers[agent])[0]
    for sentence in sentences(seen.changed, removed, found.starts, rolled):
        leads_to(sentence)
    at_once = [agent for agent in changed if agent not in rolled]
    rotation = wanted.serving.leaving
    if rotation.gates and (at_once or rolled):
        leads_to("their requests go to other hosts meanwhile, where gateways know one that answers")
    if ctx_state.get().is_executing:
        if rolled:
            rotation.reachable()
        rotation.out([*at_once, *removed])
    moved = _moved(found, wanted.cells)
    compose = f"{COMPOSE} --project-directory {directory} --progress plain"
    left = partial(_left, compose, moved, _stale(found), half_replaced(found))
    up = f"{compose} up --detach --no-deps"
    if seen.different:
        validate = f"{COMPOSE} --project-directory {directory} config --quiet"
        yield change(seen.different, validate=validate)
    for agent, twin in rolled.items():
        if ctx_state.get().is_executing:
            rotation.out([agent])
        yield divert(agent, twin)
        yield Tried(
            watched(f"recreating {agent}", f"{left([agent])}{up} {agent}"),
            lambda: wanted.put_back(""),
        )
        if ctx_state.get().is_executing:
            _wait(wanted, [agent])
        yield give_back(agent, wanted.internal_keys[agent])
        if ctx_state.get().is_executing:
            rotation.back([agent] if agent not in moved else [], again_later=True)
    starting = [
        name
        for name, container in by_service.items()
        if container.standing is Standing.STARTING and name in wanted.names and name not in changed
    ]
    done = list(starting)
    for turn in turns([*starting, *at_once], cards):
        now = [agent for agent in turn if agent in at_once]
        if not now:
            continue
        before = [agent for agent in done if _shared(agent, now, cards)]
        if before and ctx_state.get().is_executing:
            _wait(wanted, before)
        done += now
        # The next ones may hold the memory of the card that these need.
        held = [agent for agent in by_service if agent in at_once and agent not in done]
        held = [agent for agent in held if _shared(agent, now, cards)]
        stop = f"{compose} stop {' '.join(held)} && " if held else ""
        yield Tried(
            watched(
                f"starting {' '.join(now)}",
                f"{stop}{left(now)}{up} --remove-orphans {' '.join(now)}",
            ),
            lambda: wanted.put_back(""),
        )
    if removed and not at_once:
        names = " ".join(wanted.names)
        yield watched(f"removing {' '.join(removed)}", f"{up} --remove-orphans {names}")
    if unused := _unused(found, wanted.cells):
        differs(f"network {' '.join(unused)}", "is no longer needed")
        yield StringCommand(f"docker network rm {' '.join(unused)} >/dev/null")


def _shared(agent: str, others: Sequence[str], cards: Mapping[str, Collection[int]]) -> bool:
    """Whether an agent shares a card with one of these."""
    return any(set(cards.get(agent, ())) & set(cards.get(other, ())) for other in others)


def _moved(found: ComposeFound, cells: Mapping[str, Cell]) -> dict[str, str]:
    """By agent, its present network if that is the wrong one, which Compose would not change."""
    return {
        network.key: network.name
        for network in found.networks
        if (cell := cells.get(network.key)) is not None
        and (network.subnet, network.bridge) != (str(cell.subnet), cell.bridge)
    }


def _stale(found: ComposeFound) -> dict[str, str]:
    """By agent that does not run, its network and its container in it: a Docker that was killed as
    it started the container knows it there, and refuses to start it ever again."""
    ended = {
        one.service: one.name
        for one in found.containers
        if one.standing in (Standing.CREATED, Standing.ENDED)
    }
    return {
        network.key: f"{network.name} {ended[network.key]}"
        for network in found.networks
        if ended.get(network.key) in network.containers
    }


def _left(
    compose: str,
    moved: Mapping[str, str],
    stale: Mapping[str, str],
    halves: Collection[str],
    agents: Sequence[str],
) -> str:
    """Shell: remove all containers of agents whose replacement was cut off, which Compose does not;
    take agents out of networks that will be recreated, or that hold them."""
    leaving = [agent for agent in agents if agent in moved or agent in stale or agent in halves]
    if not leaving:
        return ""
    steps = [f"{compose} rm --stop --force {' '.join(leaving)}"]
    # Only once the container is gone does this end what is left of it.
    steps += [f"docker network disconnect --force {stale[one]}" for one in leaving if one in stale]
    if names := [moved[agent] for agent in leaving if agent in moved]:
        steps.append(f"docker network rm {' '.join(names)}")
    return "".join(f"{step} && " for step in steps)


def _unused(found: ComposeFound, cells: Mapping[str, Cell]) -> list[str]:
    """The project's networks that no agent uses, except those with other containers."""
    ours = {container.name for container in found.containers}
    return [
        network.name
        for network in found.networks
        if network.key not in cells and ours.issuperset(network.containers)
    ]
