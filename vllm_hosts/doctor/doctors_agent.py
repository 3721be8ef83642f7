"""Diagnoses of agents: memory, models, and containers that do not serve."""

from __future__ import annotations

import math
from collections.abc import Iterator
from re import Match

from vllm_hosts.doctor import words
from vllm_hosts.doctor.model import Certainty, Finding, finds
from vllm_hosts.doctor.seen import AgentSeen, Seen
from vllm_hosts.doctor.words import last_error, line_of, said_by, saying
from vllm_hosts.settings import Agent, HostSettings

#: vLLM's blocks of KV cache hold 16 tokens.
_BLOCK = 16
#: More of a card than this leaves too little for what is not counted.
_MOST = 0.95
#: Docker restarted it so often that it will not come up by itself.
_LOOPS = 2


def _settings(settings: HostSettings, name: str) -> Agent:
    return next(agent for agent in settings.agents if agent.name == name)


def _room(settings: HostSettings, agent: Agent) -> float:
    """How much of its cards an agent may take, beside the others on them."""
    others = [
        sum(
            other.gpu_memory_utilization
            for other in settings.agents
            if other is not agent and gpu in other.gpus
        )
        for gpu in agent.gpus
    ]
    return max(0.0, min(_MOST, 1 - max(others, default=0.0)))


def _lower(share: float) -> str:
    """Rounded down to two digits."""
    return f"{max(math.floor(share * 100 + 1e-6), 1) / 100:g}"


@finds("kv-cache-too-small")
def kv_cache_too_small(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """vLLM says how much is missing and what would fit."""
    for agent, match in saying(seen, words.KV_TOO_SMALL):
        asked, needed, available = (
            int(match["asked"]),
            float(match["needed"]),
            float(match["available"]),
        )
        # Older versions leave the estimate out: the cache grows with the length, near enough.
        fits = int(match["fits"] or asked * available / needed // _BLOCK * _BLOCK)
        yield Finding(
            line_of(match),
            values={
                "agent": agent.name,
                "asked": asked,
                "needed": match["needed"],
                "available": match["available"],
                "fits": fits,
                "more": _or_more_memory(settings, seen, agent.name, needed - available),
            },
        )


def _or_more_memory(settings: HostSettings, seen: Seen, name: str, missing: float) -> str:
    """Other settings that give ``missing`` GiB more to an agent's KV cache, on each of its cards."""
    agent = _settings(settings, name)
    if not agent.gpus or "VLLM_CPU_KVCACHE_SPACE" in agent.env:
        return " (or more VLLM_CPU_KVCACHE_SPACE in its env)"
    memory = [seen.gpus.memory.get(gpu, 0.0) for gpu in agent.gpus] if seen.gpus else []
    if not memory or not min(memory):
        return ""
    share = math.ceil((agent.gpu_memory_utilization + missing / min(memory)) * 100) / 100
    if share > _room(settings, agent) + 1e-9:
        return ", or extra_args --kv-cache-dtype fp8, which halves what it needs"
    return f", or gpu_memory_utilization = {share:g} (now {agent.gpu_memory_utilization:g})"


@finds("weights-too-large")
def weights_too_large(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Nothing is left after the weights."""
    for found, match in saying(seen, words.NO_KV):
        agent = _settings(settings, found.name)
        room = _room(settings, agent)
        more = "Choose"
        if agent.gpus and room > agent.gpu_memory_utilization + 0.005:
            more = f"Set gpu_memory_utilization = {room:g} for {agent.name}"
            more += f" (now {agent.gpu_memory_utilization:g}), or choose"
        yield Finding(line_of(match), values={"agent": agent.name, "more": more})


@finds("card-taken")
def card_taken(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Somebody else was on the card before."""
    for found, match in saying(seen, words.CARD_TAKEN):
        free, total = float(match["free"]), float(match["total"])
        yield Finding(
            line_of(match),
            values={
                "agent": found.name,
                "share": f"{_settings(settings, found.name).gpu_memory_utilization:g}",
                "free": match["free"],
                "total": match["total"],
                "fits": _lower(free / total),
            },
        )


@finds("cuda-out-of-memory")
def cuda_out_of_memory(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """PyTorch could not get what it wanted."""
    for found, match in saying(seen, words.CUDA_OOM):
        share = _settings(settings, found.name).gpu_memory_utilization
        values = {"agent": found.name, "asked": match["asked"], "share": f"{share:g}"}
        yield Finding(line_of(match), values=values | {"fits": _lower(share - 0.05)})


@finds("host-memory")
def host_memory(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Docker or the kernel says that it was killed for it, or vLLM that it will not do."""
    for agent in seen.agents:
        values = {"agent": agent.name}
        killed = [
            line
            for line in seen.kernel or ()
            if "oom-kill" in line and agent.container and agent.container[:12] in line
        ]
        if match := said_by(agent, words.HOST_TAKEN):
            yield Finding(line_of(match), values=values)
        elif agent.oom_killed or (killed and not agent.well):
            evidence = words.shortened(killed[-1]) if killed else "Docker says OOMKilled"
            yield Finding(evidence, values=values)


@finds("context-too-long")
def context_too_long(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The model's own limit."""
    for agent, match in saying(seen, words.TOO_LONG):
        values = {"agent": agent.name, "asked": match["asked"], "limit": match["limit"]}
        yield Finding(line_of(match), values=values)


@finds("argument-refused")
def argument_refused(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """vLLM's command line."""
    for agent, match in saying(seen, words.ARGUMENT):
        yield Finding(words.shortened(match[0]), values={"agent": agent.name})


@finds("model-unsupported")
def model_unsupported(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """vLLM does not know the architecture."""
    for agent, match in saying(seen, words.ARCHITECTURE):
        values = {"agent": agent.name, "architecture": match["what"]}
        yield Finding(words.shortened(line_of(match)), values=values)


def _hub(settings: HostSettings, agent: AgentSeen, match: Match[str]) -> Finding:
    values = {"agent": agent.name, "model": _settings(settings, agent.name).model}
    return Finding(line_of(match), values=values)


@finds("token-refused")
def token_refused(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The hub's own words."""
    for agent, match in saying(seen, words.TOKEN_REFUSED):
        yield _hub(settings, agent, match)


@finds("model-gated")
def model_gated(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """There is no token, or its owner has not accepted the terms."""
    for agent, match in saying(seen, words.GATED):
        found = _hub(settings, agent, match)
        if said_by(agent, words.NOT_AUTHORIZED):
            remedy = (
                "Your token is good, but its owner may not read this model: ask for access at"
                " huggingface.co/{model} and wait for it; then deploy."
            )
            found = Finding(found.evidence, values=found.values, remedy=remedy)
        yield found


@finds("model-not-found")
def model_not_found(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The hub hides private models behind the same words; a bad token and terms have their own."""
    for agent, match in saying(seen, words.NOT_FOUND):
        if not said_by(agent, words.TOKEN_REFUSED) and not said_by(agent, words.GATED):
            yield _hub(settings, agent, match)


@finds("hub-unreachable")
def hub_unreachable(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """No connection, and nothing in the cache."""
    for agent, match in saying(seen, words.UNREACHABLE):
        yield _hub(settings, agent, match)


@finds("agent-missing")
def agent_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """No container, and the image is there."""
    for agent in seen.agents:
        there = seen.docker.answers and seen.docker.has_image is not False
        if seen.deployed and there and not agent.status:
            yield Finding(f"docker inspect {agent.name}: no such container", values=_name(agent))


def _looping(agent: AgentSeen) -> bool:
    return not agent.well and (agent.status == "restarting" or agent.restarts >= _LOOPS)


@finds("agent-crash-loop")
def agent_crash_loop(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It ends, and Docker starts it again."""
    for agent in seen.agents:
        if _looping(agent):
            said = last_error(agent.log) or f"exit code {agent.exit_code}, and no word in its log"
            yield Finding(
                said, Certainty.LIKELY, values=_name(agent) | {"restarts": agent.restarts}
            )


@finds("agent-stopped")
def agent_stopped(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It has ended, or never started."""
    for agent in seen.agents:
        if agent.status not in ("", "running", "restarting") and not _looping(agent):
            said = agent.error or (last_error(agent.log) if agent.exit_code else "")
            values = _name(agent) | {"status": agent.status, "code": agent.exit_code}
            yield Finding(
                words.shortened(said) or f"docker ps: {agent.status}", Certainty.LIKELY, values
            )


@finds("agent-unhealthy")
def agent_unhealthy(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It runs and does not answer, or loads for longer than it may."""
    for agent in seen.agents:
        late = agent.health == "starting" and _age(agent, seen) > settings.vllm.health_timeout
        ill = agent.status == "running" and (agent.health == "unhealthy" or late)
        if ill and not _looping(agent):
            said = last_error(agent.log) or f"docker ps: {agent.health}"
            yield Finding(said, Certainty.LIKELY, _name(agent))


@finds("agent-loading")
def agent_loading(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """It was started a short while ago."""
    for agent in seen.agents:
        age = _age(agent, seen)
        loading = agent.status == "running" and agent.health == "starting" and not _looping(agent)
        if loading and age <= settings.vllm.health_timeout:
            said = words.shortened(agent.log[-1]) if agent.log else "no word in its log yet"
            values = {"minutes": int(age // 60), "timeout": settings.vllm.health_timeout}
            yield Finding(said, Certainty.POSSIBLE, _name(agent) | values)


def _name(agent: AgentSeen) -> dict[str, object]:
    return {"agent": agent.name}


def _age(agent: AgentSeen, seen: Seen) -> float:
    """Seconds since it was started, by the host's own clock."""
    if agent.started is None or seen.now is None:
        return 0.0
    return (seen.now - agent.started).total_seconds() + seen.clock
