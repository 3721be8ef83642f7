"""Waits for agents, and records how long they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError, LostError
from vllm_hosts.facts import look
from vllm_hosts.facts.compose import AgentLog, AgentStates, HealthChecks
from vllm_hosts.host.containers import Container, Standing
from vllm_hosts.host.paths import STARTS
from vllm_hosts.operations.base import OFTEN, Commands, host_operation
from vllm_hosts.operations.confirmed import connector_options

#: Seconds between polls of an agent that is not healthy yet, the first ones sooner; and until the
#: first line about it.
_LOOK_SOON, _LOOK_EVERY = 0.25, 2.0
_SAY_AFTER = 10.0
#: If vLLM exits this often while we wait, it will not come up by itself.
_CRASHES = 2
_LOG_LINES = 30


@host_operation
def agents_healthy(
    directory: str,
    agents: Sequence[str],
    timeout: int,
    put_back: Callable[[str], str | None] = lambda why: None,
) -> Commands:
    """Wait until all agents are healthy, and report how long each takes. Never counts as a change.

    :param timeout: seconds; the host fails with the last log lines of an agent that is not healthy
        by then, that stops, or that keeps crashing.
    :param put_back: as in ``wait_or_put_back``.
    """
    if ctx_state.get().is_executing:
        wait_or_put_back(directory, agents, timeout, put_back)
    yield from ()


def wait_or_put_back(
    directory: str, agents: Sequence[str], timeout: int, put_back: Callable[[str], str | None]
) -> None:
    """Wait until agents are healthy, and record how long they took, for forecasts of later runs.

    :param put_back: called with the reason if they are not: puts back what ran before, and returns
        the sentence to fail with. None: nothing was put back.
    :raises HostError: they are not healthy.
    """
    try:
        late = wait_healthy(directory, agents, timeout)
    except LostError:
        raise
    except HostError as error:
        said = put_back(str(error))
        raise HostError(said) if said else error from None
    noted(late)


def wait_healthy(directory: str, agents: Sequence[str], timeout: int) -> list[str]:
    """Wait until all agents of the current host are healthy, and report how long each took.

    :param timeout: seconds.
    :returns: those that were waited for.
    :raises HostError: an agent is not healthy by then, stops, or keeps crashing.
    """
    if not agents:
        # Docker may have restarted by itself what was to be started, before the turn of this host.
        return []
    host = ctx_host.get()
    started = time.monotonic()
    due = _SAY_AFTER
    first = look(AgentStates, agents=list(agents))
    waiting = {agent: first[agent] for agent in agents if not first[agent].well}
    late = list(waiting)
    failed: list[str] = []
    pause = _LOOK_SOON
    while waiting:
        time.sleep(pause)
        pause = min(2 * pause, _LOOK_EVERY)
        now = look(AgentStates, agents=list(waiting))
        seconds = time.monotonic() - started
        stuck = _unchecked(waiting) if seconds >= due else {}
        for agent in list(waiting):
            if now[agent].well:
                host.log(f"    {agent} is healthy after {seconds:.0f} s")
                del waiting[agent]
            elif why := stuck.get(agent) or _hopeless(first[agent], now[agent], seconds, timeout):
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


def _unchecked(agents: Iterable[str]) -> dict[str, str]:
    """Which of these agents cannot become healthy since Docker cannot check them, and why."""
    found = look(HealthChecks, agents=list(agents))
    return {
        agent: f"may run, but Docker cannot check its health: {said}"
        for agent, said in found.items()
        if said
    }


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
