"""Which agents of a host a deploy changes, and what clients notice of it. Touches no host."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from vllm_hosts.host.compose import ComposeFound, final_name
from vllm_hosts.host.containers import Standing
from vllm_hosts.host.files import File


@dataclass(frozen=True)
class Definition:
    """What agents should be: compose.yaml, and for each agent its variables from .env."""

    file: File
    variables: Mapping[str, Mapping[str, SecretStr]]

    @property
    def names(self) -> list[str]:
        """All variables from .env that compose.yaml uses."""
        return sorted({name for values in self.variables.values() for name in values})


@dataclass(frozen=True)
class Change:
    """An agent that will be started or recreated. ``runs``: it runs now, and will be taken down."""

    agent: str
    why: str
    runs: bool


def digest(salt: str, name: str, value: SecretStr) -> str:
    """The digest that the host makes of a line of .env, so that no secret leaves the host."""
    return hashlib.sha256(f"{salt}{name}={value.get_secret_value()}".encode()).hexdigest()


def with_new_key(definition: Definition, found: ComposeFound, salt: str) -> set[str]:
    """Agents whose variables in .env will change."""
    return {
        agent
        for agent, values in definition.variables.items()
        if any(found.env.get(name) != digest(salt, name, value) for name, value in values.items())
    }


def changes(
    agents: Sequence[str], found: ComposeFound, new_key: Collection[str] = ()
) -> list[Change]:
    """Agents that do not run as they should.

    :param found: with hashes of the compose.yaml that is about to be written.
    :param new_key: agents whose variables in .env will change.
    """
    by_service = {container.service: container for container in found.containers}
    halves = half_replaced(found)
    result = []
    for agent in agents:
        container = by_service.get(agent)
        if agent in halves:
            runs = any(one.up for one in found.containers if one.service == agent)
            result.append(Change(agent, "its replacement was cut off", runs))
            continue
        if container is None:
            result.append(Change(agent, "it is new", runs=False))
            continue
        runs = container.up or container.standing is Standing.PAUSED
        if container.config_hash != found.wanted.get(agent):
            result.append(Change(agent, "its definition changed", runs))
        elif agent in new_key:
            result.append(Change(agent, "its key changed", runs))
        elif not container.running:
            result.append(Change(agent, f"it is {container.state}", runs))
    return result


def half_replaced(found: ComposeFound) -> set[str]:
    """Agents whose replacement was cut off: the old container, healthy as it looks, may be about to
    end."""
    return {
        one.service
        for one in found.containers
        if one.name != one.service and final_name(one.name) == one.service
    }


def serving(agents: Sequence[str], found: ComposeFound) -> set[str]:
    """Agents that answer clients now."""
    return {
        container.service
        for container in found.containers
        if container.service in agents and container.well
    }


def sentences(
    changed: Sequence[Change],
    removed: Sequence[str],
    starts: Mapping[str, int],
    twins: Mapping[str, str],
) -> Iterator[str]:
    """What will happen to agents, for people who are about to confirm it.

    :param starts: seconds that each agent's last start took.
    :param twins: for each agent, the one that answers in its place meanwhile.
    """
    for change in changed:
        seconds = starts.get(change.agent)
        if not change.runs:
            how = f"takes about {_long(seconds)}" if seconds else "takes minutes: its model loads"
            yield f"agent {change.agent} is started ({change.why}); that {how}"
        elif twin := twins.get(change.agent):
            yield (
                f"agent {change.agent} is recreated ({change.why}); {twin} answers for it meanwhile"
            )
        elif seconds:
            yield (
                f"agent {change.agent} is recreated ({change.why}); it is down for about"
                f" {_long(seconds)}, as long as its last start took"
            )
        else:
            yield (
                f"agent {change.agent} is recreated ({change.why}); it is down for minutes, while"
                " its model loads"
            )
    for agent in removed:
        yield f"agent {agent} is removed: it is no longer in the settings"


def _long(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} minutes"
