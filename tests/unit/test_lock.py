"""A host is held by one run at a time: what the run does with the shell that holds it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import gevent
import pytest
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from tests.unit.projects import AGENT, Project
from tests.unit.recording import Recorder, Run, deploy_py, first_deploy, keys_py
from tests.unit.ssh_server import SshServer, ssh_server
from tests.unit.started import Begun
from vllm_hosts.connect import lock
from vllm_hosts.host.marks import Left, left_of
from vllm_hosts.project import pyinfra_command, run

RECORD = (
    '4711 962bd73d-5bb1 192.0.2.7 {"who": "ada@laptop", "what": "deploy.py of prod.py",'
    ' "since": "2026-11-26T08:00:00Z"}'
)
ADA = "deploy.py of prod.py of ada@laptop (192.0.2.7), since 2026-11-26 08:00:00 UTC"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Run]:
    return first_deploy(tmp_path_factory.mktemp("lock"))


def history(recorder: Recorder) -> list[dict[str, Any]]:
    return [json.loads(text) for text in recorder.shell.heard]


def test_what_a_run_changes_is_told_before_it_is_done(deployed: tuple[Recorder, Run]) -> None:
    recorder, done = deployed
    said = history(recorder)
    # What only waits runs no command of its own, and is where the image comes to be there.
    waits = "vLLM image | The vLLM image is on the host"
    named = {*done.changed, waits}
    steps = [name for name in done.names if name in named and name in said[-1]["changed"]]
    assert said[0]["changed"] == done.changed[:1]
    assert said[0]["ended"] == "cut off"
    assert said[0]["what"] == "deploy.py of prod.py"
    assert len(steps) > 10
    # Bounded, and it says that there is more.
    assert len(recorder.shell.heard[-1]) <= 1801
    *told, more = said[-1]["changed"]
    assert told == steps
    assert more.startswith("and ") and more.endswith(" more")


def test_a_run_that_changes_nothing_says_nothing(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    recorder = deployed[0].copied(tmp_path)
    for entry in (deploy_py, keys_py):
        done = recorder.run(entry)
        assert (done.failed, done.changed) == (False, [])
        assert recorder.shell.heard == []


def test_a_dry_run_holds_nothing(deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    recorder = deployed[0].copied(tmp_path)
    recorder.says = ("refused held ",)
    assert not recorder.run(deploy_py, dry=True).failed
    assert recorder.shell.says == []


@pytest.mark.parametrize("entry", [deploy_py, keys_py])
def test_a_host_that_another_run_has_is_left_alone(
    deployed: tuple[Recorder, Run], tmp_path: Path, entry: object
) -> None:
    recorder = deployed[0].copied(tmp_path)
    recorder.says = (f"waits held {RECORD}", f"waits held {RECORD}", f"refused held {RECORD}")
    done = recorder.run(entry)  # type: ignore[arg-type]
    assert done.failed
    assert done.names == ["Lock | No other deploy is at work on the host"]
    said = [line for line in done.said if "waits for" in line]
    assert said == [f"waits for {ADA}"]
    assert f"another run has this host: {ADA}; nothing was changed here" in done.said[-1]
    assert "vllm-hosts lock INVENTORY release" in done.said[-1]
    assert recorder.shell.closed


def test_who_is_waited_for_and_ends(
    deployed: tuple[Recorder, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_SAY_NEXT", 0)
    recorder = deployed[0].copied(tmp_path)
    left = "process 12 2026-11-26T08:00:00Z apt-get;undo firewall;"
    recorder.says = (f"waits held {RECORD}", f"waits left {left}", "taken")
    done = recorder.run(deploy_py)
    assert not done.failed
    assert [line for line in done.said if "waits for" in line] == [
        f"waits for {ADA}",
        "waits for apt-get (pid 12), left by a run of 2026-11-26 08:00:00 UTC that was cut off;"
        " a change of firewall that nobody confirmed, which is being rolled back",
    ]


def test_what_a_deploy_has_left_is_named_with_how_to_end_it(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    recorder = deployed[0].copied(tmp_path)
    recorder.says = ("refused left process 12 2026-11-26T08:00:00Z apt-get;",)
    done = recorder.run(deploy_py)
    assert done.failed
    assert "still at work on this host: apt-get (pid 12), left by" in done.said[-1]
    assert done.said[-1].endswith("or end it there: kill 12")


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (("user 1000",), "commands do not run as root"),
        (("without",), "install util-linux"),
        (("unwritable",), "/run cannot be written"),
        ((), "MaxSessions"),
        (("refused held \x1b[2Jgarbage",), "another run has this host: a deploy that has just"),
    ],
)
def test_a_host_that_cannot_be_held(
    deployed: tuple[Recorder, Run], tmp_path: Path, says: tuple[str, ...], words: str
) -> None:
    recorder = deployed[0].copied(tmp_path)
    recorder.says = says
    done = recorder.run(deploy_py)
    assert done.failed and len(done.names) == 1
    assert words in done.said[-1]
    assert "\x1b" not in done.said[-1]


@pytest.mark.parametrize("line", ["", "process x y z", "undo", "process 1 2", "odd"])
def test_lines_that_are_none_of_ours(line: str) -> None:
    assert left_of([line]) == Left()


def test_what_a_run_is_for(deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    recorder = deployed[0].copied(tmp_path)
    with recorder._begun(State(Inventory((["gpu1"], {})), Config())):
        assert run.purpose().what == "deploy.py of prod.py"
        assert run._run is not None
        run._run.what = "rollback.py"
        # Hosts are worked at in greenlets, which have no click context of their own.
        assert gevent.spawn(lambda: run.purpose().what).get() == "rollback.py of prod.py"


def test_a_run_is_named_by_its_files() -> None:
    with click.Context(click.Command("pyinfra")) as context:
        context.params = {"operations": ("x/rollback.py", "keys.py")}
        assert pyinfra_command.what_runs(ours=False) == "rollback.py+keys.py"
        assert gevent.spawn(pyinfra_command.what_runs, ours=False).get() == "deploy.py"
        assert pyinfra_command.what_runs(ours=True) == "deploy.py"


#: Paths of the host, in a folder of the test; and what a run does there.
_MOVED = """
from vllm_hosts.host import marks
marks.LOCK, marks.HISTORY = "{folder}/lock", "{folder}/history"
marks.DEPLOYED, marks.UNDO = "{folder}/deployed", "{folder}/undo"
marks.DEPLOY_SINCE = "{mark}"
from vllm_hosts.connect import lock as own
own.DEPLOY_SINCE = "{mark}"
"""
_DEPLOY = """
from pyinfra.api.command import StringCommand
from vllm_hosts.operations.base import host_operation
from vllm_hosts.roles.lock import lock

@host_operation
def made():
    yield StringCommand("{command}")

lock()
made(name="Something is made")
"""

rooted = pytest.mark.skipif(os.geteuid() != 0, reason="the lock belongs to root")


class Machine(Project):
    """A project whose hosts are this machine, with a lock and a history of its own."""

    def started(self, host: object, command: str) -> None:
        there = self.folder / "there"
        there.mkdir(exist_ok=True)
        mark = f"VLLM_HOSTS_DEPLOY_{os.getpid()}"
        self.write("moved.py", _MOVED.format(folder=there, mark=mark))
        for name in ("deploy.py", "config.py"):
            (self.folder / name).unlink(missing_ok=True)
        own = "import moved\nfrom vllm_hosts.project import run\n\nrun.install()\n"
        self.write("config.py", own)
        self.write("deploy.py", _DEPLOY.format(command=command))
        self.write("inventory/prod.py", f"gpu_hosts = [{host!r}]\n")
        self.group(agents=[AGENT])
        self.environment = {"HOME": str(self.folder), "PYTHONPATH": str(self.folder)}

    @property
    def history(self) -> list[dict[str, object]]:
        lines = (self.folder / "there/history").read_text().splitlines()
        return [json.loads(line.split(" ", 2)[2]) for line in lines]

    def begun(self) -> Begun:
        return self.begin("pyinfra", "-y", "inventory/prod.py", "deploy.py")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "p").mkdir()
    return Machine(tmp_path / "p")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path / "server") as running:
        yield running


def hosts(server: SshServer) -> list[object]:
    return [
        ("@local", {"ssh_hostname": "192.0.2.1"}),
        ("gpu1", server.data()),
        # As with sudo, which the stand-in of it only passes on.
        ("gpu1", server.data(_sudo=True)),
    ]


@rooted
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_run_on_this_machine_and_over_ssh(
    machine: Machine, server: SshServer, which: int
) -> None:
    server.program("sudo", 'while :; do case $1 in -*) shift;; *) break;; esac; done; exec "$@"')
    machine.started(hosts(server)[which], f"cat {machine.folder}/there/lock >{machine.folder}/seen")
    done = machine.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode == 0, done.stdout
    assert "1 changed, 1 unchanged" in done.stdout
    # While it worked, the host was held by it.
    assert '"what": "deploy.py of prod.py"' in (machine.folder / "seen").read_text()
    assert (machine.folder / "there/lock").read_text() == ""
    [line] = machine.history
    assert line["changed"] == ["Something is made"]
    assert line["ended"] == "done"


@rooted
def test_a_run_that_fails_says_where(machine: Machine, server: SshServer) -> None:
    machine.started(hosts(server)[1], "exit 3")
    done = machine.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert done.returncode == 1, done.stdout
    [line] = machine.history
    assert (line["changed"], line["ended"]) == (
        ["Something is made"],
        "failed at Something is made",
    )


@rooted
def test_a_controller_that_is_killed_frees_the_host(machine: Machine, server: SshServer) -> None:
    file = machine.folder / "begun"
    machine.started(hosts(server)[1], f"echo >{file}; sleep 1.5; echo >>{file}")
    first = machine.begun()
    while not file.exists():
        time.sleep(0.05)
        assert first.poll() is None, first.communicate()[0]
    first.kill()
    first.communicate()
    second = machine.run("pyinfra", "-y", "inventory/prod.py", "deploy.py")
    assert second.returncode == 0, second.stdout
    assert [line["ended"] for line in machine.history] == ["cut off", "done"]
