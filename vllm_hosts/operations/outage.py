"""Does what takes all agents of a host down, such as a restart of Docker, in the host's turn."""

from __future__ import annotations

import time
from collections.abc import Iterable

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.docker import AgentsServed, Served
from vllm_hosts.operations.base import Commands
from vllm_hosts.operations.foreseen import leads_to
from vllm_hosts.operations.healthy import wait_healthy
from vllm_hosts.operations.one_by_one import Serving, abandon, announce, turn_taken

#: Seconds until Docker has to answer again after it, or its host, was restarted.
_DOCKER_ANSWERS = 120.0
_LOOK_EVERY = 2.0


def outage(
    commands: Iterable[PyinfraCommand],
    serving: Serving | None,
    what: str,
    *,
    outlived: bool = False,
) -> Commands:
    """Run commands that take agents down while no other host has the same models down, and wait
    until those agents serve again. Gateways send them no requests meanwhile.

    :param what: what happens, such as "Docker is restarted".
    :param outlived: running containers continue if Docker's live-restore is in force.
    """
    if serving is None:
        leads_to(what)
        yield from commands
        return
    served = look(AgentsServed)
    agents = [agent for agent in serving.models if agent in served.well]
    if outlived and served.live_restore:
        agents, what = [], f"{what}; agents keep running"
    leads_to(what + out_for(agents, served))
    if not agents or not ctx_state.get().is_executing:
        yield from commands
        return
    models = serving.of(agents)
    with turn_taken(announce(models, models, serving.at_once), together=serving.together):
        serving.leaving.out(agents)
        yield from commands
        try:
            _wait(serving, agents)
            serving.leaving.back(agents)
        except HostError as error:
            host = ctx_host.get()
            host.log_styled(
                f"{error}\n    the deploy goes on here, and may repair that",
                fg="yellow",
                log_func=logger.warning,
            )
            abandon(host.name)


def out_for(agents: list[str], served: Served) -> str:
    """What that means for clients."""
    if not agents:
        return ""
    seconds = [served.starts[agent] for agent in agents if agent in served.starts]
    long = f"about {max(seconds)} s" if len(seconds) == len(agents) else "minutes"
    are = "is" if len(agents) == 1 else "are"
    return f"; {', '.join(agents)} {are} down for {long} after it, while models load"


def _wait(serving: Serving, agents: list[str]) -> None:
    deadline = time.monotonic() + _DOCKER_ANSWERS
    while not look(AgentsServed).answers:
        if time.monotonic() > deadline:
            raise HostError(f"Docker does not answer after {_DOCKER_ANSWERS:.0f} s")
        time.sleep(_LOOK_EVERY)
    wait_healthy(serving.directory, agents, serving.timeout)
