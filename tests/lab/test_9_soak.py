"""An hour of what operators do and what happens to them, on three hosts under requests: promises
hold after each step, and nothing grows.

``SOAK_MINUTES=10 FAULT_SEED=4711 pytest tests/lab/test_9_soak.py`` for less, or another hour.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS, INVENTORY, Deployed
from tests.lab.deploys import changes, command, deploy
from tests.lab.faults import filled, run
from tests.lab.faults.footprint import footprint
from tests.lab.faults.table import FAULTS
from tests.lab.traffic import Traffic
from vllm_hosts.keys import KeyStore
from vllm_hosts.project.inventory import load, validate

pytestmark = pytest.mark.nightly

LAB = "inventory/lab.py"
MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
ALL = (*HOSTS, "gpu3")
#: What a run sets, for all hosts. None of it takes an agent away.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"edge": {"max_body_size": "31m"}},
    {"edge": {"requests_per_second": 50}},
    {"docker": {"log_max_size": "48m"}},
    {"firewall": {"extra_tcp_ports": [9100]}},
    {"vllm": {"watchdog_looks": 12}},
]
#: Bytes that the edge's logs may have: what is rotated, and what is not yet.
_LOGS = 64 << 20


@pytest.fixture
def three_hosts(deployed: Deployed) -> Iterator[None]:
    """A further host for this test, which others do not expect."""
    lab_hosts.up(len(ALL))
    lab_hosts.reset(["gpu3"])
    try:
        yield
    finally:
        lab_hosts.remove(["gpu3"])


@pytest.mark.usefixtures("three_hosts")
# The hour, and what has begun by its end.
@pytest.mark.timeout(60 * MINUTES + 3000)
def test_an_hour_of_changes_faults_and_keys(deployed: Deployed) -> None:
    drawn = run.seeded("soak")
    first = deploy()
    assert first.code == 0, first.output[-4000:]
    settings, store = validate(load(INVENTORY)), KeyStore(INVENTORY)
    url = f"https://{settings['gpu1'].address}/tiny/v1"
    steps: dict[str, Callable[[random.Random], None]] = {
        "settings": _settings,
        "fault": _fault,
        "keys": _keys,
        "restart": _restart,
    }
    done: Counter[str] = Counter()
    before = None
    until = time.monotonic() + 60 * MINUTES
    with Traffic(
        url, "tiny", store.folder / "ca.pem", [("default", store.client_key("default"))], pause=0.5
    ) as traffic:
        while time.monotonic() < until:
            name = drawn.choices(list(steps), (3, 4, 2, 1))[0]
            steps[name](drawn)
            done[name] += 1
            _converged(deployed)
            served = len(traffic.of("default"))
            traffic.wait_for(served + 3)
            assert {one.status for one in traffic.of("default")[-3:]} == {200}
            if before is None:
                before = {host: footprint(host) for host in ALL}
    assert before is not None, "not even one step fits into this time"
    grown = {host: footprint(host).grown(before[host], _LOGS) for host in ALL}
    assert not any(grown.values()), grown
    statuses = Counter(one.status for one in traffic.of("default"))
    print(f"{dict(done)}; requests by status: {dict(statuses)}")


def _converged(deployed: Deployed) -> None:
    """The next run puts everything right, and one more finds nothing to do."""
    back = deploy()
    assert back.code == 0, back.told[-8000:]
    assert deployed.leaks(back.output) == []
    again = deploy()
    assert (again.code, changes(again)) == (0, dict.fromkeys(ALL, 0)), again.output[-4000:]
    for host in ALL:
        assert (run.broken(host), run.left(host)) == ([], []), host


def _settings(drawn: random.Random) -> None:
    done = deploy(settings=drawn.choice(SETTINGS))
    assert done.code == 0, done.output[-4000:]


def _fault(drawn: random.Random) -> None:
    name, host, given = drawn.choice(list(FAULTS)), drawn.choice(ALL), drawn.choice(SETTINGS)
    fault, seconds = FAULTS[name], drawn.uniform(0.5, 4)
    print(f"{name} on {host}, {seconds:.1f} s into {json.dumps(given)}")
    done = None
    fault.prepare(host)
    with ExitStack() as stack:
        if fault.small:
            stack.enter_context(filled.small(host, fault.small))
        try:
            done = run.deploy_until(
                host, seconds, lambda one: fault.begin(host, one), json.dumps(given)
            )
            assert done.code in fault.codes | {0}, done.output[-4000:]
            run.wait_free(host)
        finally:
            if done is None or done.met:
                fault.end(host)


def _keys(drawn: random.Random) -> None:
    client = f"soak-{drawn.randrange(10**6)}"
    words: tuple[tuple[str, ...], ...] = (
        ("add", LAB, client),
        ("rotate", LAB, client, "--overlap", "1h"),
        ("revoke", LAB, client),
    )
    for some in words:
        said = command("vllm-hosts", "keys", *some)
        assert said.code == 0, said.output
        brought = command("pyinfra", "-y", LAB, "keys.py")
        assert brought.code == 0, brought.output[-4000:]


def _restart(drawn: random.Random) -> None:
    host = drawn.choice(ALL)
    said = command("vllm-hosts", "agents", LAB, "--host", host, "restart", "tiny")
    assert said.code == 0, said.output
