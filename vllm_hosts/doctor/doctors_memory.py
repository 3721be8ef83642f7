"""Diagnoses of memory: vLLM says itself what is missing, and mostly what would fit."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vllm_hosts.doctor import messages
from vllm_hosts.doctor.diagnoses import Finding, Remedy, finds
from vllm_hosts.doctor.messages import line_of, said_by, saying
from vllm_hosts.doctor.seen import Seen
from vllm_hosts.settings import Agent, HostSettings

#: vLLM's blocks of KV cache hold 16 tokens.
_BLOCK = 16
#: More of a card than this leaves too little for what is not counted.
_MOST = 0.95


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
    for agent, match in saying(seen, messages.KV_TOO_SMALL):
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
                "needed": f"{match['needed']} GiB",
                "available": f"{match['available']} GiB",
                "fits": fits,
                "more": _or_more_memory(settings, seen, agent.name, needed - available),
            },
        )

    for agent, match in saying(seen, messages.KV_TOO_SHORT):
        yield Finding(
            line_of(match),
            values={
                "agent": agent.name,
                "asked": match["asked"],
                "needed": "as much",
                "available": f"room for {match['fits']} tokens",
                "fits": match["fits"],
                "more": "",
            },
        )


def _or_more_memory(settings: HostSettings, seen: Seen, name: str, missing: float) -> str:
    """Other settings that give ``missing`` GiB more of each card to an agent's KV cache."""
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
    for found, match in saying(seen, messages.NO_KV):
        agent = _settings(settings, found.name)
        room = _room(settings, agent)
        more = "Choose"
        if agent.gpus and room > agent.gpu_memory_utilization + 0.005:
            more = f"Set gpu_memory_utilization = {room:g} for {agent.name}"
            more += f" (now {agent.gpu_memory_utilization:g}), or choose"
        values = {"agent": agent.name, "more": more}
        yield Finding(line_of(match), values=values, remedy=_by_the_plan(seen, agent.name))


def _by_the_plan(seen: Seen, agent: str) -> Remedy | None:
    """What to do where the memory plan knows a setting that fits; None: it does not."""
    if not (setting := seen.fitting.get(agent)):
        return None
    return Remedy(f"For {agent}, by the memory plan: {setting}; then deploy.", deploys=True)


@finds("card-taken")
def card_taken(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Somebody else was on the card before."""
    for found, match in saying(seen, messages.CARD_TAKEN):
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
    for found, match in saying(seen, messages.CUDA_OOM):
        share = _settings(settings, found.name).gpu_memory_utilization
        values = {"agent": found.name, "asked": match["asked"] or "some", "share": f"{share:g}"}
        values["fits"] = _lower(share - 0.05)
        yield Finding(line_of(match), values=values, remedy=_by_the_plan(seen, found.name))


@finds("host-memory")
def host_memory(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Docker or the kernel says that it was killed for it, or vLLM that it will not do."""
    for agent in seen.agents:
        values = {"agent": agent.name}
        killed = [
            line
            for line in seen.kernel or ()
            if "oom-kill" in line and agent.container.id and agent.container.id[:12] in line
        ]
        if match := said_by(agent, messages.HOST_TAKEN):
            yield Finding(line_of(match), values=values)
        elif agent.container.oom_killed or (killed and not agent.well):
            evidence = messages.shortened(killed[-1]) if killed else "Docker says OOMKilled"
            yield Finding(evidence, values=values)


@finds("shared-memory-too-small")
def shared_memory_too_small(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """vLLM's processes, and NCCL between GPUs, talk through it."""
    for agent, match in saying(seen, messages.SHARED_MEMORY):
        yield Finding(messages.shortened(line_of(match)), values={"agent": agent.name})
