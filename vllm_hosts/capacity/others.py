"""Memory of cards that others use. vLLM does not share: it wants its part free as it starts.

Source: ``request_memory`` in ``vllm/v1/worker/utils.py``, with what CUDA reports in
``vllm/utils/mem_utils.py``. It is the same for every model, and with a cache of a given size too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vllm_hosts.capacity import estimates
from vllm_hosts.capacity.arguments import gives
from vllm_hosts.capacity.estimates import GIB
from vllm_hosts.capacity.result import AgentPlan, HostPlan, Verdict
from vllm_hosts.host.nvidia_apps import Holder
from vllm_hosts.host.nvidia_smi import Gpu as Card
from vllm_hosts.settings import Agent

#: Beginning of vLLM's own sentence, and what stands in it behind the figures.
_WORDS = "Free memory on device ... on startup is less than desired GPU memory utilization"
#: A smaller part of a card is no advice.
_LEAST = 0.1


@dataclass(frozen=True)
class HeldMemory:
    """Others hold so much of an agent's card that its vLLM would not start.

    :ivar certain: even if vLLM itself needed nothing before it measures; else by an estimate.
    """

    certain: bool
    sentence: str


def held(agent: Agent, cards: Iterable[Card], programs: Sequence[Holder]) -> HeldMemory | None:
    """What others hold of an agent's cards, if it is too much.

    What agents of ours hold does not count: one that is replaced gives it back first, and settings
    see to it that those side by side have room.

    :param cards: the host's.
    """
    for card in cards:
        others = [one for one in programs if one.gpu == card.uuid and not one.ours]
        used = sum(one.memory_mib or 0 for one in others) << 20
        if card.index not in agent.gpus or card.memory_mib is None or not used:
            continue
        part, whole = agent.gpu_memory_utilization, card.memory_mib << 20
        # CUDA sees less than nvidia-smi says, so that this is the least that is missing. Loaders
        # that keep weights elsewhere are asked for less.
        certain = used > (1 - part) * whole and not gives(agent, "--load-format")
        own, seen = estimates.context(len(agent.gpus)), whole - estimates.DRIVER
        if certain or used + own > (1 - part) * seen:
            most = int(100 * (1 - (used + own) / max(seen, 1))) / 100
            return HeldMemory(certain, _sentence(agent, card, others, used, certain, most))
    return None


def _sentence(
    agent: Agent, card: Card, others: Sequence[Holder], used: int, certain: bool, most: float
) -> str:
    largest = sorted(others, key=lambda one: -(one.memory_mib or 0))
    who = ", ".join(f"{one.name} (pid {one.pid})" for one in largest[:3])
    who += f" and {len(largest) - 3} more" if len(largest) > 3 else ""
    pids = [str(one.pid) for one in largest[:3]]
    lower = f", or set gpu_memory_utilization to {most:g} or lower" if most >= _LEAST else ""
    return (
        f"agent {agent.name!r}: {used / GIB:.1f} GiB of GPU {card.index} are in use by {who}, not"
        f" by an agent of ours, so vLLM with gpu_memory_utilization"
        f" {agent.gpu_memory_utilization:g} will{'' if certain else ' probably'} stop with its own"
        f' words: "{_WORDS}"; end that (ps -fp {",".join(pids)} shows it, kill'
        f" {' '.join(pids)} ends it), give the agent another GPU{lower}"
    )


def beside_others(
    plan: HostPlan, agents: Sequence[Agent], cards: Sequence[Card], programs: Sequence[Holder]
) -> HostPlan:
    """A host's plan with what others hold of its cards now."""
    by_name = {agent.name: agent for agent in agents}
    found = tuple(_beside(one, held(by_name[one.agent], cards, programs)) for one in plan.agents)
    return replace(plan, agents=found)


def _beside(plan: AgentPlan, found: HeldMemory | None) -> AgentPlan:
    if found is None:
        return plan
    if found.certain:
        problems = (*plan.problems, found.sentence)
        return replace(plan, verdict=Verdict.DOES_NOT_FIT, problems=problems)
    fits = plan.verdict is Verdict.FITS
    return replace(
        plan,
        verdict=Verdict.PROBABLY_NOT if fits else plan.verdict,
        warnings=(found.sentence, *plan.warnings),
    )
