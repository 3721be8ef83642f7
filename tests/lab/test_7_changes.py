"""What a change leads to: said before it is done, and never on all hosts of a model at once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, changes, command, deploy
from tests.lab.traffic import Asked, Traffic

FILE = "/opt/vllm/compose.yaml"


def containers(host: str) -> str:
    return lab_hosts.run(
        host, f"docker ps --no-trunc --format '{{{{.Names}}}} {{{{.ID}}}}' | sort; sha256sum {FILE}"
    ).stdout


def tiny(**changed: Any) -> dict[str, Any]:
    """Settings in which agent tiny of both hosts is another one."""
    agent = AGENTS[0] | changed
    return {"hosts": {"gpu1": {"agents": [agent, AGENTS[1]]}, "gpu2": {"agents": [agent]}}}


def dry(settings: dict[str, Any] | None = None) -> Run:
    return command("pyinfra", "--dry", "inventory/lab.py", "deploy.py", settings=settings)


def row(run: Run, name: str) -> list[str]:
    [line] = [line for line in run.output.splitlines() if f"| {name}" in line]
    return re.split(r"\s{2,}", line.strip())[1:]


def test_a_dry_run_names_the_agents_that_are_recreated(deployed: Deployed) -> None:
    before = {host: containers(host) for host in HOSTS}
    for host in HOSTS:
        lab_hosts.run(host, "touch /run/lab-mark")
    run = dry(tiny(max_model_len=768) | {"docker": {"log_max_size": "49m"}})
    written = [
        lab_hosts.run(
            host, "find /etc /opt /root /var/lib/vllm-hosts -newer /run/lab-mark -type f"
        ).stdout
        for host in HOSTS
    ]
    assert run.code == 0, run.output[-4000:]
    assert {host: containers(host) for host in HOSTS} == before
    assert written == ["", ""]
    for host in HOSTS:
        found = re.search(
            rf"{host}: agent tiny is recreated \(its definition changed\); it is down for about"
            r" (\d+ s|\d+ minutes), as long as its last start took",
            run.output,
        )
        assert found, run.output[-4000:]
        assert f"{host}: Docker is restarted; agents keep running" in run.output
    assert "agent spare" not in run.output
    assert row(run, "The agents run as in compose.yaml") == ["2 (gpu1, gpu2)", "-"]
    assert "gpu2: its agents change after those of gpu1: same model" in run.output
    assert deployed.leaks(run.output) == []


def test_a_dry_run_after_a_deploy_leads_to_nothing(deployed: Deployed) -> None:
    run = dry()
    assert run.code == 0, run.output[-4000:]
    for host in HOSTS:
        assert f"{host}: nothing is restarted, recreated or reloaded" in run.output


def test_a_dry_run_refuses_the_host_that_a_run_would_refuse(deployed: Deployed) -> None:
    settings = {"hosts": {"gpu2": {"agents": [AGENTS[0] | {"gpus": [7]}]}}}
    run = dry(settings | {"docker": {"log_max_size": "49m"}})
    assert run.code == 1, run.output[-4000:]
    assert re.search(r"--> gpu2 is refused, and will not be deployed to:\n\s+- .*GPU", run.output)
    assert row(run, "daemon.json is merged, Docker runs with it") == ["1 (gpu1)", "-"]
    assert "gpu1: Docker is restarted" in run.output
    assert "gpu2: " not in run.output


@pytest.mark.nightly
def test_a_changed_setting_never_has_both_hosts_down(deployed: Deployed) -> None:
    before = {host: containers(host) for host in HOSTS}
    key = [("client", deployed.client_key)]

    def traffic(host: str) -> Traffic:
        url = f"https://{deployed.settings[host].address}/tiny/v1"
        return Traffic(url, "tiny", deployed.ca_file, key, pause=0.5)

    with traffic("gpu1") as first, traffic("gpu2") as second:
        run = deploy(settings=tiny(max_model_len=768))
    try:
        assert run.code == 0, run.output[-6000:]
        assert re.search(r"\[gpu2\]\s+waits until gpu1 serves \S+ again", run.output)
        for host in HOSTS:
            assert containers(host) != before[host]
        gone = [down(first.asked), down(second.asked)]
        assert all(end > start for start, end in gone), "an agent was recreated unseen"
        assert gone[0][1] < gone[1][0], gone
    finally:
        back = deploy()
    assert back.code == 0, back.output[-6000:]
    assert changes(deploy()) == dict.fromkeys(HOSTS, 0)


def down(asked: list[Asked]) -> tuple[float, float]:
    """When the first request failed, and when the last of them had."""
    failed = [item for item in asked if item.status != 200]
    assert failed, "no request failed"
    return min(item.began for item in failed), max(item.ended for item in failed)


@pytest.mark.nightly
def test_a_broken_change_stops_at_the_first_host(deployed: Deployed) -> None:
    before = {host: containers(host) for host in HOSTS}
    # Refused before anything is touched, unless that is overruled.
    broken = tiny(extra_args=["--enforce-eager", "--no-such-argument"])
    run = deploy(settings=broken | {"capacity": {"preflight": "warn"}})
    after = {host: containers(host) for host in HOSTS}
    healthy = {
        host: lab_hosts.run(
            host, "docker ps --filter health=healthy --format '{{.Names}}' | sort"
        ).stdout.split()
        for host in HOSTS
    }
    again = dry()
    back = deploy()
    assert run.code != 0
    assert "no-such-argument" in run.output, run.output[-6000:]
    assert re.search(
        r"\[gpu2\].*left as they are: gpu1 failed while its agents of \S+ were down", run.output
    ), run.output[-6000:]
    assert after["gpu2"] == before["gpu2"], "its file or its containers are others"
    # What was broken was put back: its file is the same, its container another one.
    assert re.search(r"\[gpu1\].*those of before are back", run.output), run.output[-6000:]
    assert after["gpu1"].splitlines()[-1] == before["gpu1"].splitlines()[-1]
    assert healthy == {"gpu1": ["spare", "tiny"], "gpu2": ["tiny"]}
    for host in HOSTS:
        assert f"{host}: nothing is restarted, recreated or reloaded" in again.output
    assert back.code == 0, back.output[-6000:]
    assert {host: containers(host) for host in HOSTS} == after
