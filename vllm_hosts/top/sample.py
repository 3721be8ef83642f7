"""One poll of a host, and what two polls say about the time between them. Touches no host."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.host.containers import Container
from vllm_hosts.host.docker_stats import Usage
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.host.vllm_metrics import Metrics


@dataclass(frozen=True)
class AgentSample:
    """One agent. ``taken``: the host's uptime in seconds when it was asked. ``metrics_problem``
    says why there are no metrics; ``usage`` is None where the container does not run."""

    container: Container
    taken: float
    metrics: Metrics | None
    metrics_problem: str | None
    usage: Usage | None


@dataclass(frozen=True)
class HostSample:
    """One look. ``gpu_problem``: why no GPUs are known; None with no GPUs: the host has none."""

    gpus: tuple[Gpu, ...]
    gpu_problem: str | None
    agents: dict[str, AgentSample]


@dataclass(frozen=True)
class Rates:
    """Tokens per second between two looks; None: not known."""

    prompt: float | None = None
    generation: float | None = None


def rates(before: AgentSample | None, now: AgentSample) -> Rates:
    """What two polls of one agent say about the time between them.

    Nothing where the agent started in between, since vLLM then counts from zero again.
    """
    if before is None or before.metrics is None or now.metrics is None:
        return Rates()
    seconds = now.taken - before.taken
    if seconds <= 0 or before.container.since != now.container.since:
        return Rates()
    return Rates(
        _rate(before.metrics.prompt_tokens, now.metrics.prompt_tokens, seconds),
        _rate(before.metrics.generation_tokens, now.metrics.generation_tokens, seconds),
    )


def _rate(before: float | None, now: float | None, seconds: float) -> float | None:
    if before is None or now is None or now < before:
        return None
    return (now - before) / seconds


def hit_rate(metrics: Metrics) -> float | None:
    """The part of asked-for prompt tokens that the prefix cache had, since the agent's start."""
    if metrics.prefix_hits is None or not metrics.prefix_queries:
        return None
    return metrics.prefix_hits / metrics.prefix_queries
