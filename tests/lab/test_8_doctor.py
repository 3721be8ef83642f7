"""The doctor names what was broken first, says nothing of healthy hosts, and changes nothing."""

from __future__ import annotations

import json
from threading import Thread
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, command, deploy
from tests.lab.doctor_faults import FAULTS, RECORDED
from tests.lab.doctor_parts import NO_WORDS, Fault, prints
from tests.lab.sabotage.parts import RELOAD
from vllm_hosts.host import probe

#: Agent spare has too little of its card, by the memory plan.
LITTLE = {"hosts": {"gpu1": {"agents": [AGENTS[0], AGENTS[1] | {"gpu_memory_utilization": 0.001}]}}}


def doctor(*words: str, settings: dict[str, Any] | None = None) -> Run:
    return command("vllm-hosts", "doctor", "inventory/lab.py", *words, settings=settings)


def parsed(run: Run) -> dict[str, Any]:
    """By host, without what pyinfra may have said on standard error before."""
    found: dict[str, Any] = json.loads(run.output[run.output.index("{") :])
    return found


def said_of(run: Run, host: str) -> list[dict[str, str]]:
    """What was found on a host that could be looked at, as scripts read it."""
    found = parsed(run)[host]
    assert found["could_not_look"] == [], run.output
    diagnoses: list[dict[str, str]] = found["found"]
    return diagnoses


def ask(deployed: Deployed, key: str) -> None:
    """A few requests of a client to agent tiny."""
    settings = deployed.settings["gpu1"]
    for _ in range(3):
        answer = probe.get(
            settings.address,
            settings.edge.https_port,
            "/tiny/v1/chat/completions",
            name=settings.edge_names[0],
            ca_file=str(deployed.ca_file),
            method="POST",
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            # Without a body it is refused before anybody looks at the key.
            body=b'{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}',
        )
        assert answer.status == 401


def assert_healthy(deployed: Deployed) -> None:
    run = doctor("--host", "gpu1", "--json")
    assert said_of(run, "gpu1") == []
    assert run.code == 0


def test_healthy_hosts_have_nothing(deployed: Deployed) -> None:
    for host in HOSTS:
        # What tests before this one asked for without a key is no longer of interest.
        lab_hosts.run(host, RELOAD)
    run = doctor()
    assert run.code == 0, run.output
    for host in HOSTS:
        assert f"{host}: no problem found" in run.output
    assert deployed.leaks(run.output) == []


def test_the_look_changes_nothing(deployed: Deployed) -> None:
    """Neither files nor containers, nor what nginx has taken up."""
    changed_files = (
        "find /etc /opt /root /srv /usr /var/lib/vllm /var/lib/vllm-hosts -type f"
        " -newer /root/lab-before"
    )
    containers = "docker ps -a --no-trunc --format '{{.ID}} {{.CreatedAt}} {{.Names}}'"
    containers += "; systemctl show -p MainPID nginx docker; nft -t list ruleset | grep -v counter"
    before = lab_hosts.run("gpu1", f"touch /root/lab-before; sleep 1; {containers}").stdout
    assert doctor("--host", "gpu1").code == 0
    assert lab_hosts.run("gpu1", containers).stdout == before
    assert lab_hosts.run("gpu1", changed_files, timeout=120).stdout.split() == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault, id=f"{number}-{fault.first}", marks=[] if fault.usual else [pytest.mark.nightly]
        )
        for number, fault in enumerate(FAULTS)
    ],
)
def test_a_fault_is_named_first(deployed: Deployed, fault: Fault) -> None:
    lab_hosts.run("gpu1", fault.do, timeout=400)
    try:
        if fault.asks:
            right = deployed.client_key.get_secret_value()
            ask(deployed, right if fault.asks == "right" else "x" * 43)
        run = doctor("--host", "gpu1", "--json")
        assert run.code == 1, run.output
        first = said_of(run, "gpu1")[0]
        assert first["id"] == fault.first, run.output
        assert fault.says in " ".join(first.values()), run.output
        assert deployed.leaks(run.output) == []
    finally:
        if fault.undo:
            lab_hosts.run("gpu1", fault.undo, timeout=120)
        healed = deploy("--limit", "gpu1")
    assert healed.code == 0, healed.output[-4000:]
    assert_healthy(deployed)


@pytest.mark.nightly
def test_a_deploy_that_is_at_work_is_told(deployed: Deployed) -> None:
    """Its remedy is to wait, and what it is about to bring is not missing."""
    agents = [AGENTS[0], AGENTS[1] | {"max_model_len": 256}]
    lab_hosts.run("gpu1", "docker rm -f spare")
    done: list[Run] = []
    changed = {"hosts": {"gpu1": {"agents": agents}}}
    at_work = Thread(target=lambda: done.append(deploy("--limit", "gpu1", settings=changed)))
    at_work.start()
    seen = []
    while at_work.is_alive():
        seen.append({one["id"] for one in said_of(doctor("--host", "gpu1", "--json"), "gpu1")})
    at_work.join()
    assert done[0].code == 0, done[0].output[-4000:]
    told = [names for names in seen if "deploy-running" in names]
    assert told, seen
    assert not any("agent-missing" in names for names in told), seen
    healed = deploy("--limit", "gpu1")
    assert healed.code == 0, healed.output[-4000:]
    assert_healthy(deployed)


@pytest.mark.nightly
def test_words_that_were_recorded_elsewhere_are_named_first(deployed: Deployed) -> None:
    firsts = {}
    try:
        for name, text in RECORDED.items():
            lab_hosts.run("gpu1", prints(text), timeout=120)
            firsts[name] = said_of(doctor("--host", "gpu1", "--json"), "gpu1")[0]["id"]
            if name == "weights-too-large":
                fitting = said_of(doctor("--host", "gpu1", "--json", settings=LITTLE), "gpu1")[0]
    finally:
        lab_hosts.run("gpu1", NO_WORDS)
        healed = deploy("--limit", "gpu1")
    assert healed.code == 0, healed.output[-4000:]
    assert firsts == {name: name for name in RECORDED}
    assert "by the memory plan: set gpu_memory_utilization to 0.0" in fitting["remedy"], fitting
    assert_healthy(deployed)


def test_a_host_that_cannot_be_reached_is_not_healthy(deployed: Deployed) -> None:
    lab_hosts.run("gpu2", "systemctl stop ssh.service ssh.socket")
    try:
        run = doctor("--json")
        shown = doctor("--host", "gpu2")
    finally:
        lab_hosts.run("gpu2", "systemctl start ssh.service")
    assert (run.code, shown.code) == (1, 1)
    assert said_of(run, "gpu1") == []
    [why] = parsed(run)["gpu2"]["could_not_look"]
    assert "cannot be reached" in why
    assert "could not check" in shown.output


def test_without_sudo_a_host_is_not_healthy(deployed: Deployed) -> None:
    run = command(
        "vllm-hosts",
        *("doctor", "inventory/lab.py", "--host", "gpu2"),
        settings={"hosts": {"gpu2": {"_sudo": False}}},
    )
    assert run.code == 1
    assert "do not run as root" in run.output


def test_every_line_fits_80_columns(deployed: Deployed) -> None:
    lab_hosts.run("gpu1", "systemctl stop nginx")
    try:
        run = doctor("--host", "gpu1")
    finally:
        lab_hosts.run("gpu1", "systemctl start nginx")
    assert "1. nginx-down (certain)" in run.output
    assert [line for line in run.output.splitlines() if len(line) > 80] == []
