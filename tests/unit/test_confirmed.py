"""Changes that undo themselves: what the host would do, with this machine's shell in its place."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.command import StringCommand
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput, OutputLine

from vllm_hosts.operations import confirmed
from vllm_hosts.operations.confirmed import armed, undone_within

UNIT = "vllm-hosts-undo-test"


class Machine:
    """The host: its shell, and programs that write down what they were asked."""

    def __init__(self, folder: Path, undo: Path) -> None:
        self.folder, self.undo, self._log = folder, undo, folder / "log"
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in ("systemctl", "systemd-run", "sleep"):
            self.program(name, "")

    def program(self, name: str, script: str) -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self._log}\n{script}\n')
        path.chmod(0o755)

    def asked(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def run(self, script: str, folder: str = "/") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"}
        words = ["sh", "-c", script]
        return subprocess.run(
            words, env=environment, cwd=folder, capture_output=True, text=True, timeout=60
        )

    def arm(self, save: str = ":", undo: str = ":") -> subprocess.CompletedProcess[str]:
        """The host is told how to undo what follows."""
        before = os.umask(0)
        try:
            command = armed("test", [f"{self.folder}/conf"], save=save, undo=undo)
            return self.run(command.get_raw_value())
        finally:
            os.umask(before)

    def time_is_up(self) -> int:
        """What the timer starts. How it ends."""
        [started] = [line for line in self.asked() if line.startswith("systemd-run ")]
        words = started.split()
        return self.run(shlex.join(words[words.index("/bin/sh") :])).returncode


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(confirmed, "_FOLDER", f"{tmp_path}/undo")
    for name in ("DEPLOYED", "COPIES"):
        monkeypatch.setattr(confirmed, name, f"{tmp_path}/{name}")
    return Machine(tmp_path, tmp_path / "undo/test")


def test_the_host_puts_back_what_it_had(machine: Machine) -> None:
    conf = machine.folder / "it's.conf"
    conf.write_text("before")
    path = shlex.quote(str(conf))
    done = machine.arm(save=f"cp {path} saved", undo=f"cp saved {path}; false")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    conf.write_text("after")
    assert machine.time_is_up() == 0
    assert conf.read_text() == "before"
    # Whoever waits for it sees that it is done.
    assert (machine.undo / "undone").exists()


def test_the_timer_comes_after_a_minute_and_not_whenever_it_suits(machine: Machine) -> None:
    machine.arm()
    words = machine.asked()[-1].split()
    assert words[0] == "systemd-run"
    assert words[1 : words.index("/bin/sh")] == [
        "--quiet",
        "--collect",
        f"--unit={UNIT}",
        "--on-active=60s",
        "--timer-property=AccuracySec=500ms",
    ]


def test_an_older_timer_is_stopped_before_its_folder_is_used_again(machine: Machine) -> None:
    """It would undo this change with what was there before the one before."""
    machine.arm(save="echo old >saved; : >undone")
    # There is mostly none, and systemctl says so.
    machine.program(
        "systemctl", f"[ ! -e {machine.undo}/new ] || exit 3; echo no such unit >&2; exit 5"
    )
    done = machine.arm(save="[ ! -e undone ] && : >new")
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.asked()[-3:-1] == [
        f"systemctl stop {UNIT}.timer",
        f"systemctl reset-failed {UNIT}.service",
    ]
    assert sorted(os.listdir(machine.undo)) == [".ours", ".was", "new", "undo.sh"]


def test_no_timer_starts_for_what_could_not_be_saved(machine: Machine) -> None:
    assert machine.arm(save="cp /does/not/exist saved").returncode != 0
    assert not [line for line in machine.asked() if line.startswith("systemd-run")]


def test_what_is_saved_is_there_before_the_timer_and_for_root_only(machine: Machine) -> None:
    machine.program("systemd-run", f"ls {machine.undo} >{machine.folder}/seen")
    machine.arm(save="echo secret >saved")
    assert (machine.folder / "seen").read_text().split() == ["saved", "undo.sh"]
    for path in (machine.undo.parent, machine.undo, *machine.undo.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_nothing_is_undone_in_another_folder(machine: Machine) -> None:
    """Confirmed in the same moment: what was saved has gone."""
    machine.arm(undo=f": >{machine.folder}/undone-somewhere")
    script = (machine.undo / "undo.sh").read_text()
    shutil.rmtree(machine.undo)
    assert machine.run(script).returncode == 1
    assert not (machine.folder / "undone-somewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="writes where only root may")
def test_it_lies_where_only_root_can_write_and_a_reboot_forgets_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Path("/run/vllm-hosts-undo", f"test-{os.getpid()}"))
    files = [f"{tmp_path}/conf"]
    command = armed(machine.undo.name, files, save=": >saved", undo=":").get_raw_value()
    try:
        assert machine.run(command).returncode == 0
        assert sorted(os.listdir(machine.undo)) == [".ours", ".was", "saved", "undo.sh"]
    finally:
        machine.run(f"rm -rf {machine.undo}; rmdir {machine.undo.parent} 2>/dev/null")


class Clock:
    """Time that passes as fast as a test wants it to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Controller:
    """Connections to the machine. New ones take a second, and fail as often as a test says."""

    def __init__(self, machine: Machine, clock: Clock) -> None:
        self.machine, self.clock = machine, clock
        self.fails: list[BaseException | None] = []
        self.always: BaseException | None = None
        self.tries, self.opened = 0, 0
        self.said: list[str] = []
        self.options: list[dict[str, Any]] = []
        inventory = Inventory((["gpu1"], {"_sudo": True, "_shell_executable": "sh"}))
        self.state = State(inventory, Config())
        host: Any = inventory.get_host("gpu1")
        host.connector = self.connection(self.state, host)
        host.log = self.said.append
        host.log_styled = lambda text, **style: self.said.append(text)
        self.host = host

    def connection(self, state: State, host: Host) -> Any:
        controller = self

        class Connection:
            def __init__(self, state: State, host: Host) -> None:
                self.client: Any = None

            def connect(self) -> None:
                controller.tries += 1
                controller.clock.now += 1
                why = controller.fails.pop(0) if controller.fails else controller.always
                if why is not None:
                    raise why
                controller.opened += 1
                self.client = SimpleNamespace(close=self.close)

            def close(self) -> None:
                controller.opened -= 1

            def run_shell_command(
                self, command: StringCommand, **options: Any
            ) -> tuple[bool, CommandOutput]:
                controller.options.append(options)
                done = controller.machine.run(command.get_raw_value())
                lines = [OutputLine("stderr", line) for line in done.stderr.splitlines()]
                return done.returncode == 0, CommandOutput(lines)

        return Connection(state, host)

    def confirm(self) -> bool:
        command = confirmed.confirmed("test", "is the door open?")
        done = command.function(self.state, self.host, *command.args, **command.kwargs)
        assert isinstance(done, bool)
        assert self.opened == 0, "a connection stays open"
        return done


@pytest.fixture
def controller(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Controller:
    clock = Clock()
    monkeypatch.setattr(confirmed, "time", clock)
    machine.arm(undo=f"echo back >{machine.folder}/conf")
    return Controller(machine, clock)


def test_a_new_connection_stops_the_timer(controller: Controller) -> None:
    assert controller.confirm()
    assert controller.machine.asked()[-1] == f"systemctl stop {UNIT}.timer"
    assert not controller.machine.undo.exists()
    assert controller.said == []
    # As the inventory says, and nobody has to read it.
    [options] = controller.options
    assert (options["_sudo"], options["print_output"], options["print_input"]) == (
        True,
        False,
        False,
    )


def test_one_that_does_not_get_in_is_tried_again(controller: Controller) -> None:
    controller.fails = [ConnectError("refused"), OSError("no route"), EOFError(), None]
    assert controller.confirm()
    assert (controller.tries, controller.said) == (4, [])
    assert not controller.machine.undo.exists()


@pytest.mark.parametrize(
    ("error", "why"),
    [(ConnectError("port 22 is closed"), "port 22 is closed"), (EOFError(), "EOFError()")],
)
def test_where_nobody_gets_in_the_host_is_waited_for(
    controller: Controller, error: Exception, why: str
) -> None:
    controller.always = error
    # Its timer is a part of the machine that a test has to be.
    undo = controller.machine.undo
    controller.machine.program("sleep", f"cd {undo} && sh undo.sh")
    assert not controller.confirm()
    assert (controller.machine.folder / "conf").read_text() == "back\n"
    assert controller.said == [
        f"    no new connection opens; waiting for the host to roll back: {why}",
        f"after the change no new connection opened ({why}), so the host rolled back;"
        " is the door open?",
    ]
    # Over the connection that was open before, as the inventory says.
    [options] = controller.options
    assert (options["_sudo"], options["print_output"], options["print_input"]) == (
        True,
        False,
        False,
    )


def test_it_gives_up_before_the_host_does_and_then_waits_until_it_has(
    controller: Controller,
) -> None:
    began = controller.clock.now
    controller.always = ConnectError("no")
    assert not controller.confirm()
    # A second for each, and two between them.
    assert (controller.tries, controller.clock.now - began) == (9, 25)
    waited = [line for line in controller.machine.asked() if line == "sleep 1"]
    assert len(waited) == 60 + 15
    assert controller.said[-1] == (
        "after the change no new connection opened (no), and the host has not confirmed that"
        " it rolled back; is the door open?"
    )


def test_a_change_that_was_undone_meanwhile_is_not_confirmed(controller: Controller) -> None:
    assert controller.machine.time_is_up() == 0
    assert not controller.confirm()
    assert controller.said[-1].endswith("so the host rolled back; is the door open?")


def test_a_timer_that_runs_on_is_not_confirmed(controller: Controller) -> None:
    controller.machine.program("systemctl", "echo 'Connection timed out' >&2; exit 1")
    controller.machine.program("sleep", f"cd {controller.machine.undo} && sh undo.sh")
    assert not controller.confirm()
    why = "the timer could not be stopped: Connection timed out"
    assert controller.said[-1].startswith(f"after the change no new connection opened ({why}), so")


def test_a_connection_that_leaves_nothing_open_needs_no_closing(controller: Controller) -> None:
    """The connector of this machine has no client."""
    connection = type(controller.host.connector)
    connection.connect = lambda self: None
    assert controller.confirm()


def test_the_wait_ends_where_nothing_is_undone(tmp_path: Path) -> None:
    waited = subprocess.run(["sh", "-c", undone_within(1, str(tmp_path))], check=False, timeout=20)
    assert waited.returncode == 1


def test_the_wait_ends_with_the_undoing(tmp_path: Path) -> None:
    (tmp_path / "undone").touch()
    waited = subprocess.run(["sh", "-c", undone_within(99, str(tmp_path))], check=False, timeout=20)
    assert waited.returncode == 0
