"""A plan for people: a bar for each card, a row for each agent. And for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from vllm_hosts.capacity.memory_plan import gib
from vllm_hosts.capacity.result import AgentPlan, HostPlan, PlannedGpu, Verdict

_WIDTH = 60
LEGEND = "W weights  K KV cache  o activations, CUDA graphs, libraries  . free"
_COLOURS = {
    Verdict.FITS: "green",
    Verdict.PROBABLY_NOT: "yellow",
    Verdict.DOES_NOT_FIT: "red",
    Verdict.UNKNOWN: "yellow",
    Verdict.NO_GPU: None,
}
_ROW = "  {:<14} {:>7} {:>8} {:>6} {:>6} {:>8} {:>8}"


@dataclass(frozen=True)
class OutputLine:
    """One line of text, and its colour; None: none."""

    text: str
    colour: str | None = None


def lines(plan: HostPlan) -> Iterator[OutputLine]:
    """A host: its cards with a bar, its agents with their figures, and every sentence."""
    for gpu in plan.gpus:
        yield OutputLine(f"  GPU {gpu.index}  {gpu.name}, {_usable(gpu)}")
        yield OutputLine(f"  [{bar(plan, gpu)}]")
    if plan.gpus:
        yield OutputLine(f"   {LEGEND}")
    yield OutputLine(
        _ROW.format("agent", "weights", "KV cache", "other", "budget", "longest", "at once")
    )
    for agent in plan.agents:
        yield OutputLine(_row(agent), _COLOURS[agent.verdict])
    for agent in plan.agents:
        if agent.gpus:
            yield OutputLine(_wrapped(f"{agent.agent}: figures from {agent.source}"))
    for agent in plan.agents:
        for sentence in agent.problems:
            yield OutputLine(_wrapped(sentence), "red")
        for sentence in agent.warnings:
            yield OutputLine(_wrapped(sentence), "yellow")


def _wrapped(sentence: str) -> str:
    return fill(sentence, 79, initial_indent="  - ", subsequent_indent="    ")


def _usable(gpu: PlannedGpu) -> str:
    if gpu.usable is None:
        return "which does not report its memory"
    return f"{gib(gpu.usable)} GiB for programs"


def bar(plan: HostPlan, gpu: PlannedGpu) -> str:
    """The card's memory in columns: each agent's weights, cache and the rest, then what is free."""
    if not gpu.usable:
        return "?" * _WIDTH
    text = ""
    for agent in plan.agents:
        if agent.needs is None or agent.cache is None or gpu.index not in agent.gpus:
            continue
        for letter, size in (
            ("W", agent.needs.weights.bytes),
            ("K", max(agent.cache, agent.needs.cache)),
            ("o", agent.needs.overhead),
        ):
            text += letter * round(size / gpu.usable * _WIDTH)
    # What does not fit sticks out.
    return text.ljust(_WIDTH, ".") if len(text) <= _WIDTH else f"{text[:_WIDTH]}>"


def _row(agent: AgentPlan) -> str:
    """What vLLM said is plain, estimates begin with ~. Memory in GiB, lengths in tokens."""
    if agent.needs is None or agent.budget is None or agent.cache is None:
        return f"  {agent.agent:<14} {agent.verdict}"
    weights = agent.needs.weights
    longest = str(agent.largest_max_model_len or "none")
    return (
        _ROW.format(
            agent.agent,
            ("" if weights.exact else "~") + gib(weights.bytes),
            "~" + gib(agent.cache),
            "~" + gib(agent.needs.overhead),
            gib(agent.budget),
            longest if agent.largest_max_model_len == agent.limit else f"~{longest}",
            "-" if agent.sequences is None else f"~{agent.sequences:.1f}",
        )
        + f"  {agent.verdict}"
    )


def as_json(plan: HostPlan) -> dict[str, Any]:
    """A host for scripts: memory in bytes, lengths in tokens."""
    return {
        "host": plan.host,
        "gpus": [
            {"index": gpu.index, "name": gpu.name, "memory": gpu.memory, "usable": gpu.usable}
            for gpu in plan.gpus
        ],
        "agents": [_agent(agent) for agent in plan.agents],
    }


def _agent(agent: AgentPlan) -> dict[str, Any]:
    needs = agent.needs
    return {
        "agent": agent.agent,
        "model": agent.model,
        "gpus": list(agent.gpus),
        "verdict": str(agent.verdict),
        "source": agent.source,
        "budget": agent.budget,
        "weights": needs and needs.weights.bytes,
        "weights_exact": needs and needs.weights.exact,
        "weights_from": needs and needs.weights.how,
        "cache": agent.cache,
        "cache_of_one_sequence": needs and needs.cache,
        "activations": needs and needs.activations,
        "cuda_graphs": needs and needs.graphs,
        "libraries": needs and needs.context,
        "max_model_len": needs and needs.length,
        "own_limit": agent.limit,
        "largest_max_model_len": agent.largest_max_model_len,
        "sequences": None if agent.sequences is None else round(agent.sequences, 2),
        "problems": list(agent.problems),
        "warnings": list(agent.warnings),
    }


def totals(plans: list[HostPlan]) -> str:
    """How many agents fit, in a line."""
    agents = [agent for plan in plans for agent in plan.agents if agent.gpus]
    fit = sum(agent.verdict is Verdict.FITS for agent in agents)
    return f"{fit} of {len(agents)} agents fit; memory in GiB, ~ is estimated"
