"""A rehearsal's figures in the memory plan: what vLLM said, and what is estimated beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.samples import QWEN, settings
from vllm_hosts.capacity import estimates
from vllm_hosts.capacity.memory_plan import gib
from vllm_hosts.capacity.result import FORMULAS, AgentPlan, Needs, PlannedGpu, Verdict
from vllm_hosts.capacity.sizes import Size
from vllm_hosts.rehearsal.answer import Answer, Refusal, Room
from vllm_hosts.rehearsal.asking import Said
from vllm_hosts.rehearsal.planned import instead, planned, taken
from vllm_hosts.settings import Agent

GIB = 1 << 30
ROOM = Room(0, 5 * GIB, True, 4096, 2.5)
ANSWER = Answer(
    vllm="0.33.0", max_model_len=4096, batched_tokens=8192, sequences=256, hidden=4096,
    vocabulary=1000, weights=15 * GIB, cache=2 * GIB, rooms=(Room(0, 9 * GIB, True, 4096), ROOM),
)  # fmt: skip
CARD = PlannedGpu(0, "L40S", 40 * GIB)
SMALLER = PlannedGpu(1, "L40S", 30 * GIB)
UNKNOWN = PlannedGpu(2, "?", None)


def agent(**given: Any) -> Agent:
    return settings(agents=[QWEN | {"gpu_memory_utilization": 0.5} | given]).agents[0]


def test_what_vllm_takes_beside_weights_and_cache() -> None:
    activations = 256 * 1000 * estimates.SAMPLER + 2 * 8192 * 4096
    assert taken(agent(), ANSWER) == (activations, estimates.GRAPHS, estimates.CONTEXT)
    two = agent(gpus=[0, 1], extra_args=["--enforce-eager"])
    assert taken(two, ANSWER) == (activations, 0, estimates.CONTEXT_WITH_PEERS)
    for name in ("sequences", "vocabulary", "batched_tokens", "hidden"):
        drawing = name in ("sequences", "vocabulary")
        left = 2 * 8192 * 4096 if drawing else 256 * 1000 * estimates.SAMPLER
        given: dict[str, Any] = {name: None}
        assert taken(agent(), replace(ANSWER, **given))[0] == left


@pytest.mark.parametrize("alike", [True, False])
def test_the_whole_plan(alike: bool) -> None:
    activations, graphs, context = taken(agent(), ANSWER)
    usable = SMALLER.usable
    assert usable is not None
    assert planned(agent(), ANSWER, [CARD, SMALLER, UNKNOWN], alike=alike) == AgentPlan(
        agent="qwen", model="Qwen/Qwen3-8B", gpus=(0,), verdict=Verdict.FITS,
        budget=int(usable * 0.5),
        needs=Needs(
            weights=Size(15 * GIB, alike, "vLLM 0.33.0 said it"), cache=2 * GIB,
            activations=activations, graphs=graphs, context=context, length=4096,
        ),
        cache=5 * GIB, limit=4096, largest_max_model_len=4096, sequences=2.5,
    )  # fmt: skip


def test_what_does_not_fit() -> None:
    small = Room(0, -GIB, False, 0)
    plan = planned(agent(), replace(ANSWER, rooms=(small,)), [CARD])
    assert (plan.verdict, plan.cache, plan.largest_max_model_len) == (Verdict.DOES_NOT_FIT, 0, None)
    assert plan.sequences == -0.5 and len(plan.problems) == 1 and plan.warnings == ()
    # A cache of nothing is no division by nothing.
    none = replace(ANSWER, rooms=(small,), cache=0, max_model_len=None)
    bare = planned(agent(), none, [CARD])
    assert bare.sequences == -GIB and bare.needs is not None and bare.needs.length == 0


@pytest.mark.parametrize(
    ("changes", "cards"),
    [
        ({"weights": None}, [CARD]),
        ({}, [UNKNOWN]), ({}, []),
    ],
)  # fmt: skip
def test_figures_that_nobody_said(changes: dict[str, Any], cards: list[PlannedGpu]) -> None:
    plan = planned(agent(), replace(ANSWER, **changes), cards)
    assert plan == AgentPlan("qwen", "Qwen/Qwen3-8B", (0,), Verdict.FITS, limit=4096)


@pytest.mark.parametrize(
    ("stage", "alike", "verdict"),
    [
        ("arguments", True, Verdict.DOES_NOT_FIT), ("arguments", False, Verdict.DOES_NOT_FIT),
        ("model", True, Verdict.DOES_NOT_FIT), ("model", False, Verdict.PROBABLY_NOT),
    ],
)  # fmt: skip
def test_a_refusal_beside_other_cards_is_no_certainty(
    stage: str, alike: bool, verdict: Verdict
) -> None:
    refused = Answer(refused=Refusal(stage, "no"))
    plan = planned(agent(), refused, [CARD], alike=alike)
    assert plan.verdict is verdict
    said = plan.problems if verdict is Verdict.DOES_NOT_FIT else plan.warnings
    assert len(said) == 1 == len(plan.problems) + len(plan.warnings)
    assert planned(agent(), refused, [CARD]).verdict is Verdict.DOES_NOT_FIT


def test_verdicts() -> None:
    small = replace(ROOM, fits=False, longest=7)
    assert planned(
        agent(), replace(ANSWER, rooms=(ROOM, replace(small, other=9))), [CARD]
    ).verdict is (Verdict.PROBABLY_NOT)
    assert planned(agent(), Answer(unknown={"all": "x"}), [CARD]).verdict is Verdict.UNKNOWN


EMBEDS = replace(ANSWER, rooms=(), cache=0)


def embeds(weights: int) -> AgentPlan:
    return planned(agent(), replace(EMBEDS, weights=weights), [CARD])


def test_a_model_that_keeps_nothing() -> None:
    plan = embeds(15 * GIB)
    assert plan.needs is not None and plan.budget is not None
    assert (plan.verdict, plan.warnings) == (Verdict.FITS, ())
    assert (plan.cache, plan.largest_max_model_len, plan.limit) == (0, 4096, 4096)
    # As much as there is, and a byte more.
    most = plan.budget - plan.needs.overhead
    assert embeds(most) == replace(
        plan, needs=replace(plan.needs, weights=replace(plan.needs.weights, bytes=most))
    )
    less = embeds(most + 1)
    [warning] = less.warnings
    assert (less.verdict, less.cache, less.problems) == (Verdict.PROBABLY_NOT, 0, ())
    assert warning == (
        f"agent 'qwen' probably does not fit: weights take {gib(most + 1)} GiB on each GPU,"
        f" {gib(plan.needs.overhead)} more are estimated beside them, and it has"
        f" {gib(plan.budget)}; raise gpu_memory_utilization, give it larger GPUs, or take a"
        " smaller model"
    )
    # What is refused anyway has one reason.
    refused = replace(EMBEDS, weights=most + 1, refused=Refusal("model", "no"))
    plan = planned(agent(), refused, [CARD])
    assert (plan.verdict, plan.warnings, len(plan.problems)) == (Verdict.DOES_NOT_FIT, (), 1)
    assert instead(agent(), said(EMBEDS), PLAN, [CARD]) == replace(
        embeds(15 * GIB), source=said(EMBEDS).source
    )
    something = said(replace(EMBEDS, cache=1))
    assert instead(agent(), something, PLAN, [CARD]) == PLAN
    # Without room for what it keeps, nothing is said of sizes.
    assert planned(agent(), something.answer, [CARD]).needs is None


PLAN = AgentPlan("qwen", "m", (0,), Verdict.FITS)


def said(answer: Answer, alike: bool = True) -> Said:
    return Said(answer, image="x:1", alike=alike)


def test_in_the_place_of_formulas() -> None:
    for alike in (True, False):
        plan = instead(agent(), said(ANSWER, alike), PLAN, [CARD])
        wanted = planned(agent(), ANSWER, [CARD], alike=alike)
        assert plan == replace(wanted, source=said(ANSWER, alike).source)
    refused = instead(agent(), said(Answer(refused=Refusal("model", "no"))), PLAN, [CARD])
    assert (refused.verdict, refused.source) == (
        Verdict.DOES_NOT_FIT, said(Answer()).source,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "gpus"),
    [(replace(ANSWER, weights=None), [0]), (replace(ANSWER, rooms=()), [0]), (ANSWER, [])],
)
def test_formulas_stay_where_vllm_did_not_say(answer: Answer, gpus: list[int]) -> None:
    one = agent(gpus=gpus)
    assert instead(one, said(answer), PLAN, [CARD]) == PLAN
    unknown = replace(answer, unknown={"weights": "drafts", "memory": "no card"})
    assert instead(one, said(unknown), PLAN, [CARD]) == replace(
        PLAN, source=f"{FORMULAS}: vLLM did not say (drafts; no card)"
    )
