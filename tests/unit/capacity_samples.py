"""Plans of one host with two cards, whose agents all have the same model."""

from __future__ import annotations

from typing import Any

from tests.capacity_docs import files
from tests.unit.samples import settings
from vllm_hosts.capacity import AgentPlan, HostPlan, ModelFiles, PlannedGpu, plan_host

MODEL = "org/model"
CARD_16 = 16376 * 1024**2


def agent(**changes: Any) -> dict[str, Any]:
    return {"name": "it", "model": MODEL, "port": 8001} | changes


def host(name: str | ModelFiles, *agents: dict[str, Any], card: int = CARD_16) -> HostPlan:
    """Two cards; every agent with the same model."""
    gpus = {index: PlannedGpu(index, "NVIDIA GeForce RTX 4080", card) for index in (0, 1)}
    given = files(name) if isinstance(name, str) else name
    return plan_host(settings(agents=list(agents)), gpus, {MODEL: given})


def one(name: str | ModelFiles, card: int = CARD_16, **changes: Any) -> AgentPlan:
    return host(name, agent(**changes), card=card).agent("it")


def changed(name: str, **changes: Any) -> ModelFiles:
    """A model's configuration with these names changed; None takes one away."""
    config = {**files(name).config, **changes}
    return ModelFiles({key: value for key, value in config.items() if value is not None})
