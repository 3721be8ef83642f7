"""The last step of every run: checks the promises again.

Promises: a run that succeeds has verified that each host is closed. Needs: all other roles. Writes
and restarts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.balancer import BalancerState
from vllm_hosts.facts.firewall import SshPorts
from vllm_hosts.facts.sockets import ListeningSockets
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host import probe
from vllm_hosts.host.sockets import unexpected_sockets
from vllm_hosts.operations import outside
from vllm_hosts.operations.checks import promise_kept, said
from vllm_hosts.project import run
from vllm_hosts.project.run import Current
from vllm_hosts.roles.assertions.plan import (
    edge_problems,
    env_problems,
    pool_problems,
    reachable_problems,
)
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import closed_ports, exposed

#: Seconds until each model has to have an agent, and between two looks.
_PATIENCE, _AGAIN = 60, 2


@deploy("Assertions")
def assertions() -> None:
    """Fail a host that is not as closed as it should be."""
    current = run.current()
    settings = current.settings
    promise_kept(partial(_sockets, current), name="Only the expected sockets listen")
    if settings.runs_agents:
        promise_kept(partial(_env, current), name=".env is readable by root only")
        promise_kept(
            lambda: list(reachable_problems(settings, _opened(settings))),
            name="The controller cannot reach an agent's port",
        )
    promise_kept(partial(_edge, current), name="The edge answers only to keys, on its own paths")
    if settings.is_gateway:
        promise_kept(partial(_pools, settings), name="Every model has an agent that answers")
    if exposures := exposed(settings):
        said(exposures, name="What its settings let others do")


def _sockets(current: Current) -> list[str]:
    sockets = look(ListeningSockets)
    ssh_ports = look(SshPorts)
    return list(unexpected_sockets(sockets, current.settings, ssh_ports))


def _env(current: Current) -> list[str]:
    path = f"{current.settings.vllm.directory}/.env"
    return list(env_problems(path, look(TreeState, paths=[path]).paths[path]))


def _opened(settings: HostSettings) -> Callable[[str, int], bool]:
    # The firewall's role has begun to try them.
    return outside.opened(
        settings.address, closed_ports(settings), answering=settings.edge.https_port
    )


def _pools(settings: HostSettings) -> list[str]:
    """Agents that have just started are found alive within seconds."""
    until = time.monotonic() + _PATIENCE
    while (found := list(pool_problems(settings, look(BalancerState)))) and (
        time.monotonic() < until
    ):
        time.sleep(_AGAIN)
    return found


def _edge(current: Current) -> list[str]:
    settings = current.settings
    with probe.visit(
        settings.address,
        settings.edge.https_port,
        name=settings.edge_names[0],
        ca_file=current.ca_file,
    ) as ask:
        return list(edge_problems(settings, lambda path: probe.patiently(partial(ask, path))))
