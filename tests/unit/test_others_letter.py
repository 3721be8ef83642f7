"""Memory that others hold of a card, to the byte: certain, by an estimate, or none at all."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from tests.unit.samples import QWEN, settings
from vllm_hosts.capacity import estimates, others
from vllm_hosts.capacity.others import HeldMemory, beside_others, held
from vllm_hosts.capacity.result import AgentPlan, HostPlan, Verdict
from vllm_hosts.host.nvidia_apps import Holder
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.settings import Agent

UUID = "GPU-1"
#: Half of it is left to others, in whole MiB.
CARD = Gpu(0, "NVIDIA H200", UUID, 140000)
HALF = 70000
#: What the estimates take of that: of the card what CUDA does not see, and vLLM's own context.
OWN = (estimates.CONTEXT + estimates.DRIVER // 2) / (1 << 20)


def agent(**given: Any) -> Agent:
    return settings(agents=[QWEN | {"gpu_memory_utilization": 0.5} | given]).agents[0]


def taken(mib: int, **given: Any) -> HeldMemory | None:
    return held(agent(**given), [CARD], [Holder(5, mib, UUID, "x")])


def test_what_is_certain_and_what_is_an_estimate() -> None:
    sure, guess = taken(HALF + 1), taken(HALF)
    assert sure is not None and sure.certain and " will stop with" in sure.sentence
    assert guess is not None and not guess.certain and " will probably stop" in guess.sentence
    assert taken(int(HALF - OWN) + 1) is not None
    assert taken(int(HALF - OWN) - 1) is None
    assert taken(0) is None
    with pytest.raises(FrozenInstanceError):
        sure.certain = False  # type: ignore[misc]


def test_loaders_that_keep_weights_elsewhere_are_never_certain() -> None:
    elsewhere = taken(HALF + 999, extra_args=["--load-format", "ipc"])
    assert elsewhere is not None and not elsewhere.certain


def test_whose_memory_counts() -> None:
    """On each of the agent's cards, of all that are not ours, also where one does not say."""
    one = Holder(5, HALF // 2, UUID, "x")
    silent = Holder(8, None, UUID, "y")
    assert held(agent(), [CARD], [one, silent]) is None
    found = held(agent(), [CARD], [one, silent, replace(one, pid=6), replace(one, pid=7)])
    assert found is not None and "x (pid 5), x (pid 6), x (pid 7) and 1 more" in found.sentence
    for away in (replace(one, ours=True), replace(one, gpu="GPU-2")):
        assert held(agent(), [CARD], [one, away]) is None
    # The first card may be nobody's.
    second = replace(CARD, index=1, uuid="GPU-2")
    both = agent(gpus=[0, 1])
    large = Holder(5, 99999, "GPU-2", "x")
    for first in (CARD, replace(CARD, memory_mib=None)):
        found = held(both, [first, second], [large])
        assert found is not None and "of GPU 1 are in use" in found.sentence
    assert held(agent(), [CARD, second], [large]) is None


@pytest.mark.parametrize(
    ("mib", "lower"),
    [
        (100000, ", or set gpu_memory_utilization to 0.28 or lower"),
        (125200, ", or set gpu_memory_utilization to 0.1 or lower"),
        (126000, ""),
        (999999, ""),
    ],
)
def test_the_sentence(mib: int, lower: str) -> None:
    found = taken(mib)
    words = "Free memory on device ... on startup is less than desired GPU memory utilization"
    assert found == HeldMemory(
        True,
        f"agent 'qwen': {mib / 1024:.1f} GiB of GPU 0 are in use by x (pid 5), not by an agent of"
        f' ours, so vLLM with gpu_memory_utilization 0.5 will stop with its own words: "{words}";'
        f" end that (ps -fp 5 shows it, kill 5 ends it), give the agent another GPU{lower}",
    )


def test_the_largest_are_named_first() -> None:
    sizes = [1, 30000, None, 50000, 20000]
    found = held(agent(), [CARD], [Holder(n, size, UUID, "x") for n, size in enumerate(sizes)])
    assert found is not None
    assert "in use by x (pid 3), x (pid 1), x (pid 4) and 2 more, not by" in found.sentence
    assert "(ps -fp 3,1,4 shows it, kill 3 1 4 ends it)" in found.sentence
    three = held(agent(), [CARD], [Holder(n, 30000, UUID, "x") for n in range(3)])
    assert three is not None and "x (pid 2), not by" in three.sentence


def test_a_card_without_memory_is_no_division_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "DRIVER", 140000 << 20)
    found = taken(HALF + 1)
    assert found is not None and found.sentence.endswith("give the agent another GPU")


PLAN = AgentPlan("qwen", "m", (0,), Verdict.FITS, problems=("p",), warnings=("w",))
SURE, GUESS = HeldMemory(True, "sure"), HeldMemory(False, "guess")


@pytest.mark.parametrize(
    ("before", "found", "after"),
    [
        (PLAN, None, PLAN),
        (PLAN, SURE, replace(PLAN, verdict=Verdict.DOES_NOT_FIT, problems=("p", "sure"))),
        (PLAN, GUESS, replace(PLAN, verdict=Verdict.PROBABLY_NOT, warnings=("guess", "w"))),
        (
            replace(PLAN, verdict=Verdict.UNKNOWN), GUESS,
            replace(PLAN, verdict=Verdict.UNKNOWN, warnings=("guess", "w")),
        ),
    ],
)  # fmt: skip
def test_a_plan_beside_others(
    before: AgentPlan,
    found: HeldMemory | None,
    after: AgentPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = agent()
    asked: list[tuple[object, ...]] = []

    def answer(*given: object) -> HeldMemory | None:
        asked.append(given)
        return found

    monkeypatch.setattr(others, "held", answer)
    plan = HostPlan("gpu1", (), (before,))
    assert beside_others(plan, [one], [CARD], []) == HostPlan("gpu1", (), (after,))
    assert asked == [(one, [CARD], [])]
