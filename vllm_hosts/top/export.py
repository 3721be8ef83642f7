"""The same for scripts, with units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.host.vllm_metrics import Metrics
from vllm_hosts.top.draw import View
from vllm_hosts.top.sample import AgentSample, hit_rate, rates


def as_json(views: Mapping[str, View]) -> list[dict[str, Any]]:
    """One object for each host. What is not known is null."""
    return [{"host": name} | _host(view) for name, view in views.items()]


def _host(view: View) -> dict[str, Any]:
    if view.now is None or view.problem is not None:
        problem = view.problem or "no answer"
        return {"error": problem, "gpu_error": None, "gpus": [], "agents": []}
    before = view.before.agents if view.before is not None else {}
    return {
        "error": None,
        "gpu_error": view.now.gpu_problem,
        "gpus": [_gpu(gpu) for gpu in view.now.gpus],
        "agents": [
            {"agent": name} | _agent(agent, before.get(name))
            for name, agent in view.now.agents.items()
        ],
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "mig": bool(gpu.mig),
        "memory_used_mib": gpu.memory_used_mib,
        "memory_total_mib": gpu.memory_mib,
        "utilization_percent": gpu.utilization,
        "temperature_celsius": gpu.temperature,
        "power_watts": gpu.power,
        "power_limit_watts": gpu.power_limit,
    }


def _agent(agent: AgentSample, before: AgentSample | None) -> dict[str, Any]:
    said = agent.metrics or Metrics()
    per_second = rates(before, agent)
    usage = agent.usage
    return {
        "state": agent.container.state,
        "health": agent.container.health,
        "metrics_error": agent.metrics_problem,
        "requests_running": said.running,
        "requests_waiting": said.waiting,
        "prompt_tokens_total": said.prompt_tokens,
        "generation_tokens_total": said.generation_tokens,
        "prompt_tokens_per_second": per_second.prompt,
        "generation_tokens_per_second": per_second.generation,
        "kv_cache_used_percent": _percent(said.kv_cache),
        "prefix_cache_hit_percent": _percent(hit_rate(said)),
        "cpu_percent": usage.cpu if usage else None,
        "memory_bytes": usage.memory if usage else None,
        "memory_limit_bytes": usage.memory_limit if usage else None,
    }


def _percent(part: float | None) -> float | None:
    return None if part is None else round(part * 100, 3)
