"""Diagnoses of agents: their models, and containers that do not serve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from re import Match

from vllm_hosts.doctor import messages
from vllm_hosts.doctor.diagnoses import Certainty, Finding, Remedy, finds
from vllm_hosts.doctor.messages import last_error, line_of, said_by, saying
from vllm_hosts.doctor.seen import AgentSeen, Seen
from vllm_hosts.host.containers import Container, Standing
from vllm_hosts.host.paths import WATCHDOG
from vllm_hosts.host.watchdog import Restart
from vllm_hosts.settings import Agent, HostSettings

#: Docker restarted it so often that it will not come up by itself.
_LOOPS = 2
#: Seconds for which a restart that helped is of interest: as long as the kernel's messages.
_RECENT = 86_400
#: Exit codes of a program that was asked to end, or killed.
_STOPPED = (0, 137, 143)


def _settings(settings: HostSettings, name: str) -> Agent:
    return next(agent for agent in settings.agents if agent.name == name)


@finds("context-too-long")
def context_too_long(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The model's own limit."""
    for agent, match in saying(seen, messages.TOO_LONG):
        values = {"agent": agent.name, "asked": match["asked"], "limit": match["limit"]}
        yield Finding(line_of(match), values=values)


@finds("argument-refused")
def argument_refused(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """vLLM's command line."""
    for agent, match in saying(seen, messages.ARGUMENT):
        yield Finding(messages.shortened(match[0].rstrip("')")), values={"agent": agent.name})


@finds("model-unsupported")
def model_unsupported(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """vLLM does not know the architecture."""
    for agent, match in saying(seen, messages.ARCHITECTURE):
        values = {"agent": agent.name, "architecture": match["what"]}
        yield Finding(line_of(match), values=values)
    for agent, match in saying(seen, messages.MODEL_TYPE):
        values = {"agent": agent.name, "architecture": match["what"] or match["other"]}
        yield Finding(line_of(match), values=values)


def _hub(settings: HostSettings, agent: AgentSeen, match: Match[str]) -> Finding:
    values = {"agent": agent.name, "model": _settings(settings, agent.name).model}
    return Finding(line_of(match), values=values)


@finds("token-refused")
def token_refused(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The hub's own message."""
    for agent, match in saying(seen, messages.TOKEN_REFUSED):
        yield _hub(settings, agent, match)
    if settings.secrets.has_hf_token:
        for agent, match in saying(seen, messages.ANONYMOUS):
            if not said_by(agent, messages.TOKEN_REFUSED):
                found = _hub(settings, agent, match)
                yield replace(found, certainty=Certainty.LIKELY)


@finds("model-gated")
def model_gated(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """There is no token, or its owner has not accepted the terms."""
    for agent, match in saying(seen, messages.GATED):
        found = _hub(settings, agent, match)
        if said_by(agent, messages.NOT_AUTHORIZED):
            remedy = Remedy(
                "Your token is good, but its owner may not read this model: request access at"
                " huggingface.co/{model} and wait for approval; then deploy.",
                deploys=True,
            )
            found = Finding(found.evidence, values=found.values, remedy=remedy)
        yield found


@finds("model-not-found")
def model_not_found(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Private models look the same. Where there is another reason, vLLM says this as well."""
    for agent, match in saying(seen, messages.NOT_FOUND):
        others = [messages.TOKEN_REFUSED, messages.GATED, messages.UNREACHABLE]
        if settings.secrets.has_hf_token:
            others.append(messages.ANONYMOUS)
        if not any(said_by(agent, other) for other in others):
            yield _hub(settings, agent, match)


@finds("revision-not-found")
def revision_not_found(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The model is there, in other revisions."""
    for agent, match in saying(seen, messages.NO_REVISION):
        found = _hub(settings, agent, match)
        revision = _settings(settings, agent.name).revision or "main"
        yield replace(found, values=found.values | {"revision": revision})


@finds("hub-unreachable")
def hub_unreachable(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """No connection, and nothing in the cache."""
    for agent, match in saying(seen, messages.UNREACHABLE):
        yield _hub(settings, agent, match)


@finds("agent-missing")
def agent_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """No container, and the image is there."""
    for agent in seen.agents:
        there = seen.docker.answers and seen.docker.has_image is not False
        if seen.deployed and there and not agent.container.exists:
            yield Finding(f"docker inspect {agent.name}: no such container", values=_name(agent))


def _looping(agent: AgentSeen) -> bool:
    found = agent.container
    return not found.well and (found.standing is Standing.RESTARTING or found.restarts >= _LOOPS)


@finds("agent-crash-loop")
def agent_crash_loop(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It ends, and Docker starts it again."""
    for agent in seen.agents:
        if _looping(agent):
            found = agent.container
            silent = f"exit code {found.exit_code}, and no word in its log"
            values = _name(agent) | {"restarts": found.restarts}
            yield Finding(last_error(agent.log) or silent, Certainty.LIKELY, values)


@finds("agent-stopped")
def agent_stopped(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It has ended, or never started."""
    for agent in seen.agents:
        found = agent.container
        if found.exists and not found.up and not _looping(agent):
            said = found.error or (last_error(agent.log) if found.exit_code else "")
            values = _name(agent) | {"status": found.state, "code": found.exit_code}
            yield Finding(
                messages.shortened(said) or f"docker ps: {found.state}",
                Certainty.LIKELY,
                values,
                remedy=_after_the_reason(found),
            )


def _after_the_reason(agent: Container) -> Remedy | None:
    """What to do with one that did not simply stop; None: it did, or somebody stopped it."""
    if agent.error or agent.standing is Standing.CREATED:
        return Remedy(
            "It never started; the evidence is Docker's reason. Remove that, then:"
            " vllm-hosts agents INVENTORY start {agent} --host {host}. More from Docker: journalctl"
            " -u docker -n 50"
        )
    if agent.exit_code not in _STOPPED:
        return Remedy(
            "The evidence is the last error in its log; the whole log: docker logs --tail 200"
            " {agent}. Remove that, then: vllm-hosts agents INVENTORY start {agent} --host {host}"
        )
    return None


@finds("agent-given-up")
def agent_given_up(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It hangs, and restarts by the host's watchdog did not help."""
    for agent in seen.agents:
        if end := agent.watched.gave_up:
            values = _name(agent) | {"limit": settings.vllm.watchdog_restarts, "why": end.why}
            yield Finding(_watchdog(agent, end), Certainty.LIKELY, values)


@finds("agent-was-restarted")
def agent_was_restarted(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """By the host's watchdog, within the last day."""
    for agent in seen.agents:
        recent = [one for one in agent.watched.restarts if _ago(one.at, seen) < _RECENT]
        if recent and not agent.watched.gave_up:
            values = _name(agent) | {"times": _times(len(recent)), "why": recent[-1].why}
            yield Finding(_watchdog(agent, recent[-1]), Certainty.POSSIBLE, values)


def _watchdog(agent: AgentSeen, last: Restart) -> str:
    total = agent.watched.total
    return f"{WATCHDOG}/{agent.name}: last at {last.at:%Y-%m-%d %H:%M:%S} UTC, {total} in all"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


@finds("agent-unhealthy")
def agent_unhealthy(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It runs and does not answer, or loads for longer than it may."""
    for agent in seen.agents:
        found = agent.container
        loads = found.standing is Standing.STARTING
        late = loads and _age(found, seen) > settings.vllm.health_timeout
        if (late or found.standing is Standing.UNHEALTHY) and not _looping(agent):
            said = last_error(agent.log) or f"docker ps: {found.health}"
            yield Finding(said, Certainty.LIKELY, _name(agent))


@finds("agent-loading")
def agent_loading(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It was started a short while ago."""
    for agent in seen.agents:
        age = _age(agent.container, seen)
        loading = agent.container.standing is Standing.STARTING and not _looping(agent)
        if loading and age <= settings.vllm.health_timeout:
            said = messages.shortened(agent.log[-1]) if agent.log else "no word in its log yet"
            values = {"minutes": int(age // 60), "timeout": settings.vllm.health_timeout}
            yield Finding(said, Certainty.POSSIBLE, _name(agent) | values)


def _name(agent: AgentSeen) -> dict[str, object]:
    return {"agent": agent.name}


def _age(agent: Container, seen: Seen) -> float:
    """Seconds since it was started, by the host's own clock."""
    return 0.0 if agent.started is None else _ago(agent.started, seen)


def _ago(then: datetime, seen: Seen) -> float:
    """Seconds since a time of the host's own clock."""
    return 0.0 if seen.now is None else (seen.now - then).total_seconds() + seen.clock
