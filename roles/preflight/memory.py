"""What the memory plan has against a deploy. Touches no host."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_hosts.capacity import ModelFiles, PlannedGpu, plan_host
from vllm_hosts.capacity.others import held
from vllm_hosts.host.system import System
from vllm_hosts.settings import HostSettings


def memory(
    settings: HostSettings, gpus: Mapping[int, PlannedGpu], models: Mapping[str, ModelFiles | str]
) -> list[str]:
    """Sentences to be said. They stop no host: vLLM itself is asked before an agent is touched.

    Agents whose cards are missing are refused for that, and not for their memory.
    """
    plan = plan_host(settings, gpus, models)
    agents = [agent for agent in plan.agents if set(agent.gpus) <= set(gpus)]
    return [f"memory plan: {sentence}" for agent in agents for sentence in agent.warnings]


def occupied(settings: HostSettings, system: System) -> list[str]:
    """What programs that are no agents of ours hold of agents' cards, where it is too much.

    Only said here: an agent that stays as it is holds its own part.
    """
    found = (held(agent, system.gpus, system.programs) for agent in settings.agents)
    return [one.sentence for one in found if one]
