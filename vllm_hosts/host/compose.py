"""A Compose project: what it has, and what it should have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_hosts.host.containers import Container
from vllm_hosts.host.marks import DEPLOY_SINCE
from vllm_hosts.host.paths import PROJECT

#: So that secrets come from .env alone, never from the environment of whoever logs in. A deploy's
#: mark stays: by it the next one finds what this one has left at work.
CLEAN_ENV = (
    'env -i PATH="$PATH" HOME="${HOME:-/root}"'
    f' ${{{DEPLOY_SINCE}:+"{DEPLOY_SINCE}=${DEPLOY_SINCE}"}}'
)
COMPOSE = f"{CLEAN_ENV} docker compose"


#: Until the old container is gone, Compose puts the beginning of its identifier in front of the new
#: one's name (docker/compose, pkg/compose/convergence.go).
_REPLACING = "[0-9a-f]{12}_"


def final_name(container: str) -> str:
    """What a container is called once it has replaced another one."""
    return re.sub(f"^{_REPLACING}", "", container)


def without_halves(compose: str, agents: Sequence[str]) -> str:
    """Shell: remove all containers of agents whose replacement was cut off, in front of a command.
    Compose itself would start the new one under its passing name, or refuse that name.

    :param compose: its program, with options.
    """
    return f"""for agent in {" ".join(agents)}; do
        half=$(docker ps --all --quiet --filter label=com.docker.compose.project={PROJECT} \\
            --filter label=com.docker.compose.service=$agent --filter 'name=^/?{_REPLACING}')
        [ -z "$half" ] || {compose} rm --stop --force $agent || exit 1
    done; """


@dataclass(frozen=True)
class Network:
    """A network of the project. ``key``: its name in the compose file; ``containers``: by name."""

    key: str
    name: str
    subnet: str
    bridge: str
    containers: tuple[str, ...]


@dataclass(frozen=True)
class Hashes:
    """``wanted`` and ``error`` of ``ComposeFound``."""

    wanted: dict[str, str]
    error: str | None


@dataclass(frozen=True)
class ComposeFound:
    """``wanted``: configuration hashes by service, as Compose computes them from file and .env now.

    ``error``: Compose's message if it could not. ``env``: salted digests of .env's lines by name,
    if they were requested. ``starts``: seconds that agents took to become healthy.
    """

    wanted: dict[str, str]
    containers: tuple[Container, ...]
    error: str | None
    networks: tuple[Network, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
