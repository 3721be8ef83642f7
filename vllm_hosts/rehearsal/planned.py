"""A rehearsal's figures as a line of the memory plan: what vLLM said is exact, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vllm_hosts.capacity import estimates
from vllm_hosts.capacity.arguments import gives
from vllm_hosts.capacity.memory_plan import gib
from vllm_hosts.capacity.result import FORMULAS, AgentPlan, Needs, PlannedGpu, Verdict
from vllm_hosts.capacity.sizes import Size
from vllm_hosts.rehearsal.answer import Answer
from vllm_hosts.rehearsal.asking import Said
from vllm_hosts.rehearsal.verdict import Outcome, verdict
from vllm_hosts.settings import Agent

_SAYS = {
    Outcome.ACCEPTED: Verdict.FITS,
    Outcome.DOUBTED: Verdict.PROBABLY_NOT,
    Outcome.REFUSED: Verdict.DOES_NOT_FIT,
    Outcome.UNKNOWN: Verdict.UNKNOWN,
}


def taken(agent: Agent, answer: Answer) -> tuple[int, int, int]:
    """Estimates of what vLLM takes beside weights and cache: activations, graphs, libraries."""
    drawing = (answer.sequences or 0) * (answer.vocabulary or 0) * estimates.SAMPLER
    hidden = 2 * (answer.batched_tokens or 0) * (answer.hidden or 0)
    graphs = estimates.graphs(gives(agent, "--enforce-eager"))
    return drawing + hidden, graphs, estimates.context(len(agent.gpus))


def instead(agent: Agent, said: Said, plan: AgentPlan, gpus: Sequence[PlannedGpu]) -> AgentPlan:
    """An agent's plan by formulas, or what its own vLLM said in its place, and which it is.

    :param gpus: the agent's cards.
    """
    answer = said.answer
    figures = answer.weights is not None and (answer.rooms or answer.cache == 0)
    if not verdict(agent, answer).stops and answer.refused is None and not (agent.gpus and figures):
        why = "; ".join(answer.unknown.values())
        return replace(plan, source=f"{FORMULAS}: vLLM did not say ({why})") if why else plan
    return replace(planned(agent, answer, gpus, alike=said.alike), source=said.source)


def planned(
    agent: Agent, answer: Answer, gpus: Sequence[PlannedGpu], *, alike: bool = True
) -> AgentPlan:
    """An agent's plan from what its own vLLM said.

    :param gpus: the agent's cards.
    :param alike: whether it was asked beside such cards. Where not, it has other kernels, so that
        its sizes are estimates, and it may refuse what it would take there.
    """
    judged = verdict(agent, answer)
    said = (judged.sentence,) if judged.sentence else ()
    certain = alike or (answer.refused is not None and answer.refused.stage == "arguments")
    if judged.stops and not certain:
        judged = replace(judged, outcome=Outcome.DOUBTED)
    plan = AgentPlan(
        agent=agent.name,
        model=agent.model,
        gpus=agent.gpus,
        verdict=_SAYS[judged.outcome],
        limit=answer.max_model_len,
        problems=said if judged.stops else (),
        warnings=() if judged.stops else said,
    )
    # The last that vLLM was asked about: with the estimates taken from it.
    room = answer.rooms[-1] if answer.rooms else None
    usable = [gpu.usable for gpu in gpus if gpu.usable is not None]
    if answer.weights is None or answer.cache is None or not usable:
        return plan
    activations, graphs, context = taken(agent, answer)
    needs = Needs(
        weights=Size(answer.weights, alike, f"vLLM {answer.vllm} said it"),
        cache=answer.cache,
        activations=activations,
        graphs=graphs,
        context=context,
        length=answer.max_model_len or 0,
    )
    plan = replace(plan, budget=int(min(usable) * agent.gpu_memory_utilization), needs=needs)
    if room is None:
        return _without_cache(plan, needs) if answer.cache == 0 else replace(plan, needs=None)
    return replace(
        plan,
        cache=max(room.room, 0),
        largest_max_model_len=room.longest or None,
        sequences=room.times if room.fits else room.room / max(answer.cache, 1),
    )


def _without_cache(plan: AgentPlan, needs: Needs) -> AgentPlan:
    """Of a model that keeps nothing, such as one for embeddings, vLLM says nothing about room."""
    left = (plan.budget or 0) - needs.total
    if left >= 0 or plan.verdict is not Verdict.FITS:
        return replace(plan, cache=0, largest_max_model_len=plan.limit)
    weights = gib(needs.weights.bytes)
    sentence = (
        f"agent {plan.agent!r} probably does not fit: weights take {weights} GiB on each GPU,"
        f" {gib(needs.overhead)} more are estimated beside them, and it has"
        f" {gib(plan.budget or 0)}; raise gpu_memory_utilization, give it larger GPUs, or take a"
        " smaller model"
    )
    return replace(plan, cache=0, verdict=Verdict.PROBABLY_NOT, warnings=(*plan.warnings, sentence))
