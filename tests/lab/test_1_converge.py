"""The main job on two fresh hosts, one entered as root and one through sudo; then again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lab import hosts as lab_hosts
from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import ROOT, Run, changes, command, deploy
from tests.lab.watch import ArgumentWatch


def processes(host: str) -> dict[str, str]:
    """What must not restart without need: containers by name, nginx's and dockerd's process."""
    listing = lab_hosts.run(host, "docker ps --no-trunc --format '{{.Names}} {{.ID}}'").stdout
    found = dict(line.split() for line in listing.splitlines())
    for unit in ("nginx", "docker"):
        found[unit] = lab_hosts.run(
            host, f"systemctl show -p MainPID --value {unit}"
        ).stdout.strip()
        assert found[unit] != "0"
    return found


def test_the_first_deploy_succeeds_on_both_hosts(deployed: Deployed) -> None:
    assert deployed.first_run.code == 0, deployed.first_run.output[-6000:]
    assert set(changes(deployed.first_run)) == set(HOSTS)
    assert all(changes(deployed.first_run).values())


@pytest.mark.parametrize("host", HOSTS)
def test_all_agents_run(deployed: Deployed, host: str) -> None:
    listing = lab_hosts.run(host, "docker ps --format '{{.Names}} {{.Status}}'").stdout
    names = {line.split()[0] for line in listing.splitlines() if "(healthy)" in line}
    assert names == {agent.name for agent in deployed.settings[host].agents}


def test_the_second_deploy_changes_nothing(deployed: Deployed) -> None:
    before = {host: processes(host) for host in HOSTS}
    run = deploy()
    assert run.code == 0, run.output[-6000:]
    assert changes(run) == dict.fromkeys(HOSTS, 0), run.output
    assert {host: processes(host) for host in HOSTS} == before


def executions(run: Run) -> dict[str, int]:
    """By host, commands that a run with --debug sent there."""
    return {host: run.output.count(f"Running command on {host}: ") for host in HOSTS}


def test_a_deploy_that_changes_nothing_asks_each_host_a_few_times(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether sudo asks, all facts together, what Compose says twice, and the agents' health."""
    # Where all tests are run without looking ahead, no run has kept yet what it asked.
    monkeypatch.setenv("VLLM_HOSTS_LOOKAHEAD", "1")
    deploy()
    looking = deploy("--debug")
    monkeypatch.setenv("VLLM_HOSTS_LOOKAHEAD", "0")
    plain = deploy("--debug")
    for run in (looking, plain):
        assert run.code == 0, run.output[-6000:]
        assert changes(run) == dict.fromkeys(HOSTS, 0)
    print(f"executions: {executions(plain)}, looking ahead {executions(looking)}")
    print(f"seconds: {plain.seconds:.1f}, looking ahead {looking.seconds:.1f}")
    assert all(count <= 6 for count in executions(looking).values())
    assert all(count > 25 for count in executions(plain).values())


@pytest.mark.nightly
def test_a_fresh_host_s_deploy_fits_a_screen_or_two(deployed: Deployed) -> None:
    lab_hosts.reset(["gpu2"])
    words = ("pyinfra", "-y", "inventory/lab.py", "deploy.py")
    run = command(*words, brief=True)
    assert run.code == 0, run.output[-6000:]
    lines = run.output.splitlines()
    assert len(lines) < 60, run.output
    assert re.search(r"^ +vLLM image: changed on gpu2: The vLLM image is on", run.output, re.M)
    assert re.search(r"^ +\[gpu1\] +0 changed, [0-9]{2} unchanged$", run.output, re.M)
    assert re.search(r"^ +\[gpu2\] +[0-9]{2} changed, [0-9]{2} unchanged$", run.output, re.M)
    again = command(*words, brief=True)
    assert again.code == 0
    assert len(again.output.splitlines()) < 20, again.output
    # The rest of `make demo`, all of which stays under 120 lines: 20 are for what boots the lab.
    rest = command("vllm-hosts", "verify", "inventory/lab.py", "-q").output
    rest += command("vllm-hosts", "endpoints", "inventory/lab.py").output
    around = ["bash lab/demo.sh begin", "bash lab/demo.sh end 0"]
    rest += "".join(subprocess.check_output(one.split(), cwd=ROOT, text=True) for one in around)
    assert len(lines) + len(rest.splitlines()) < 100, rest


def test_a_dry_run_after_a_deploy_expects_no_change(deployed: Deployed) -> None:
    run = command("pyinfra", "--dry", "inventory/lab.py", "deploy.py")
    assert run.code == 0, run.output
    rows = [line for line in run.output.splitlines() if " | " in line]
    assert len(rows) > 20, run.output
    assert [row for row in rows if not row.rstrip().endswith(" -")] == []
    assert [row for row in rows if any(host in row for host in HOSTS)] == []


def test_only_the_agent_that_changed_is_recreated(deployed: Deployed) -> None:
    before = processes("gpu1")
    agents = [dict(agent) for agent in AGENTS]
    agents[1]["max_model_len"] = 768
    run = deploy("--limit", "gpu1", settings={"agents": agents})
    assert run.code == 0, run.output[-6000:]
    after = processes("gpu1")
    assert {name for name in before if before[name] != after[name]} == {"spare"}
    models = lab_hosts.run(
        "gpu1",
        "docker exec spare python3 -c 'import json, os, urllib.request as u;"
        ' r = u.Request("http://127.0.0.1:8000/v1/models",'
        ' headers={"Authorization": "Bearer " + os.environ["VLLM_API_KEY"]});'
        ' print(json.load(u.urlopen(r))["data"][0]["max_model_len"])\'',
    )
    assert models.stdout.strip() == "768"
    assert deploy("--limit", "gpu1").code == 0, "back to the settings in the inventory"


class TestSecretsStaySecret:
    """At the highest verbosity, with diffs: the keys are nowhere."""

    def test_not_in_the_output(self, deployed: Deployed) -> None:
        assert deployed.leaks(deployed.first_run.output) == []
        assert len(deployed.first_run.output) > 20_000, "the run was not verbose"

    def test_not_in_any_process_s_arguments(self, deployed: Deployed) -> None:
        assert deployed.seen_in_arguments == ()

    def test_the_watch_on_arguments_sees_a_leak(self) -> None:
        with ArgumentWatch(["canary-in-argv"]) as watch:
            subprocess.run(["sh", "-c", ": canary-in-argv; sleep 0.5"], check=True)
        assert watch.seen

    @pytest.mark.parametrize("host", HOSTS)
    def test_not_in_what_docker_inspect_calls_the_command(
        self, deployed: Deployed, host: str
    ) -> None:
        inspected = lab_hosts.run(
            host,
            "docker inspect --format '{{json .Config.Cmd}} {{json .Config.Entrypoint}}"
            " {{json .Path}} {{json .Args}} {{json .Config.Labels}}' $(docker ps -q)",
        ).stdout
        assert "vllm" in inspected
        assert deployed.leaks(inspected) == []

    def test_not_in_the_repository(self, deployed: Deployed, tmp_path: Path) -> None:
        patterns = tmp_path / "patterns"
        patterns.write_text("\n".join(key.get_secret_value() for key in deployed.canaries.values()))
        found = subprocess.run(
            ["git", "grep", "-lF", "--untracked", "-f", str(patterns)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (found.returncode, found.stdout) == (1, "")
