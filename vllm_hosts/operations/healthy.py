"""Waits for agents, and records how long they took."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.compose import AgentLog, AgentStates
from vllm_hosts.host.containers import Container, Standing
from vllm_hosts.host.paths import STARTS
from vllm_hosts.operations.base import OFTEN, Commands, host_operation
from vllm_hosts.operations.confirmed import connector_options

#: Seconds between polls of an agent that is not healthy yet, and until the first line about it.
_LOOK_EVERY = 2.0
_SAY_AFTER = 10.0
#: If vLLM exits this often while we wait, it will not come up by itself.
_CRASHES = 2
_LOG_LINES = 30


@host_operation
def agents_healthy(directory: str, agents: Sequence[str], timeout: int) -> Commands:
    """Wait until all agents are healthy, and report how long each takes. Changes nothing.

    :param timeout: seconds; the host fails with the last log lines of an agent that is not healthy
        by then, that stops, or that keeps crashing.
    """
    if ctx_state.get().is_executing:
        noted(wait_healthy(directory, agents, timeout))
    yield from ()


def wait_healthy(directory: str, agents: Sequence[str], timeout: int) -> list[str]:
    """Wait until all agents of the current host are healthy, and report how long each took.

    :param timeout: seconds.
    :returns: those that were waited for.
    :raises HostError: an agent is not healthy by then, stops, or keeps crashing.
    """
    host = ctx_host.get()
    started = time.monotonic()
    due = _SAY_AFTER
    first = look(AgentStates, agents=list(agents))
    waiting = {agent: first[agent] for agent in agents if not first[agent].well}
    late = list(waiting)
    failed: list[str] = []
    while waiting:
        time.sleep(_LOOK_EVERY)
        now = look(AgentStates, agents=list(waiting))
        seconds = time.monotonic() - started
        for agent in list(waiting):
            if now[agent].well:
                host.log(f"    {agent} is healthy after {seconds:.0f} s")
                del waiting[agent]
            elif why := _hopeless(first[agent], now[agent], seconds, timeout):
                lines = look(AgentLog, agent=agent, directory=directory, lines=_LOG_LINES)
                shown = "".join(f"\n      | {line}" for line in lines)
                failed.append(f"agent {agent} {why}; its last lines:{shown}")
                del waiting[agent]
        if waiting and seconds >= due:
            due = seconds + OFTEN
            states = ", ".join(
                f"{agent} is {now[agent].health or now[agent].state}" for agent in waiting
            )
            host.log(f"    waiting for agents: {seconds:.0f} s, {states}")
    if failed:
        raise HostError("\n    ".join(failed))
    return late


def _hopeless(first: Container, now: Container, seconds: float, timeout: int) -> str | None:
    """Why there is no point in waiting longer."""
    if now.standing in (Standing.ENDED, Standing.PAUSED):
        return f"is {now.state}"
    if now.restarts - first.restarts >= _CRASHES:
        return f"crashed {now.restarts - first.restarts} times"
    if seconds >= timeout:
        return f"is not healthy after {seconds:.0f} s (vllm.health_timeout)"
    return None


def noted(agents: Sequence[str]) -> None:
    """Record on the current host how long these agents took to start."""
    if not agents:
        return
    host, state = ctx_host.get(), ctx_state.get()
    script = "".join(
        f"""
        at=$(docker inspect --format '{{{{.State.StartedAt}}}}' {agent}) &&
            at=$(date -d "$at" +%s) && mkdir -p {STARTS} &&
            echo $(($(date +%s) - at)) >{STARTS}/{agent}"""
        for agent in agents
    )
    # If that fails, their times stay unknown.
    host.run_shell_command(
        StringCommand(script),
        print_output=False,
        print_input=False,
        **connector_options(state, host),
    )
