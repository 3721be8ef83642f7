"""What pyinfra prints with our config.py, run for real on this machine as the host."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyinfra
import pytest

from tests.unit.projects import Project
from vllm_hosts.project.deploy_output import Brief, _listed

DEPLOY = """
from pyinfra.api.deploy import deploy
from pyinfra.operations import server
from vllm_hosts.operations.checks import no_problems, said
from vllm_hosts.operations.base import watched, host_operation
from vllm_hosts.project import deploy_output
deploy_output._SILENT = 3

@host_operation
def slow():
    yield watched("working", "sleep 4; echo done", seconds=1)

@deploy("First")
def first():
    no_problems(lambda: [], name="All is well")
    server.shell(commands=["true"], name="Something is made")
    server.shell(commands=["true"], name="Another thing is made")

@deploy("Second")
def second():
    slow(name="It takes long")
    said(["mind the gap"], name="A note")
    no_problems(lambda: PROBLEMS, name="Nothing is wrong")
    server.shell(commands=["true"], name="The last step")

first()
second()
"""


class Ops(dict[str, Any]):
    """By host, as pyinfra has them."""

    def __getitem__(self, host: Any) -> Any:
        return super().__getitem__(host.name)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write(
        "inventory/prod.py",
        "gpu_hosts = [('@local', {'ssh_hostname': '192.0.2.1'})]\n",
    )
    return project


def run(
    project: Project, *options: str, problems: str = "[]", work: str = "sleep 4; echo done"
) -> tuple[int, list[str]]:
    text = DEPLOY.replace("PROBLEMS", problems).replace("sleep 4; echo done", work)
    project.write("mine.py", text)
    done = project.run("pyinfra", "-y", *options, "inventory/prod.py", "mine.py")
    beginning = done.stdout.index("--> Connecting")
    lines = done.stdout[beginning:].partition("--> Disconnecting")[0].splitlines()
    return done.returncode, [line.strip() for line in lines if line.strip()]


def test_only_what_changed_or_takes_long_is_printed(project: Project) -> None:
    code, lines = run(project)
    assert code == 0
    working = [line for line in lines if "working: " in line]
    assert 1 <= len(working) <= 2, lines
    assert [line for line in lines if line not in working] == [
        "--> Connecting to hosts...",
        "[@local] Connected",
        "--> Beginning operation run...",
        "First: changed on @local: Something is made; Another thing is made",
        "Second | It takes long ...",
        "Second: changed on @local: It takes long",
        "Second | A note ...",
        "[@local]     mind the gap",
        "Second: changed on @local: The last step",
        "--> Results:",
        "[@local] 4 changed, 3 unchanged",
    ]


def test_a_failure_has_its_operation_and_its_reason(project: Project) -> None:
    code, lines = run(project, problems="['the disk is full']", work="echo done")
    assert code != 0
    at = lines.index("Second | Nothing is wrong ...")
    assert lines[at + 1] == "[@local] the disk is full"
    assert "Success" not in "".join(lines)
    assert "The last step" not in "".join(lines)


def test_the_name_of_a_step_stands_before_what_it_printed(project: Project) -> None:
    code, lines = run(project, work="echo the archive is gone; exit 3")
    assert code != 0
    lines = [line for line in lines if "working: " not in line]
    at = lines.index("Second | It takes long ...")
    assert lines[at + 1 : at + 3] == [
        "[@local] the archive is gone",
        "[@local] Error: executed 0 commands",
    ]
    assert any(line.startswith("First: changed on @local") for line in lines[:at])


def test_the_end_has_a_line_for_each_host() -> None:
    hosts = [SimpleNamespace(name=name, print_prefix=f"[{name}] ") for name in ("a", "b", "c", "d")]
    chosen, reached = hosts[:3], hosts[:2]
    outcomes = {"one": (True, True), "two": (False, True)}

    def meta(host: str, step: str) -> SimpleNamespace:
        done = step == "both" or outcomes[host][step == "second"]
        return SimpleNamespace(
            is_complete=lambda: True, did_succeed=lambda: done, did_change=lambda: step != "second"
        )

    steps = ("both", "first", "second")
    state = SimpleNamespace(
        inventory=hosts,
        activated_hosts=reached[::-1],
        failed_hosts=[reached[1]],
        is_host_in_limit=lambda host: host in chosen,
        get_op_meta=lambda step: SimpleNamespace(names={f"Role | {step}"}),
        ops=Ops(
            {
                host.name: {
                    step: SimpleNamespace(operation_meta=meta(outcome, step)) for step in steps
                }
                for host, outcome in zip(reached, outcomes, strict=True)
            }
        ),
    )
    brief: Any = Brief()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyinfra.logger, "info", said.append)
        for step in steps:
            brief.operation_start(state, step)
            if step == "first":
                brief.operation_host_error(state, reached[1], step)
            brief.operation_end(state, step)
        assert brief.wanted(logging.makeLogRecord({"levelno": 20, "msg": "--> Results:"}))
        brief.results(state)
    assert said == [
        "Role: changed on a, b: both",
        "Role: changed on a: first",
        "[a] 2 changed, 1 unchanged",
        '[b] failed at "Role | first"; before that: 1 changed, 1 unchanged',
        "[c] could not be reached; nothing was done there",
    ]


def test_v_prints_all_that_pyinfra_prints(project: Project) -> None:
    code, lines = run(project, "-v", work="echo done")
    assert code == 0
    text = "\n".join(lines)
    assert text.count("--> Starting operation: ") == 7
    assert (text.count("] Success"), text.count("] No changes")) == (4, 3)
    assert "Grand total" in text


def test_other_commands_of_pyinfra_print_as_they_do(project: Project) -> None:
    done = project.run("pyinfra", "-y", "inventory/prod.py", "exec", "--", "echo", "hello")
    assert done.returncode == 0
    assert "hello" in done.stdout and "Success" in done.stdout


def test_many_hosts_are_counted() -> None:
    names = [f"gpu{number}" for number in range(50)]
    assert _listed(names[:2], 50) == "gpu0, gpu1"
    assert _listed(names, 50) == "all 50 hosts"
    assert _listed(names[:20], 50) == "20 of 50 hosts"
