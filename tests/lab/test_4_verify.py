"""The hosts suite passes on good hosts, and every promise that is broken turns it red."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, command, deploy
from tests.lab.sabotage import FLEET, MIRROR, SABOTAGE, SHARED, UNBROKEN, Sabotage, rounds
from vllm_hosts.verify.promises import promises

#: Promises whose looks take seconds and that few rows are about.
_SLOW = ("EDGE-12",)
#: Promises of gateways and of hosts behind them, which these are not.
_OF_FLEETS = {name for name, one in promises().items() if one.of not in ("all", "agents")}


def verify(*words: str) -> Run:
    return command("vllm-hosts", "verify", "inventory/lab.py", *words)


def ended(folder: Path, host: str, outcome: str) -> set[str]:
    """Promises that ended so on a host, from the report."""
    report = json.loads((folder / "report.json").read_text())
    [found] = [entry for entry in report["hosts"] if entry["name"] == host]
    return {name for name, look in found["promises"].items() if look["outcome"] == outcome}


def test_the_suite_passes_on_both_hosts(deployed: Deployed, tmp_path: Path) -> None:
    run = verify("--report", str(tmp_path))
    assert run.code == 0, run.output[-8000:]
    for host in HOSTS:
        left_out = ended(tmp_path, host, "does not apply")
        # AGENT-08 where this machine lets the lab's Docker bound neither memory nor processes.
        always = {"SSH-01", *_OF_FLEETS}
        assert always <= left_out <= {"AGENT-08", *always}
        assert ended(tmp_path, host, "kept") == set(promises()) - left_out
    for path in tmp_path.iterdir():
        assert deployed.leaks(path.read_text()) == [], path
    assert deployed.leaks(run.output) == []


def test_every_promise_is_broken_by_a_row() -> None:
    rows = [*SABOTAGE, *FLEET, *SHARED, *MIRROR]
    broken = {identifier for row in rows for identifier in row.broken}
    assert broken | set(UNBROKEN) == set(promises())
    assert broken & set(UNBROKEN) == set()
    assert len({row.name for row in rows}) == len(rows) >= 40


@pytest.mark.parametrize("title", list(rounds()))
def test_promises_broken_together_are_all_seen(
    deployed: Deployed, title: str, tmp_path: Path
) -> None:
    broken_and_healed(deployed, rounds()[title], tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("sabotage", [pytest.param(row, id=row.name) for row in SABOTAGE])
def test_a_broken_promise_is_seen_and_healed(
    deployed: Deployed, sabotage: Sabotage, tmp_path: Path
) -> None:
    broken_and_healed(deployed, [sabotage], tmp_path)


def broken_and_healed(deployed: Deployed, rows: list[Sabotage], tmp_path: Path) -> None:
    """Break promises on gpu1: exactly these are seen, and the next deploy heals them."""
    broken = {identifier for row in rows for identifier in row.broken}
    needed = {name for row in rows for name in row.also}
    left_out = [f"--skip={name}" for name in _SLOW if name not in needed]
    look = ("--host", "gpu1", "--ports", "1-10000", "--report", str(tmp_path), *left_out)
    done = []
    try:
        for row in rows:
            done.append(row)
            lab_hosts.run("gpu1", row.do, timeout=400)
        run = verify(*look)
        assert run.code == 1, run.output[-4000:]
        assert ended(tmp_path, "gpu1", "broken") == broken, run.output[-4000:]
        if not any(row.blind for row in rows):
            assert ended(tmp_path, "gpu1", "not checked") == set(), run.output[-4000:]
        assert deployed.leaks(run.output) == []
        for row in rows:
            if row.refused:
                again = deploy("--limit", "gpu1")
                assert again.code == 1
                assert row.refused in again.output, again.output[-4000:]
    finally:
        for row in reversed(done):
            if row.undo:
                lab_hosts.run("gpu1", row.undo)
        healed = deploy("--limit", "gpu1")
    assert healed.code == 0, healed.output[-4000:]
    chosen = [word for name in sorted(broken) for word in ("--promise", name)]
    after = verify("--host", "gpu1", "--ports", "1-10000", *chosen)
    assert after.code == 0, after.output[-4000:]


class TestTheSuiteItself:
    """It never reports good news about hosts that it has not looked at."""

    def test_a_host_that_cannot_be_reached_is_not_checked(
        self, deployed: Deployed, tmp_path: Path
    ) -> None:
        lab_hosts.run("gpu2", "systemctl stop ssh.service ssh.socket")
        try:
            run = verify("--ports", "1-10000", "--report", str(tmp_path))
        finally:
            lab_hosts.run("gpu2", "systemctl start ssh.service")
        assert run.code == 1
        assert "gpu2: cannot be reached" in run.output
        # What its clients see can be looked at; all the rest was not, and nothing is broken.
        assert {name.partition("-")[0] for name in ended(tmp_path, "gpu2", "kept")} <= {
            "EDGE",
            "TLS",
        }
        assert ended(tmp_path, "gpu2", "broken") == set()
        good = ended(tmp_path, "gpu1", "kept") | ended(tmp_path, "gpu1", "does not apply")
        assert good == set(promises())

    def test_a_neighbour_that_cannot_look_is_said(self, deployed: Deployed, tmp_path: Path) -> None:
        lab_hosts.run("neighbour", "systemctl stop ssh.service ssh.socket")
        try:
            run = verify("--promise", "NET-11", "--promise", "SEC-01", "--report", str(tmp_path))
        finally:
            lab_hosts.run("neighbour", "systemctl start ssh.service")
        assert run.code == 1
        assert ended(tmp_path, "gpu1", "not checked") == {"NET-11"}
        assert ended(tmp_path, "gpu1", "kept") == {"SEC-01"}
        assert "neighbour neighbour could not scan" in run.output

    def test_without_sudo_nothing_counts_as_checked(
        self, deployed: Deployed, tmp_path: Path
    ) -> None:
        run = command(
            "vllm-hosts",
            *("verify", "inventory/lab.py", "--host", "gpu2", "--promise", "SEC-01"),
            *("--report", str(tmp_path)),
            settings={"hosts": {"gpu2": {"_sudo": False}}},
        )
        assert run.code == 1
        assert ended(tmp_path, "gpu2", "not checked") == {"SEC-01"}
        assert "is not root; set _sudo" in run.output

    def test_a_half_deployed_host_is_not_checked(self, deployed: Deployed, tmp_path: Path) -> None:
        lab_hosts.run("gpu2", "mv /opt/vllm /opt/away; mv /etc/nginx/vllm-hosts /etc/nginx/away")
        try:
            run = verify(
                *("--host", "gpu2", "--ports", "1-10000", "--skip", "EDGE-12"),
                *("--report", str(tmp_path)),
            )
        finally:
            lab_hosts.run(
                "gpu2", "mv /opt/away /opt/vllm; mv /etc/nginx/away /etc/nginx/vllm-hosts"
            )
        assert run.code == 1
        assert {"SEC-01", "SEC-04", "KEY-01"} <= ended(tmp_path, "gpu2", "not checked")

    def test_no_tests_is_no_success(self, deployed: Deployed) -> None:
        assert verify("-k", "no_such_test").code == 1

    def test_a_broken_inventory_is_no_success(self, tmp_path: Any) -> None:
        (tmp_path / "empty.py").write_text("gpu_hosts = []\n")
        assert command("vllm-hosts", "verify", str(tmp_path / "empty.py")).code == 1
