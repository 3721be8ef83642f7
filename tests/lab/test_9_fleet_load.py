"""A gateway with 50 hosts and 200 agents, which stand-ins are: who gets how much, what it costs.

LAB_LOAD_HOSTS, LAB_LOAD_AGENTS and LAB_LOAD_STREAMS make it smaller or larger.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.fleet_asks import Load
from tests.lab.fleet_load import Asked
from tests.lab.fleet_many import AGENTS, GATEWAY, HOSTS, STREAMS, Many, many

pytestmark = pytest.mark.nightly
#: Seconds in which all streams begin, and those that each lasts, so that all are there at once.
RAMP, LASTS = 45, 75
INTERVAL = 2.5
#: What a gateway may add to a request, in milliseconds.
ADDED = 2.0
#: An agent gets at most this much more than its share.
FAIR = 1.25


@pytest.fixture(scope="module")
def gateway(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    folder = tmp_path_factory.mktemp("standins")
    with many(folder, interval=INTERVAL) as found:
        yield found


def seconds(asked: list[Asked]) -> list[float]:
    failed = [one for one in asked if one.failed]
    assert not failed, f"{len(failed)} of {len(asked)} failed, such as {failed[0]}"
    # The first ones shake hands.
    return [one.first - one.began for one in sorted(asked, key=lambda one: one.began)[5:]]


def test_the_latency_that_a_gateway_adds(gateway: Many, tmp_path: Path) -> None:
    """Against asking the same stand-in directly, which is quicker than asking a host's edge."""
    pool = gateway.settings.pools[0]
    replica = pool.replicas[0]
    usual: dict[str, Any] = {"clients": 1, "requests": 200, "streams": "none", "tokens": 1}
    usual |= {"pause": 0.005, "model": pool.model, "warm": 1}
    through: list[float] = []
    direct: list[float] = []
    for _ in range(3):
        with Load(gateway, tmp_path, **usual) as load:
            load.wait_over(60)
        through += seconds(load.asked)
        with Load(
            gateway,
            tmp_path,
            **usual,
            urls=[f"https://{replica.address}:{replica.port}"],
            certificate=str(gateway.client_certificate),
            name=replica.inner_name,
        ) as load:
            load.wait_over(60)
        direct += seconds(load.asked)
    medians = [statistics.median(one) * 1000 for one in (through, direct)]
    tails = [sorted(one)[int(len(one) * 0.99)] * 1000 for one in (through, direct)]
    print(f"milliseconds to the first byte through the gateway, and directly: median {medians},")
    print(f"99 of 100 {tails}")
    assert medians[0] - medians[1] < ADDED, medians


def test_many_streams_at_once(gateway: Many, tmp_path: Path) -> None:
    """As many as wanted, none of them fails, and no agent gets more than its share."""
    each = STREAMS // AGENTS
    gateway.standins.counts()
    usual: dict[str, Any] = {"clients": each, "requests": each, "streams": "all"}
    usual |= {"seconds": 300, "pause": RAMP, "tokens": ceil(LASTS / INTERVAL), "warm": 0}
    begun = time.monotonic()
    with ExitStack() as stack:
        loads = [
            stack.enter_context(
                Load(
                    gateway,
                    tmp_path,
                    **usual,
                    model=model,
                    keys=[(f"client of {model}", key.get_secret_value())],
                )
            )
            for model, key in gateway.keys.items()
        ]
        for load in loads:
            load.wait_over(400)
    took = time.monotonic() - begun
    asked = [one for load in loads for one in load.asked]
    failed = [one for one in asked if one.failed]
    counts = gateway.standins.counts()
    processor = lab_hosts.run(
        GATEWAY, "systemctl show -p CPUUsageNSec,MemoryPeak nginx vllm-hosts-balancer"
    ).stdout.split()
    at_once = most_at_once(asked)
    first = statistics.median(one.first - one.began for one in asked if one.first) * 1000
    most = max(most for _, most in counts.values())
    print(f"{len(asked)} streams in {took:.0f} s, {at_once} at once, {len(failed)} failed")
    print(f"first byte after {first:.1f} ms (median); {len(counts)} agents had at most {most}")
    print(f"nginx and HAProxy since their start: {processor}")
    assert len(asked) == each * AGENTS
    assert not failed, f"{len(failed)} of {len(asked)} failed, such as {failed[0]}"
    assert at_once >= 0.98 * STREAMS, f"only {at_once} of {STREAMS} at once"
    assert len(counts) == HOSTS * AGENTS, "some agents were never asked"
    # Whole requests: a share of 25 may be 32.
    allowed = ceil(FAIR * each / HOSTS)
    over = {name: seen for name, (_, seen) in counts.items() if seen > allowed}
    assert not over, f"more than {allowed} at once, with a fair share of {each / HOSTS:.1f}: {over}"


def most_at_once(asked: list[Asked]) -> int:
    """How many answers had begun and not ended in the same moment."""
    changes = [(one.first, 1) for one in asked if one.first]
    changes += [(one.ended, -1) for one in asked if one.first]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
