"""How runs of pyinfra end: exit codes, and what is to be typed next."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.ssh_server import SshServer, ssh_server
from tests.unit.test_lock import Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lock belongs to root")

PROD = "inventory/prod.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "p").mkdir()
    return Machine(tmp_path / "p")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, ""),
    ],
)
def test_a_run_that_is_stopped(
    machine: Machine, server: SshServer, number: signal.Signals, words: str
) -> None:
    file = machine.folder / "begun"
    machine.started(("gpu1", server.data()), f"echo >{file}; sleep 30")
    process = machine.begun()
    while not file.exists():
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    # It does not wait for what is done on the host.
    said, _ = process.communicate(timeout=15)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    if words:
        assert f"--> The run is stopped: {words}" in said
        assert "--> Not finished: gpu1" in said
        assert f"    pyinfra {PROD} deploy.py\n" in said
    # The host is free, and knows what became of it.
    [line] = machine.history
    assert (line["changed"], line["ended"]) == (["Something is made"], "interrupted")
    assert (machine.folder / "there/lock").read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_stopped_while_paramiko_reads(
    machine: Machine, server: SshServer, number: signal.Signals
) -> None:
    """What is raised in its thread ends that, and nothing else."""
    file = machine.folder / "begun"
    machine.started(("gpu1", server.data()), f"echo >{file}; sleep 1; seq 100; sleep 30")
    machine.write("config.py", (machine.folder / "config.py").read_text() + _IN_THREAD)
    machine.environment |= {"BEGUN": str(file), "SENT": str(int(number))}
    process = machine.begun()
    said, _ = process.communicate(timeout=25)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    if number != signal.SIGHUP:
        assert said.count("--> The run is stopped: ") == 1
        assert said.count("--> Not finished: gpu1") == 1
    # Over the same connection.
    [line] = machine.history
    assert (line["changed"], line["ended"]) == (["Something is made"], "interrupted")
    assert (machine.folder / "there/lock").read_text() == ""


#: Sends a signal while a thread has just read the first packet of what the operation prints.
_IN_THREAD = """
import os
from paramiko.packet import Packetizer

read, sent = Packetizer.read_message, []

def reads(self):
    found = read(self)
    if os.path.exists(os.environ["BEGUN"]) and not sent:
        sent.append(os.kill(os.getpid(), int(os.environ["SENT"])))
    return found

Packetizer.read_message = reads
"""


def test_a_command_that_is_interrupted_while_paramiko_reads(
    machine: Machine, server: SshServer
) -> None:
    machine.started(("gpu1", server.data()), ":")
    file = machine.folder / "begun"
    server.program("id", f"echo >{file}; echo 0")
    machine.environment |= {"BEGUN": str(file), "SENT": str(int(signal.SIGINT))}
    program = machine.patched("import pyinfra_cli", *_IN_THREAD.splitlines())
    process = machine.begin(program, "history", PROD)
    said, _ = process.communicate(timeout=25)
    assert process.returncode == 1, said
    assert said.endswith("\nAborted!\n") and "Traceback" not in said


def test_a_run_that_is_stopped_while_it_reads_its_inventory(
    machine: Machine, server: SshServer
) -> None:
    machine.started(("gpu1", server.data()), ":")
    text = (machine.folder / PROD).read_text()
    machine.write(PROD, f"import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n{text}")
    done = machine.run("pyinfra", "-y", PROD, "deploy.py")
    assert done.returncode == 143, done.stdout
    assert "--> The run is stopped: ended by SIGTERM" in done.stdout
    assert "cannot be loaded" not in done.stdout


def test_a_run_that_is_interrupted_while_its_configuration_loads(
    machine: Machine, server: SshServer
) -> None:
    """pyinfra would end with 0, as after a run."""
    machine.started(("gpu1", server.data()), ":")
    machine.write(
        "config.py",
        "import os, signal\n"
        "from vllm_hosts.project import run\n"
        "run.compiled_once = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "run.install()\n",
    )
    done = machine.run("pyinfra", "-y", PROD, "deploy.py")
    assert done.returncode == 130, done.stdout
    assert "--> The run is stopped: interrupted" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_stopped_while_it_is_imported(
    machine: Machine, server: SshServer, number: signal.Signals
) -> None:
    machine.started(("gpu1", server.data()), ":")
    machine.write(
        "config.py",
        "import importlib.abc, os, sys\n"
        "import vllm_hosts.project\n"
        # What starts the command has imported everything before.
        "sys.modules.pop('vllm_hosts.project.run', None)\n"
        "vars(vllm_hosts.project).pop('run', None)\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == 'vllm_hosts.project.run': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from vllm_hosts.project import early\n"
        "early.install()\n",
    )
    done = machine.run("pyinfra", "-y", PROD, "deploy.py")
    assert done.returncode == 128 + number, done.stdout
    assert "--> The run is stopped before it has begun" in done.stdout


def test_a_host_that_fails_is_named_for_the_next_run(machine: Machine, server: SshServer) -> None:
    machine.started(("gpu1", server.data()), "exit 3")
    machine.write(
        PROD,
        f"gpu_hosts = [('gpu1', {server.data()!r}),\n"
        "    ('down', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1})]\n",
    )
    machine.write("deploy.py", (machine.folder / "deploy.py").read_text().replace("exit 3", ":"))
    done = machine.run("pyinfra", "-y", PROD, "deploy.py")
    assert done.returncode == 1, done.stdout
    assert "--> Not finished: down" in done.stdout
    assert f"    pyinfra --limit down {PROD} deploy.py\n" in done.stdout


def test_a_run_that_is_well_says_nothing_of_that(machine: Machine, server: SshServer) -> None:
    machine.started(("gpu1", server.data()), ":")
    done = machine.run("pyinfra", "-y", PROD, "deploy.py")
    assert done.returncode == 0, done.stdout
    assert "Not finished" not in done.stdout
    # A run that is only shown leaves nobody behind either.
    done = machine.run("pyinfra", "--dry", PROD, "deploy.py")
    assert (done.returncode, "Not finished" in done.stdout) == (0, False)


def test_nobody_to_ask_is_bad_input(machine: Machine, server: SshServer) -> None:
    machine.started(("gpu1", server.data()), ":")
    done = machine.run("pyinfra", PROD, "deploy.py")
    assert done.returncode == 2, done.stdout
    assert "Add -y to go on without being asked" in done.stdout
