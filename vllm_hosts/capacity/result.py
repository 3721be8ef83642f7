"""What a plan says of a host: its cards, and what each agent needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vllm_hosts.capacity.estimates import DRIVER
from vllm_hosts.capacity.sizes import Size

#: Of figures that vLLM was not asked for.
FORMULAS = "formulas"


@dataclass(frozen=True)
class PlannedGpu:
    """A card. ``memory``: bytes, as nvidia-smi's memory.total has it; None: it does not say."""

    index: int
    name: str
    memory: int | None

    @property
    def usable(self) -> int | None:
        """Bytes that PyTorch sees."""
        return None if self.memory is None else max(0, self.memory - DRIVER)


class Verdict(StrEnum):
    """What becomes of an agent. ``DOES_NOT_FIT``: vLLM said so, or its cards are not there.
    ``PROBABLY_NOT``: estimates or formulas of ours are against it."""

    FITS = "fits"
    PROBABLY_NOT = "probably not"
    DOES_NOT_FIT = "does not fit"
    UNKNOWN = "unknown"
    NO_GPU = "no GPU"


@dataclass(frozen=True)
class Needs:
    """Bytes on each of an agent's GPUs. ``cache``: for one sequence of ``length`` tokens."""

    weights: Size
    cache: int
    activations: int
    graphs: int
    context: int
    length: int

    @property
    def overhead(self) -> int:
        """What is neither weights nor cache."""
        return self.activations + self.graphs + self.context

    @property
    def total(self) -> int:
        """With one sequence of full length in the cache."""
        return self.weights.bytes + self.cache + self.overhead


@dataclass(frozen=True)
class AgentPlan:
    """One agent's memory. Bytes are on each of its GPUs.

    ``budget``: gpu_memory_utilization of the smallest of its cards. ``cache``: what vLLM gives the
    KV cache: the budget without everything else. ``limit``: the model's own, in tokens.
    ``largest_max_model_len``: in tokens, within that limit; None: nothing fits, or it is not known.
    ``sequences``: of full length that fit at once. ``remedy``: the setting by which it would fit;
    empty: it does, or that is not known. ``problems``: why it cannot run; ``warnings``:
    everything else that somebody should know, with what formulas have against it at the beginning.
    ``source``: who said the figures.
    """

    agent: str
    model: str
    gpus: tuple[int, ...]
    verdict: Verdict
    budget: int | None = None
    needs: Needs | None = None
    cache: int | None = None
    limit: int | None = None
    largest_max_model_len: int | None = None
    sequences: float | None = None
    remedy: str = ""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    source: str = FORMULAS


@dataclass(frozen=True)
class HostPlan:
    """One host: its cards, and its agents in the order of the settings."""

    host: str
    gpus: tuple[PlannedGpu, ...]
    agents: tuple[AgentPlan, ...]

    def agent(self, name: str) -> AgentPlan:
        """One agent's plan. :raises KeyError: there is no such agent."""
        for plan in self.agents:
            if plan.agent == name:
                return plan
        raise KeyError(name)
