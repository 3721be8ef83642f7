"""Puts agents back to a definition with which they were healthy, and keeps it for that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from pydantic import SecretStr
from pyinfra import logger
from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.connect import lock
from vllm_hosts.connect.connections import carry_out
from vllm_hosts.errors import HostError, LostError
from vllm_hosts.facts import look
from vllm_hosts.facts.compose import ComposeProject
from vllm_hosts.facts.docker import ImageId, ImageVersion
from vllm_hosts.facts.edge import EdgeRuns
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.facts.way_back import WayBackFound
from vllm_hosts.host.agent_changes import changes, sentences, serving
from vllm_hosts.host.compose import COMPOSE, ComposeFound
from vllm_hosts.host.files import Absent, CopiedFile, Entry, File, Folder
from vllm_hosts.host.paths import PROJECT, WAY_BACK, key_variable
from vllm_hosts.host.way_back import (
    TOKEN,
    KeptDefinition,
    Target,
    WayBack,
    obstacles,
    strangers_to_the_edge,
    target,
)
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.compose import Agents, SeenAgents, answers_again, brought
from vllm_hosts.operations.differences import asked_for
from vllm_hosts.operations.edge import taken_up
from vllm_hosts.operations.foreseen import Changing, agents_change, leads_to, refuse_for_good
from vllm_hosts.operations.healthy import wait_or_put_back
from vllm_hosts.operations.one_by_one import Serving, announce, announced, turn_taken
from vllm_hosts.operations.tree import change
from vllm_hosts.text import clean

_FILES = ("compose.yaml", "definition.json")
_NOW, _BEFORE, _UNDONE = f"{WAY_BACK}/now", f"{WAY_BACK}/before", f"{WAY_BACK}/undone"
_STEP = "the agents of before are put back"
_FAILED = "agents did not become healthy (see above)"


@dataclass(frozen=True)
class Way:
    """What a way back needs besides what the host keeps. ``directory`` holds compose.yaml;
    ``key_of``: by an agent's name, its key as it is now; ``token``: the hub's, as it is now;
    ``automatic``: deploys put agents back that do not become healthy."""

    directory: str
    key_of: Callable[[str], SecretStr]
    token: SecretStr | None
    serving: Serving
    edge_is_up: Callable[[], bool]
    automatic: bool = True


@host_operation
def kept_for_a_way_back(
    file: Callable[[], File], made: Callable[[str], KeptDefinition], directory: str, image: str
) -> Commands:
    """Keep the definition with which all agents are healthy; what it follows is kept as well.

    To be called once they are healthy.

    :param file: compose.yaml.
    :param made: what a definition says besides, given the identifier of the image.
    """
    if asked_for():
        return
    wanted = file()
    found = look(WayBackFound, directory=directory)
    undone, now = found.undone, found.now
    if undone is not None and undone.compose == wanted.sha256:
        leads_to(f"agents get the definition again that was taken back here ({undone.at})")
    definition = made(look(ImageVersion, image=image).id)
    same = now is not None and now.compose == wanted.sha256
    if same and now is not None and now.definition == definition and undone is None:
        return
    entries: list[Entry] = [
        Folder(WAY_BACK, mode=0o700),
        Folder(_NOW, mode=0o700),
        File(f"{_NOW}/compose.yaml", wanted.content, mode=0o600),
        File(f"{_NOW}/definition.json", definition.text.encode(), mode=0o600),
    ]
    copies: list[CopiedFile] = []
    if now is not None and not same:
        entries.append(Folder(_BEFORE, mode=0o700))
        copies = [CopiedFile(f"{_BEFORE}/{name}", f"{_NOW}/{name}", mode=0o600) for name in _FILES]
    if undone is not None:
        entries.append(Absent(_UNDONE))
    yield change(entries, copies=copies)


def put_back(way: Way, why: str) -> str | None:
    """Put the current host's agents back to the last definition with which they were healthy, and
    wait for them. Called while a run executes, when they did not come up.

    :param why: what did not come up; empty: that was printed.
    :returns: the sentence that the host then fails with. None: there was nothing to do, since no
        other definition is known, or deploys do not do this.
    """
    if not way.automatic:
        return None
    try:
        found = look(WayBackFound, directory=way.directory)
    except LostError:
        return None
    except HostError as error:
        _say(why)
        return f"{_FAILED}, and nothing was put back: {error}"
    if found.now is None or found.good:
        return None
    _say(why)
    try:
        stored, image = found.now, clean(found.now.definition.image, 300)
        if problems := _obstacles(way, found, stored.definition):
            return f"{_FAILED}, and nothing was put back: {'; '.join(problems)}"
        ctx_host.get().log(f"    putting back the agents of {stored.at}, from {image}")
        lock.changing(_STEP)
        carry_out([_restored(way, found, Target("now", stored))])
        agents = _agents(way, stored.definition)
        seen = _seen(agents)
        carry_out(brought(agents, seen))
        _served(agents, seen.names)
        agents.serving.rotation.back(agents.names)
    except LostError:
        return None
    except HostError as error:
        _say(str(error))
        return (
            f"{_FAILED}, and those of before could not be put back either; see vllm-hosts doctor,"
            " correct the settings, and deploy again"
        )
    return (
        f"{_FAILED}; those of before are back, from {image}, and healthy. Correct the settings, or"
        " set them back, and deploy again"
    )


def _say(problem: str) -> None:
    """A reason that may be long, at once: what is done about it takes minutes."""
    if problem:
        ctx_host.get().log_styled(clean(problem), fg="red", log_func=logger.error)


def refusals(way: Way) -> list[str]:
    """Why the current host cannot go back to what it had before the last deploy."""
    found = look(WayBackFound, directory=way.directory)
    goal = _target(way, found)
    if isinstance(goal, str):
        refuse_for_good()
        return [goal]
    definition = goal.stored.definition
    problems = _obstacles(way, found, definition)
    if goal.name == "before" and found.now is not None:
        problems += [
            f"agent {name} was renamed, moved to another port or removed since, and the edge would"
            " not know it; set that back, and deploy"
            for name in strangers_to_the_edge(definition, found.now.definition)
        ]
    return [f"cannot go back to the agents of {goal.stored.at}: {one}" for one in problems]


@host_operation
def way_back_announced(way: Way) -> Commands:
    """Announce to all hosts which agents go back. Changes nothing.

    As before a deploy, all hosts do this before any of them continues.
    """
    goal = _goal(way)
    agents = _agents(way, goal.stored.definition)
    seen = _foreseen(agents, goal)
    models = agents.serving.of(seen.names)
    serves = agents.serving.of(serving(agents.names, seen.found))
    if ctx_state.get().is_executing:
        announce(models, serves, way.serving.at_once)
    agents_change(lambda: Changing(models, serves, way.serving.together, way.serving.at_once))
    yield from ()


@host_operation
def gone_back(way: Way) -> Commands:
    """Bring agents to what they were before the last deploy, and wait until they are healthy.

    Hosts that serve the same model do this one after the other. If the agents of before are not
    healthy either, those that were healthy last are put back.
    """
    turn = announced() if ctx_state.get().is_executing else None
    taken = turn_taken(turn, together=way.serving.together) if turn else nullcontext()
    was_up = ctx_state.get().is_executing and way.edge_is_up()
    if ctx_state.get().is_executing:
        way.serving.leaving.reachable()
    with taken:
        found = look(WayBackFound, directory=way.directory)
        goal = _goal(way)
        definition = goal.stored.definition
        agents = replace(_agents(way, definition), put_back=lambda why: put_back(way, why))
        image = clean(definition.image, 300)
        leads_to(f"agents go back to those of {goal.stored.at}, from {image}")
        _say_effects(agents, goal, found)
        yield _restored(way, found, goal)
        seen = _seen(agents)
        yield from brought(agents, seen)
        # With the keys that they have now.
        for agent in seen.names if look(EdgeRuns) else ():
            yield taken_up(agent)
        wait_or_put_back(way.directory, agents.names, way.serving.timeout, agents.put_back)
        # It may ask for one that is gone.
        if was_up and not _gone(found, definition) and not answers_again(way.edge_is_up):
            raise HostError(
                "the agents are healthy, but the edge, which answered before, reports that they are"
                " not; see vllm-hosts doctor"
            )
        agents.serving.rotation.back(agents.names)
        if goal.name == "before":
            yield change(
                [Absent(f"{_BEFORE}/{name}") for name in _FILES],
                copies=[
                    CopiedFile(f"{_NOW}/{name}", f"{_BEFORE}/{name}", mode=0o600) for name in _FILES
                ],
            )
        say(["the next deploy does what the settings say: set them back too, if that is not done"])


def _agents(way: Way, definition: KeptDefinition) -> Agents:
    names = definition.names

    def none() -> None:
        raise AssertionError("its compose.yaml is on the host alone")

    return Agents(
        directory=way.directory,
        project=PROJECT,
        names=names,
        definition=none,  # type: ignore[arg-type]
        serving=replace(way.serving, models=definition.serves),
        peers=definition.peers,
        cells=definition.cells,
        cards=definition.cards,
        internal_keys={name: way.key_of(name) for name in names},
        edge_is_up=way.edge_is_up,
    )


def _seen(agents: Agents) -> SeenAgents:
    """What has to change now that compose.yaml is the one of before."""
    found = look(ComposeProject, directory=agents.directory, project=agents.project)
    return SeenAgents((), found, changes(agents.names, found))


def _foreseen(agents: Agents, goal: Target) -> SeenAgents:
    """The same while compose.yaml is another one."""
    variables = sorted({TOKEN, *(key_variable(name) for name in agents.names)})
    found: ComposeFound = look(
        ComposeProject,
        directory=agents.directory,
        project=agents.project,
        names=variables,
        path=f"{WAY_BACK}/{goal.name}/compose.yaml",
    )
    return SeenAgents((), found, changes(agents.names, found))


def _say_effects(agents: Agents, goal: Target, found: WayBack) -> None:
    """For people who are about to confirm it."""
    if ctx_state.get().is_executing:
        return
    seen = _foreseen(agents, goal)
    for sentence in sentences(seen.changed, (), seen.found.starts, {}):
        leads_to(sentence)
    for name in _gone(found, goal.stored.definition):
        leads_to(f"agent {name} is removed; the edge answers for it with 502 until it is deployed")


def _gone(found: WayBack, definition: KeptDefinition) -> list[str]:
    """Agents that were healthy last, and are none of this definition."""
    last = found.now.definition.names if found.now is not None else ()
    return sorted(set(last) - set(definition.names))


def _target(way: Way, found: WayBack) -> Target | str:
    unfinished = False
    if found.now is not None and found.good and found.undone is not None:
        project = look(ComposeProject, directory=way.directory, project=PROJECT)
        unfinished = bool(changes(found.now.definition.names, project))
    return target(found, unfinished=unfinished)


def _goal(way: Way) -> Target:
    """:raises HostError: there is none."""
    goal = _target(way, look(WayBackFound, directory=way.directory))
    if isinstance(goal, str):
        raise HostError(goal)
    return goal


def _obstacles(way: Way, found: WayBack, definition: KeptDefinition) -> list[str]:
    paths = sorted({agent.folder for agent in definition.agents})
    folders = look(TreeState, paths=paths).paths
    return list(
        obstacles(
            definition,
            found.guarded,
            directory=way.directory,
            image_id=look(ImageId, image=definition.image),
            folders={path for path in paths if folders[path].kind in "dl"},
            token=way.token is not None,
        )
    )


def _restored(way: Way, found: WayBack, goal: Target) -> StringCommand:
    """The command that puts compose.yaml and .env back, and notes what was taken back."""
    definition = goal.stored.definition
    if goal.name == "before" and found.now is not None:
        taken_back = found.now.compose
    elif found.good and found.undone is not None:
        taken_back = found.undone.compose
    else:
        taken_back = found.present or "0" * 64
    keys = {name: way.key_of(name) for name in definition.names}
    return change(
        [
            definition.env(keys, way.token),
            File(_UNDONE, f"{taken_back}\n".encode(), mode=0o600),
        ],
        copies=[
            CopiedFile(f"{way.directory}/compose.yaml", f"{WAY_BACK}/{goal.name}/compose.yaml")
        ],
        validate=f"{COMPOSE} --project-directory {way.directory} config --quiet",
    )


def _served(agents: Agents, names: list[str]) -> None:
    """Have the edge use the keys that these agents now have, and wait until they are healthy."""
    carry_out(taken_up(name) for name in names if look(EdgeRuns))
    wait_or_put_back(agents.directory, names, agents.serving.timeout, agents.put_back)
