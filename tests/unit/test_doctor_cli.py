"""The command vllm-hosts doctor: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.projects import Project, own_lock
from vllm_hosts.cli import doctor as doctor_cli
from vllm_hosts.doctor.diagnoses import Certainty, Diagnosis
from vllm_hosts.doctor.examine import Examined

WRONG = Diagnosis(
    "disk-full",
    Certainty.CERTAIN,
    "/var/lib/docker is full, and this sentence is long enough to need a second line.",
    "0 MiB free on /var/lib/docker " + "x" * 200,
    "Make room there.",
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    # Nobody listens there: refused at once.
    project.write(
        "inventory/prod.py",
        'gpu_hosts = [("gpu1", {"ssh_hostname": "127.0.0.1", "ssh_port": 1,'
        ' "ssh_user": "root"})]\n',
    )
    return project


def answer(
    examined: Examined, monkeypatch: pytest.MonkeyPatch, project: Project, *words: str
) -> tuple[int, str]:
    """Exit code and output, where the host was examined with this result."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(doctor_cli, "examine", lambda inventory, hosts: {"gpu1": examined})
    done = CliRunner().invoke(doctor_cli.doctor, ["inventory/prod.py", *words])
    return done.exit_code, done.output


def test_a_host_that_cannot_be_reached_is_not_healthy(project: Project) -> None:
    done = project.run("vllm-hosts", "doctor", "inventory/prod.py")
    assert done.returncode == 1
    assert "could not check" in done.stdout
    assert "no problem found" not in done.stdout


def test_a_host_is_looked_at_over_the_connection_of_a_deploy(tmp_path: Path) -> None:
    """This machine stands for one that nothing was deployed to."""
    programs = tmp_path / "programs"
    programs.mkdir()
    answers = {"id": "echo 0", "docker": "exit 1", "systemctl": "echo inactive", "nginx": "exit 0"}
    answers |= {"journalctl": "printf 'kernel: nvidia Gr\\374\\337e\\n'", "nvidia-smi": "exit 9"}
    for name, script in answers.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    project = Project(tmp_path)
    project.write(
        "inventory/prod.py",
        # Other tests deploy on this machine meanwhile.
        f'{own_lock(tmp_path)}gpu_hosts = [("@local", {{"ssh_hostname": "127.0.0.1"}})]\n',
    )
    project.group(vllm={"directory": str(tmp_path / "nothing")})
    project.environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = project.run("vllm-hosts", "doctor", "inventory/prod.py", "--json")
    host = json.loads(done.stdout)["@local"]
    assert host["could_not_look"] == []
    names = [found["id"] for found in host["found"]]
    # The lab may have left something of ours here.
    assert names[0] in ("not-deployed", "deploy-cut-off")
    assert names[1] == "docker-down"
    [advice] = [found["remedy"] for found in host["found"][:1]]
    assert "pyinfra inventory/prod.py deploy.py --limit @local" in advice
    assert "driver-not-loaded" in names
    assert done.returncode == 1


def test_nothing_found_is_exit_code_0(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(Examined(), monkeypatch, project) == (0, "gpu1: no problem found\n")


def test_something_found_is_exit_code_1(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = answer(Examined((WRONG,)), monkeypatch, project)
    assert code == 1
    assert "  1. disk-full (certain)\n" in output
    assert all(len(line) <= 80 for line in output.splitlines())


def test_what_could_not_be_seen_counts_more(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = answer(Examined((WRONG,), ("the log",)), monkeypatch, project)
    assert code == 1
    assert "disk-full" in output
    assert "could not check  the log" in output


def test_what_to_type_to_deploy_is_said_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = replace(WRONG, deploys=True)
    typed = "to deploy: pyinfra inventory/prod.py deploy.py --limit gpu1\n"
    assert answer(Examined((advice, advice)), monkeypatch, project)[1].count(typed) == 1
    whole = replace(WRONG, remedy="Run: pyinfra inventory/prod.py deploy.py --limit gpu1")
    # An agent may be called so, and a model.
    named = replace(WRONG, remedy="vllm-hosts agents INVENTORY start deploy --host gpu1")
    for one in (WRONG, whole, named):
        assert typed not in answer(Examined((one,)), monkeypatch, project)[1]


def test_json_for_scripts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = answer(Examined((WRONG,)), monkeypatch, project, "--json")
    assert code == 1
    assert json.loads(output) == {
        "gpu1": {
            "found": [
                {
                    "id": "disk-full",
                    "certainty": "certain",
                    "what": WRONG.what,
                    "evidence": WRONG.evidence,
                    "remedy": WRONG.remedy,
                }
            ],
            "could_not_look": [],
        }
    }


def test_an_unknown_host_is_misuse(project: Project) -> None:
    done = project.run("vllm-hosts", "doctor", "inventory/prod.py", "--host", "gpu9")
    assert done.returncode == 2
    assert "has no host gpu9; it has gpu1" in done.stdout
