"""What happens to agents, hosts and gateways under load, and which requests that costs."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.deploys import command
from tests.lab.fleet import (
    BACK,
    CHAT,
    FLEET,
    GATEWAYS,
    NOTICED,
    Fleet,
    deploy,
    frozen,
    killed,
    started,
    well,
    without_link,
    without_power,
)
from tests.lab.fleet_asks import Load

pytestmark = pytest.mark.nightly
#: Which host something happens to.
HOST = "gpu2"
#: Long enough that there are streams in the middle of an answer whenever something happens.
JOB: dict[str, Any] = {"requests": 6000, "seconds": 150, "tokens": 32}


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    """Each test begins with all agents in rotation."""
    fleet.wait_whole()


def test_an_agent_that_is_killed_costs_what_it_had_begun(fleet: Fleet, tmp_path: Path) -> None:
    before = started(HOST)
    with Load(fleet, tmp_path, **JOB) as load:
        killed(HOST)
        load.wait_for(300, timeout=60)
    load.assert_only_begun_at(HOST)
    fleet.wait_for(HOST, True, timeout=BACK)
    assert started(HOST) != before


def test_an_engine_that_stands_still_leaves_and_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    with Load(fleet, tmp_path, **JOB) as load:
        with frozen(HOST):
            took = fleet.wait_for(HOST, False, timeout=NOTICED + 20)
            gone = time.monotonic()
            load.wait_for(150, timeout=45)
        back = fleet.wait_for(HOST, True, timeout=45)
    print(f"out of rotation after {took}, back after {back}")
    load.assert_only_begun_at(HOST)
    assert max(took.values()) < NOTICED, took
    late = [one for one in load.failed if one.began > gone]
    assert not late, f"failed although it was out of rotation: {late[0]}"


def test_an_engine_that_stands_still_while_nobody_asks_leaves_too(fleet: Fleet) -> None:
    with frozen(HOST):
        took = fleet.wait_for(HOST, False, timeout=NOTICED + 20)
    back = fleet.wait_for(HOST, True, timeout=45)
    print(f"out of rotation after {took}, back after {back}")
    assert max(took.values()) < NOTICED, took


@pytest.mark.parametrize("event", [without_link, without_power], ids=["link down", "power off"])
def test_a_host_that_is_gone_costs_what_it_had_begun(
    fleet: Fleet, event: Any, tmp_path: Path
) -> None:
    with ExitStack() as stack, Load(fleet, tmp_path, **JOB) as load:
        stack.enter_context(event(HOST))
        took = fleet.wait_for(HOST, False, timeout=NOTICED + 20)
        gone = time.monotonic()
        load.wait_for(150, timeout=45)
    print(f"out of rotation after {took}")
    load.assert_only_begun_at(HOST)
    assert max(took.values()) < NOTICED, took
    late = [one for one in load.failed if one.began > gone]
    assert not late, f"failed although it was out of rotation: {late[0]}"
    fleet.wait_for(HOST, True, timeout=BACK)


RENEWED = "a certificate is renewed"
ON_A_GATEWAY = {
    "nginx is reloaded": "nginx -t -q && systemctl reload nginx",
    "HAProxy is reloaded": "systemctl reload vllm-hosts-balancer",
    "HAProxy is restarted": "systemctl restart vllm-hosts-balancer",
}
_MAIN = "systemctl show -p MainPID --value vllm-hosts-balancer"


@pytest.mark.parametrize("event", [*ON_A_GATEWAY, RENEWED])
def test_nothing_fails_while(fleet: Fleet, event: str, tmp_path: Path) -> None:
    with Load(fleet, tmp_path, **JOB) as load:
        if event == RENEWED:
            well(command("vllm-hosts", "tls", FLEET, "renew", "--host", "gw1"))
            run = well(deploy("--limit", "gw1"))
            assert "a new one was requested on" in run.output, run.output[-3000:]
        else:
            for gateway in GATEWAYS:
                lab_hosts.run(gateway, ON_A_GATEWAY[event])
        load.wait_for(200, timeout=60)
    # nginx that ends lets go of connections that clients keep; these make another.
    load.assert_none_failed(kept=event.startswith("HAProxy"))


def test_haproxy_that_is_killed_costs_what_it_had_in_flight(fleet: Fleet, tmp_path: Path) -> None:
    """What comes while there is none waits for the next one."""
    with Load(fleet, tmp_path, **JOB) as load:
        # By its name: the lab's hosts may share control groups, and systemd kills by these.
        lab_hosts.run("gw1", "pkill -KILL -x haproxy")
        killed = time.monotonic()
        load.wait_for(200, timeout=60)
    gone = fleet.settings["gw1"].address
    wrong = [one for one in load.failed if one.gateway != gone or one.began > killed]
    assert not wrong, f"{len(wrong)} of {len(load.asked)} failed elsewhere, or later: {wrong[0]}"
    begun = [one for one in load.failed if one.begun]
    print(f"{len(load.asked)} requests, {len(load.failed)} failed, {len(begun)} of them in answers")
    lab_hosts.run("gw1", "systemctl is-active vllm-hosts-balancer")


def test_haproxy_that_is_restarted_ends_what_it_had(fleet: Fleet, tmp_path: Path) -> None:
    """systemd goes on at once, and what ran there is counted until it has ended."""
    with Load(fleet, tmp_path, **JOB | {"tokens": 300}) as load:
        before = lab_hosts.run("gw1", _MAIN).stdout.strip()
        began = time.monotonic()
        lab_hosts.run("gw1", "systemctl restart vllm-hosts-balancer")
        took = time.monotonic() - began
        assert lab_hosts.run("gw1", _MAIN).stdout.strip() != before
        lab_hosts.run("gw1", f"kill -0 {before}")
        running = lab_hosts.run(
            "gw1",
            "echo 'show proc' | socat - UNIX-CONNECT:/run/vllm-hosts-balancer/master."
            f"{before}.sock",
        ).stdout
        assert "worker" in running, running
        load.wait_for(100, timeout=120)
    load.assert_none_failed()
    print(f"restarted within {took:.1f} s")
    result = lab_hosts.run("gw1", "systemctl show -p Result,NRestarts vllm-hosts-balancer").stdout
    assert "Result=success" in result, result


def test_a_gateway_that_is_killed_costs_what_it_had_in_flight(fleet: Fleet, tmp_path: Path) -> None:
    gone = fleet.settings["gw1"].address
    with ExitStack() as stack:
        with Load(fleet, tmp_path, **JOB | {"tokens": 8}, failover=True) as load:
            stack.enter_context(without_power("gw1"))
            off = time.monotonic()
            load.wait_for(200, timeout=60)
        asked = load.asked
        wrong = [one for one in load.failed if one.gateway != gone or one.began > off]
        assert not wrong, f"{len(wrong)} of {len(asked)} failed at gw2, or later: {wrong[0]}"
        late = [one for one in asked if one.began > off + 1]
        slow = [one for one in late if one.first - one.began > 3]
        assert late
        assert not slow, f"{len(slow)} of {len(late)} waited, such as {slow[0]}"
        print(f"{len(asked)} requests, {len(load.failed)} failed, all in flight at gw1")
    # It serves again by itself.
    fleet.wait_whole()
    with Load(fleet, tmp_path, requests=100, urls=[fleet.url("gw1")], model=CHAT) as load:
        load.wait_for(20)
    load.assert_none_failed()
