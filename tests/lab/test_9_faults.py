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
from contextlib import ExitStack
from typing import Any

import pytest

from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, deploy
from tests.lab.faults import filled, run
from tests.lab.faults.table import FAULTS

pytestmark = pytest.mark.nightly

HOST = os.environ.get("FAULT_HOST", "gpu2")
FIRST, RUNS = int(os.environ.get("FAULT_FIRST", "0")), int(os.environ.get("FAULT_RUNS", "100"))
#: What a run changes. The last one recreates the agent, which takes a while to be back.
CHANGES: list[dict[str, Any]] = [
    {},
    {"edge": {"max_body_size": "31m"}},
    {"docker": {"log_max_size": "48m"}, "edge": {"max_body_size": "30m"}},
    {"hosts": {HOST: {"agents": [AGENTS[0] | {"max_model_len": 768}]}}},
]


@pytest.mark.parametrize("number", range(FIRST, FIRST + RUNS))
def test_a_fault_that_a_seed_draws(deployed: Deployed, number: int) -> None:
    name = list(FAULTS)[number % len(FAULTS)]
    fault = FAULTS[name]
    drawn = run.seeded(f"{name} {number}")
    settings = drawn.choice(CHANGES)
    seconds = drawn.uniform(1, 30 if "hosts" in settings else 12)
    said = f"{name}, {seconds:.1f} s into {json.dumps(settings)[:60]}"
    before = run.agents(HOST)
    with ExitStack() as stack:
        if fault.small:
            stack.enter_context(filled.small(HOST, fault.small))
        try:
            done = run.deploy_until(
                HOST, seconds, lambda process: fault.begin(HOST, process), json.dumps(settings)
            )
            # A moment after the end of what was to be done is no fault.
            assert done.code in fault.codes | {0}, done.output[-4000:]
            assert deployed.leaks(done.output) == []
            run.wait_free(HOST)
            if fault.whole:
                assert run.broken(HOST) == []
            if "hosts" not in settings and fault.whole and name != "power lost":
                assert run.agents(HOST) == before
        finally:
            fault.end(HOST)
            began = time.monotonic()
            back = deploy("--limit", HOST)
        seconds_back = time.monotonic() - began
    assert back.code == 0, back.output[-6000:]
    assert run.left(HOST) == []
    assert run.broken(HOST) == []
    again = deploy("--limit", HOST)
    assert (again.code, changes(again)[HOST]) == (0, 0), again.output[-4000:]
    print(f"{said}: exit code {done.code}, converged in {seconds_back:.1f} s")
