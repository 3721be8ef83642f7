"""Two hosts that are gateways as well: the smallest fleet, in which either machine may be lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab.settings import BOTH as HOSTS
from lab.settings import FLEET_AGENTS
from tests.lab.deploys import changes, command
from tests.lab.fleet import (
    BACK,
    BOTH,
    CHAT,
    DRAFT,
    NOTICED,
    Fleet,
    asked,
    deploy,
    frozen,
    models,
    started,
    well,
    without_power,
)
from tests.lab.fleet_asks import HostLogs, Load
from tests.lab.test_4_verify import ended
from vllm_hosts.verify.promises import promises

pytestmark = pytest.mark.nightly
#: One model on both, the other on gpu1 alone.
ONE, TWO = HOSTS
PORT = 8443
#: A roll loads two models, one after the other, beside clients that ask.
JOB: dict[str, Any] = {"requests": 10_000, "seconds": 900, "pause": 2.5}


@pytest.fixture(autouse=True)
def whole(both: Fleet) -> None:
    """Each test begins with all agents in rotation at both gateways."""
    both.wait_whole()


@pytest.fixture
def as_before(both: Fleet) -> Iterator[None]:
    """Afterwards the settings are the inventory's again."""
    yield
    well(deploy(inventory=BOTH))
    assert changes(deploy(inventory=BOTH)) == dict.fromkeys(HOSTS, 0)


def units(host: str) -> str:
    return lab_hosts.run(
        host, "systemctl show -p MainPID,ActiveState nginx vllm-hosts-balancer docker"
    ).stdout


def containers() -> dict[str, str]:
    return {host: started(host) for host in HOSTS}


def test_each_machine_is_a_gateway_and_a_host(both: Fleet) -> None:
    assert both.gateways == HOSTS
    for name in HOSTS:
        host = both.settings[name]
        assert (host.is_gateway, host.runs_agents, host.behind_gateways) == (True, True, True)
    assert [one.host for one in both.pool(CHAT).replicas] == [ONE, TWO]


def test_the_second_deploy_changes_nothing(both: Fleet) -> None:
    before = [*map(units, HOSTS), *map(started, HOSTS)]
    run = well(deploy(inventory=BOTH))
    assert changes(run) == dict.fromkeys(HOSTS, 0), run.output[-6000:]
    assert [*map(units, HOSTS), *map(started, HOSTS)] == before


@pytest.mark.parametrize("gateway", HOSTS)
def test_each_address_has_all_models(both: Fleet, gateway: str) -> None:
    assert {one["id"] for one in models(both, gateway).json()["data"]} == {CHAT, DRAFT}
    for model in (CHAT, DRAFT):
        answer = asked(both, gateway, model=model)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
    unknown = asked(both, gateway, model="another")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_requests_go_to_either_machine_whichever_was_asked(both: Fleet, tmp_path: Path) -> None:
    for gateway in HOSTS:
        job: dict[str, Any] = {"clients": 8, "requests": 120, "urls": [both.url(gateway)]}
        with Load(both, tmp_path, **job) as load:
            load.wait_over(120)
        load.assert_none_failed()
        assert set(load.answered_by()) == set(HOSTS), gateway


def test_a_request_is_a_client_s_at_its_gateway_and_a_gateway_s_at_its_host(both: Fleet) -> None:
    logs = HostLogs(HOSTS)
    forged = {"X-Vllm-Hosts-Client": "mallory", "X-Request-Id": "0" * 32}
    assert asked(both, TWO, headers=forged, model=DRAFT).status_code == 200
    time.sleep(0.5)
    assert logs.entries(TWO) == [], "it has no such agent"
    [entry] = logs.entries(ONE)
    assert (entry["client"], entry["gateway"], entry["agent"]) == ("default", TWO, "draft")
    assert entry["request_id"] != "0" * 32


def test_the_port_for_gateways_is_closed_to_others(both: Fleet) -> None:
    address = both.settings[TWO].address
    connect = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{PORT}'"
    assert lab_hosts.run("neighbour", connect, check=False).returncode != 0, "the neighbour may"
    assert lab_hosts.run(ONE, connect, check=False).returncode == 0, "a gateway may not"


def test_all_is_promised_of_both(both: Fleet, tmp_path: Path) -> None:
    run = well(command("vllm-hosts", "verify", BOTH, "--report", str(tmp_path)))
    assert "broken" not in run.output
    # What settings do not ask for, and what this machine lets no Docker do.
    left_out = {"SSH-01", "AGENT-08", "GPU-01", "GPU-02", "GPU-03", "VER-04", "GW-06"}
    left_out |= {name for name, one in promises().items() if one.of in ("mirror", "mirrored")}
    for host in HOSTS:
        assert set(promises()) - left_out <= ended(tmp_path, host, "kept"), host
        assert ended(tmp_path, host, "does not apply") <= left_out, host


def test_the_doctor_finds_nothing(both: Fleet) -> None:
    run = well(command("vllm-hosts", "doctor", BOTH))
    assert "Traceback" not in run.output


def test_an_engine_that_stands_still_leaves_at_both(both: Fleet) -> None:
    """At its own machine as well."""
    with frozen(ONE):
        took = both.wait_for(ONE, False, timeout=NOTICED + 20)
        for gateway in HOSTS:
            assert asked(both, gateway).status_code == 200
    print(f"out of rotation after {took}")
    assert max(took.values()) < NOTICED, took
    both.wait_for(ONE, True, timeout=60)


def test_an_agent_is_restarted_without_a_failed_request(both: Fleet, tmp_path: Path) -> None:
    before = started(TWO)
    with Load(both, tmp_path, requests=8000, seconds=BACK, pause=2.0) as load:
        run = command("vllm-hosts", "agents", BOTH, "restart", "chat", "--host", TWO)
        load.wait_for(20)
    well(run)
    assert started(TWO) != before
    load.assert_none_failed()


@pytest.mark.usefixtures("as_before")
def test_a_changed_setting_rolls_over_both_without_a_failed_request(
    both: Fleet, tmp_path: Path
) -> None:
    chat, draft = FLEET_AGENTS
    before, other = containers(), started(ONE, "draft")
    with Load(both, tmp_path, **JOB) as load:
        changed = {"agents": [chat | {"max_model_len": 768}, draft]}
        run = deploy(settings=changed, inventory=BOTH)
        load.wait_for(40)
    after = containers()
    well(run)
    assert [host for host in HOSTS if after[host] == before[host]] == []
    assert started(ONE, "draft") == other, "the agent that did not change was recreated"
    print(f"the roll took {run.seconds:.0f} s")
    load.assert_none_failed()


def test_nginx_and_haproxy_are_reloaded_without_a_failed_request(
    both: Fleet, tmp_path: Path
) -> None:
    """nginx of both sides is one: what HAProxy keeps open to it ends as well."""
    with Load(both, tmp_path, requests=6000, seconds=150, tokens=32) as load:
        for host in HOSTS:
            lab_hosts.run(host, "nginx -t -q && systemctl reload nginx")
            time.sleep(3)
            lab_hosts.run(host, "systemctl reload vllm-hosts-balancer")
            time.sleep(3)
        load.wait_for(150, timeout=60)
    # nginx that ends lets go of connections that clients keep; these make another.
    load.assert_none_failed(kept=False)


def test_either_machine_may_be_lost(both: Fleet, tmp_path: Path) -> None:
    """What fails was in flight at the lost gateway, or had begun at the lost machine's agent."""
    gone = both.settings[TWO].address
    with ExitStack() as stack:
        job = {"requests": 6000, "seconds": 200, "tokens": 8, "failover": True}
        with Load(both, tmp_path, **job) as load:
            stack.enter_context(without_power(TWO))
            off = time.monotonic()
            both.wait_for(TWO, False, timeout=NOTICED + 20, at=[ONE])
            out = time.monotonic()
            load.wait_for(200, timeout=90)
        where, everything = load.hosts(), load.asked
        wrong = [
            one for one in load.failed if one.began > off or (one.gateway != gone and not one.begun)
        ]
        assert not wrong, f"{len(wrong)} of {len(everything)} failed, such as {wrong[0]}"
        cut = [one for one in load.failed if one.gateway != gone]
        assert all(where.get(one.id, TWO) == TWO for one in cut), cut
        late = [one for one in everything if one.began > out]
        assert late
        assert {one.gateway for one in late} == {both.settings[ONE].address}
        assert asked(both, ONE, model=DRAFT).status_code == 200
        print(f"{len(everything)} requests, {len(load.failed)} failed, {len(cut)} of them at {ONE}")
    # It serves again by itself, on both sides.
    both.wait_whole()
    assert asked(both, TWO).status_code == 200


@pytest.mark.usefixtures("as_before")
def test_everything_is_taken_off_one_of_them(both: Fleet) -> None:
    """Its agent leaves rotation at the other one; clients of its own edge have to have left."""
    well(command("pyinfra", "-y", "--limit", TWO, BOTH, "remove.py"))
    both.wait_for(TWO, False, timeout=NOTICED + 20, at=[ONE])
    assert asked(both, ONE).status_code == 200
    left = (
        "ls -d /etc/vllm-hosts /opt/vllm /var/lib/vllm-hosts 2>/dev/null; docker ps -q 2>/dev/null"
    )
    assert lab_hosts.run(TWO, left, check=False).stdout == ""
