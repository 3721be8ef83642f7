"""What the memory plan has against a deploy. Touches no host."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_hosts.capacity import ModelFiles, PlannedGpu, plan_host
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
