"""The memory plan's objections to a deploy. Touches no host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_hosts.capacity import Gpu, ModelFiles, plan_host
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Memory:
    """``problems`` stop the host; ``warnings`` are only printed."""

    problems: list[str]
    warnings: list[str]


def memory(
    settings: HostSettings, gpus: Mapping[int, Gpu], models: Mapping[str, ModelFiles | str]
) -> Memory:
    """Only what cannot run, whatever the estimates, stops a host, and only if settings say so.

    Agents whose cards are missing are refused for that, and not for their memory.
    """
    plan = plan_host(settings, gpus, models)
    agents = [agent for agent in plan.agents if set(agent.gpus) <= set(gpus)]
    problems = [sentence for agent in agents for sentence in agent.problems]
    warnings = [f"memory plan: {sentence}" for agent in agents for sentence in agent.warnings]
    if settings.capacity.preflight == "refuse":
        return Memory(
            [
                f"{sentence} (to deploy all the same: capacity.preflight = 'warn')"
                for sentence in problems
            ],
            warnings,
        )
    return Memory([], [f"memory plan: {sentence}" for sentence in problems] + warnings)
