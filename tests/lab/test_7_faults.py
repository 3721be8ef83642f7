"""Whatever happens in the middle of a deploy: the host keeps its promises, and the next run
converges."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable

import pytest

from lab import hosts as lab_hosts
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, command, deploy
from tests.lab.faults import run, table

pytestmark = pytest.mark.nightly

HOST = "gpu2"
#: Something to do for most roles: Docker's log size, the agent's length, the edge's networks.
CHANGED = json.dumps(
    {
        "docker": {"log_max_size": "48m"},
        "hosts": {HOST: {"agents": [AGENTS[0] | {"max_model_len": 768}]}},
    }
)
FAULTS: dict[str, tuple[Callable[..., None], int | None]] = {
    "killed": (run.sent(signal.SIGKILL), -signal.SIGKILL),
    "interrupted": (run.sent(signal.SIGINT), 130),
    "terminated": (run.sent(signal.SIGTERM), 143),
    "terminal closed": (run.sent(signal.SIGHUP), 129),
    "connection dropped": (run.dropped(HOST), 1),
    "docker stopped": (run.docker_stopped(HOST), None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_middle_of_a_change(deployed: Deployed, name: str) -> None:
    fault, code = FAULTS[name]
    seconds = run.seeded(name).uniform(4, 40)
    done = run.deploy_until(HOST, seconds, fault, CHANGED)
    whole = done.code == 0
    try:
        # A moment after the end of what was to be done is no fault.
        assert whole or code is None or done.code == code, done.output[-4000:]
        assert deployed.leaks(done.output) == []
        run.wait_free(HOST)
        if name != "docker stopped":
            assert run.broken(HOST) == []
    finally:
        back = deploy("--limit", HOST)
    assert back.code == 0, back.output[-6000:]
    assert run.left(HOST) == []
    assert run.broken(HOST) == []
    before = run.agents(HOST)
    third = deploy("--limit", HOST)
    assert (third.code, changes(third)[HOST]) == (0, 0), third.output[-4000:]
    assert run.agents(HOST) == before


@pytest.mark.parametrize("turn", range(6))
def test_a_controller_that_is_killed_where_nothing_changes(deployed: Deployed, turn: int) -> None:
    """Agents are not even restarted, and the host is free at once."""
    before = run.agents(HOST)
    seconds = run.seeded(f"nothing {turn}").uniform(1, 12)
    run.deploy_until(HOST, seconds, run.sent(signal.SIGKILL))
    run.wait_free(HOST, 30)
    assert run.broken(HOST) == []
    again = deploy("--limit", HOST)
    assert (again.code, changes(again)[HOST]) == (0, 0), again.output[-4000:]
    assert run.agents(HOST) == before


def test_a_second_deploy_waits_and_is_told_for_whom(deployed: Deployed) -> None:
    # The first is held up: nothing answers a lock that somebody else has.
    lab_hosts.run(
        HOST, "systemd-run --unit=lab-holder flock /run/vllm-hosts.lock sleep 40", timeout=30
    )
    status = command("vllm-hosts", "lock", "inventory/lab.py", "status", "--host", HOST)
    assert status.code == 3
    assert f"{HOST}: held by" in status.output
    done = deploy("--limit", HOST)
    assert (done.code, changes(done)[HOST]) == (0, 0), done.output[-4000:]
    assert "waits for" in done.of_host(HOST)


def test_a_clock_that_is_a_year_ahead_is_named(deployed: Deployed) -> None:
    before = run.agents(HOST)
    table.FAULTS["clock a year ahead"].prepare(HOST)
    lab_hosts.run(HOST, table.CLOCK_AHEAD)
    try:
        refused = deploy("--limit", HOST, settings=json.loads(CHANGED))
    finally:
        lab_hosts.run(HOST, table.CLOCK_RIGHT)
    assert refused.code == 1
    assert re.search(r"its clock is 36[45] days.* ahead of the one here", refused.of_host(HOST))
    assert changes(refused).get(HOST, 0) == 0, refused.output[-4000:]
    again = deploy("--limit", HOST)
    assert (again.code, changes(again)[HOST]) == (0, 0), again.output[-4000:]
    assert run.agents(HOST) == before


def test_a_run_is_ended_by_release(deployed: Deployed) -> None:
    def release(process: object) -> None:
        done = command("vllm-hosts", "lock", "inventory/lab.py", "release", "--host", HOST, "-y")
        assert done.code == 0, done.output
        assert f"{HOST} is free" in done.output

    stopped = run.deploy_until(HOST, 6, release, CHANGED)
    assert stopped.code == 1, stopped.output[-4000:]
    assert deploy("--limit", HOST).code == 0
    assert run.left(HOST) == []


def test_the_history_says_who_changed_the_host(deployed: Deployed) -> None:
    deploy("--limit", HOST, settings={"docker": {"log_max_size": "47m"}})
    deploy("--limit", HOST)
    done = command("vllm-hosts", "history", "inventory/lab.py", "--host", HOST, "--json")
    assert done.code == 0, done.output
    [found] = json.loads(done.output[done.output.index("[\n") :])
    last = found["runs"][-1]
    assert last["what"] == "deploy.py of lab.py"
    assert "Docker | daemon.json is merged, Docker runs with it" in last["changed"]
    assert last["ended"] == "done"
    assert deployed.leaks(done.output) == []


def test_the_lock_is_root_s_alone(deployed: Deployed) -> None:
    assert lab_hosts.run(HOST, "stat -c '%a %u:%g' /run/vllm-hosts.lock").stdout == "600 0:0\n"
    held = lab_hosts.run(
        HOST, "setpriv --reuid 65534 --clear-groups flock -n /run/vllm-hosts.lock true", check=False
    )
    assert held.returncode != 0
