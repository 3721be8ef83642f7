"""A hundred deploys, each with a fault, a change and a moment that a seed draws: the host keeps its
promises, the next run converges, and the one after that changes nothing.

``FAULT_RUNS=10 FAULT_SEED=4711 pytest tests/lab/test_9_faults.py`` for fewer, or others. Two can
run beside each other on hosts that are deployed to, with LAB_KEEP=1, LAB_REUSE=1 and the same
HF_TOKEN_OF_THE_LAB: the first with ``FAULT_RUNS=50``, the other with ``FAULT_RUNS=50 FAULT_FIRST=50
FAULT_HOST=gpu1``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, deploy
from tests.lab.faults import filled, links, next_image, run
from tests.lab.faults.table import FAULTS

pytestmark = pytest.mark.nightly

HOST = os.environ.get("FAULT_HOST", "gpu2")
FIRST, RUNS = int(os.environ.get("FAULT_FIRST", "0")), int(os.environ.get("FAULT_RUNS", "100"))


@dataclass(frozen=True)
class Change:
    """What a run has to do, and within how many seconds what can be met happens. ``before`` makes
    it necessary; ``anew`` says that agents are recreated."""

    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    anew: bool = False


def _agent(**changed: Any) -> dict[str, Any]:
    return {"hosts": {HOST: {"agents": [AGENTS[0] | changed]}}}


CHANGES = {
    "nothing": Change(1.5),
    "certificate": Change(2, {"tls": {"valid_days": 366, "renew_before_days": 365}}),
    "edge": Change(3, {"edge": {"max_body_size": "31m"}}),
    "docker": Change(10, {"docker": {"log_max_size": "48m"}, "edge": {"max_body_size": "30m"}}),
    # apt has to fetch it again.
    "package": Change(5, before="dpkg --remove --force-depends logrotate; apt-get clean"),
    # It recreates the agent, which takes a while to be back.
    "agent": Change(35, _agent(max_model_len=768), anew=True),
}
#: For what can meet only them: they take minutes. Their download is what is met.
LONG = {
    "image": Change(
        8,
        {"vllm": {"image": next_image.NEXT}},
        f"docker image rm {next_image.NEXT} 2>/dev/null; {links.slow(next_image.PORT, 3000)}",
        anew=True,
    ),
    "model": Change(
        25,
        _agent(model="lab/slow"),
        "rm -rf /var/lib/vllm/huggingface/hub/models--lab--slow",
        anew=True,
    ),
}
#: Of all runs so far, whether the fault met a deploy that was at work.
MET: list[bool] = []


@pytest.fixture(scope="module", autouse=True)
def registries(deployed: Deployed) -> Iterator[None]:
    """Where the next image comes from."""
    with next_image.served(stay="LAB_KEEP" in os.environ):
        yield
    lab_hosts.run(HOST, links.WELL)


def _named(number: int) -> str:
    return f"{number} {list(FAULTS)[number % len(FAULTS)]}"


@pytest.mark.parametrize("number", range(FIRST, FIRST + RUNS), ids=_named)
def test_a_fault_that_a_seed_draws(deployed: Deployed, number: int) -> None:
    name = list(FAULTS)[number % len(FAULTS)]
    fault = FAULTS[name]
    drawn = run.seeded(f"{name} {number}")
    of = fault.of or drawn.choice(list(CHANGES))
    change = (CHANGES | LONG)[of]
    seconds = drawn.uniform(0.5, change.seconds)
    fault.prepare(HOST)
    lab_hosts.run(HOST, change.before or "true")
    before = run.agents(HOST)
    done = None
    with ExitStack() as stack:
        if fault.small:
            stack.enter_context(filled.small(HOST, fault.small))
        try:
            done = run.deploy_until(
                HOST,
                seconds,
                lambda process: fault.begin(HOST, process),
                json.dumps(change.settings),
            )
            MET.append(done.met)
            assert done.code in (fault.codes if done.met else {0}) | {0}, done.output[-4000:]
            assert deployed.leaks(done.output) == []
            assert "Traceback" not in done.output, done.output[-4000:]
            run.wait_free(HOST)
            if fault.whole:
                assert run.broken(HOST) == []
            if not change.anew and fault.whole and fault.spares:
                assert run.agents(HOST) == before
        finally:
            if done is None or done.met:
                fault.end(HOST)
            began = time.monotonic()
            back = deploy("--limit", HOST)
        seconds_back = time.monotonic() - began
    assert back.code == 0, back.told[-8000:]
    assert run.left(HOST) == []
    assert run.broken(HOST) == []
    again = deploy("--limit", HOST)
    assert (again.code, changes(again)[HOST]) == (0, 0), again.output[-4000:]
    met = f"exit code {done.code}" if done.met else "the deploy had ended"
    print(f"| {name} | {of} | {seconds:.1f} | {met} | {seconds_back:.1f} |")


def test_most_of_them_met_a_deploy_at_work() -> None:
    assert sum(MET) >= 0.8 * len(MET), MET
