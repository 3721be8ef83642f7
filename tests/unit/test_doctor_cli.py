"""The command vllm-hosts doctor: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.projects import Project
from vllm_hosts import doctor_cli
from vllm_hosts.doctor.model import Certainty, Diagnosis
from vllm_hosts.doctor.run import Examined

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
    assert "could not look" in done.stdout
    assert "nothing was found" not in done.stdout


def test_nothing_found_is_exit_code_0(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(Examined(), monkeypatch, project) == (0, "gpu1: nothing was found\n")


def test_something_found_is_exit_code_2(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = answer(Examined((WRONG,)), monkeypatch, project)
    assert code == 2
    assert "  1. disk-full (certain)\n" in output
    assert all(len(line) <= 80 for line in output.splitlines())


def test_what_could_not_be_seen_counts_more(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = answer(Examined((WRONG,), ("the log",)), monkeypatch, project)
    assert code == 1
    assert "disk-full" in output
    assert "could not look  the log" in output


def test_json_for_scripts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = answer(Examined((WRONG,)), monkeypatch, project, "--json")
    assert code == 2
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
