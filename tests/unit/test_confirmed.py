"""Changes that undo themselves: what the host would do, with this machine's shell in its place."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
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

    def arm(
        self, save: str = ":", undo: str = ":", name: str = "test"
    ) -> subprocess.CompletedProcess[str]:
        """The host is told how to undo what follows."""
        before = os.umask(0)
        try:
            conf = "conf" if name == "test" else f"{name}.conf"
            command = armed(name, [f"{self.folder}/{conf}"], save=save, undo=undo)
            return self.run(command.get_raw_value())
        finally:
            os.umask(before)

    def boot(self) -> subprocess.CompletedProcess[str] | None:
        """What the host does of its own when it boots; None: nothing of ours."""
        shutil.rmtree(self.undo.parent, ignore_errors=True)
        wanted = self.folder / "etc/sysinit.target.wants/undo.service"
        if not wanted.exists():
            return None
        [script] = re.findall(r"^ExecStart=(.*)$", wanted.read_text(), re.M)
        return self.run(script)

    def left(self) -> list[str]:
        """What is there of ours on disk."""
        found = [*self.folder.glob("etc/**/*"), *self.folder.glob("state/**/*")]
        return sorted(str(one.relative_to(self.folder)) for one in found if not one.is_dir())

    def time_is_up(self) -> int:
        """What the timer starts. How it ends."""
        [started] = [line for line in self.asked() if line.startswith("systemd-run ")]
        words = started.split()
        return self.run(shlex.join(words[words.index("/bin/sh") :])).returncode


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(confirmed, "_FOLDER", f"{tmp_path}/undo")
    monkeypatch.setattr(confirmed, "_KEPT", f"{tmp_path}/state/unconfirmed")
    monkeypatch.setattr(confirmed, "_UNIT", f"{tmp_path}/etc/undo.service")
    for name in ("DEPLOYED", "COPIES"):
        monkeypatch.setattr(confirmed, name, f"{tmp_path}/{name}")
    return Machine(tmp_path, tmp_path / "undo/test")


def test_the_host_puts_back_what_it_had(machine: Machine) -> None:
    conf, live = machine.folder / "conf", machine.folder / "it's live"
    conf.write_text("before")
    conf.chmod(0o640)
    live.write_text("before")
    path = shlex.quote(str(live))
    done = machine.arm(save=f"cp {path} saved", undo=f"cp saved {path}; cp {conf} read; false")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    conf.write_text("after")
    live.write_text("after")
    assert machine.time_is_up() == 0
    assert (conf.read_text(), conf.stat().st_mode & 0o777) == ("before", 0o640)
    assert live.read_text() == "before"
    # Who reads the files reads what was there before.
    assert (machine.undo / "read").read_text() == "before"
    # Whoever waits for it sees that it is done.
    assert (machine.undo / "undone").exists()
    # A boot has nothing more to do.
    assert (machine.left(), machine.boot()) == ([], None)


def test_all_of_several_files_come_back(machine: Machine) -> None:
    paths = [machine.folder / name for name in ("conf", "other", "new")]
    for path in paths[:2]:
        path.write_text("before")
    command = armed("test", [*map(str, paths)], save=":", undo=":").get_raw_value()
    for comes in (machine.boot, machine.time_is_up):
        (machine.folder / "log").unlink(missing_ok=True)
        assert machine.run(command).returncode == 0
        for path in paths:
            path.write_text("after")
        comes()
        assert [path.exists() and path.read_text() for path in paths] == ["before", "before", False]


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
    assert sorted(os.listdir(machine.undo)) == [".ours", ".was", "files", "new", "undo.sh"]


def test_no_timer_starts_for_what_could_not_be_saved(machine: Machine) -> None:
    assert machine.arm(save="cp /does/not/exist saved").returncode != 0
    assert not [line for line in machine.asked() if line.startswith("systemd-run")]


def test_what_is_saved_is_there_before_the_timer_and_for_root_only(machine: Machine) -> None:
    machine.program("systemd-run", f"ls {machine.undo} >{machine.folder}/seen")
    machine.arm(save="echo secret >saved")
    assert (machine.folder / "seen").read_text().split() == ["files", "saved", "undo.sh"]
    kept = machine.folder / "state/unconfirmed"
    for path in (machine.undo.parent, *machine.undo.glob("**"), kept, *kept.glob("**")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_nothing_is_undone_in_another_folder(machine: Machine) -> None:
    """Confirmed in the same moment: what was saved has gone."""
    machine.arm(undo=f": >{machine.folder}/undone-somewhere")
    script = (machine.undo / "undo.sh").read_text()
    shutil.rmtree(machine.undo)
    assert machine.run(script).returncode == 1
    assert not (machine.folder / "undone-somewhere").exists()


def test_it_lies_where_only_root_can_write() -> None:
    """A reboot forgets the timer's folder, by which the host knows that there was one since."""
    assert confirmed._FOLDER == "/run/vllm-hosts-undo"
    assert confirmed._KEPT == "/var/lib/vllm-hosts/unconfirmed"
    assert confirmed._wanted() == (
        "/etc/systemd/system/sysinit.target.wants/vllm-hosts-unconfirmed.service"
    )


class TestBoot:
    """A boot before the confirmation."""

    @pytest.mark.parametrize("before", ["before", None])
    def test_it_comes_up_with_what_was_confirmed(
        self, machine: Machine, before: str | None
    ) -> None:
        conf = machine.folder / "conf"
        if before is not None:
            conf.write_text(before)
            conf.chmod(0o640)
        done = machine.arm(undo=f": >{machine.folder}/read-again")
        assert (done.returncode, done.stderr) == (0, "")
        conf.write_text("after")
        booted = machine.boot()
        assert booted is not None
        assert (booted.returncode, booted.stdout, booted.stderr) == (0, "", "")
        assert (conf.read_text() if conf.exists() else None) == before
        assert before is None or conf.stat().st_mode & 0o777 == 0o640
        # Nothing that would read it runs yet.
        assert not (machine.folder / "read-again").exists()
        # The next boot changes nothing.
        assert (machine.left(), machine.boot()) == ([], None)
        assert sorted(one.name for one in machine.folder.glob("conf*")) == ["conf"] * bool(before)

    def test_a_link_stays_one(self, machine: Machine) -> None:
        (machine.folder / "conf").symlink_to("elsewhere")
        assert machine.arm().returncode == 0
        (machine.folder / "conf").unlink()
        assert machine.boot() is not None
        assert os.readlink(machine.folder / "conf") == "elsewhere"

    def test_all_is_on_disk_before_the_change(self, machine: Machine) -> None:
        """What a loss of power would take along is synced; the link that starts it comes last."""
        (machine.folder / "conf").write_text("before")
        machine.program(
            "sync",
            f'[ -e {machine.folder}/etc/sysinit.target.wants/undo.service ] && echo "linked"'
            f" >>{machine.folder}/log; exit 0",
        )
        machine.arm()
        asked = machine.asked()
        linked = asked.index("linked")
        first = {word for line in asked[: linked - 1] for word in line.split()[1:]}
        state, etc = machine.folder / "state", machine.folder / "etc"
        kept = state / "unconfirmed"
        saved = f"{kept}/test/files{machine.folder}/conf"
        wanted = (state, kept, kept / "boot.sh", kept / "test/undo.sh", etc, etc / "undo.service")
        assert {*map(str, wanted), saved} <= first
        assert f"{etc}/sysinit.target.wants" in asked[linked - 1].split()
        assert asked[-1].startswith("systemd-run ")

    def test_the_unit_starts_before_all_that_reads_the_files(self, machine: Machine) -> None:
        machine.arm()
        unit = machine.folder / "etc/undo.service"
        assert unit.stat().st_mode & 0o777 == 0o644
        kept = f"{machine.folder}/state/unconfirmed"
        # Not in the boot of the change, whatever is started in it.
        assert unit.read_text() == (
            "# Managed by vllm-hosts.\n"
            "[Unit]\n"
            "Description=Undo changes of vllm-hosts that nobody has confirmed\n"
            "DefaultDependencies=no\n"
            f"RequiresMountsFor={kept}\n"
            f"ConditionPathExists=!{machine.folder}/undo\n"
            f"ConditionPathExists={kept}/boot.sh\n"
            "After=local-fs.target\n"
            "Before=sysinit.target vllm-hosts-firewall.service ssh.service ssh.socket"
            " shutdown.target\n"
            "Conflicts=shutdown.target\n"
            "\n"
            "[Service]\n"
            "Type=oneshot\n"
            f"ExecStart=/bin/sh {kept}/boot.sh\n"
        )
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            capture_output=True, text=True, timeout=60, check=False,
        ) if shutil.which("systemd-analyze") else None  # fmt: skip
        assert done is None or str(unit) not in done.stderr

    def test_after_the_confirmation_it_leaves_the_change(self, controller: Controller) -> None:
        machine = controller.machine
        (machine.folder / "conf").write_text("after")
        assert controller.confirm()
        assert (machine.left(), machine.boot()) == ([], None)
        assert (machine.folder / "conf").read_text() == "after"

    def test_power_is_lost_in_the_confirmation(self, controller: Controller) -> None:
        """From one file's end on a boot leaves the change; what else is there does not count."""
        machine = controller.machine
        (machine.folder / "conf").write_text("after")
        machine.program("sync", "exit 1")
        assert not controller.confirm()
        assert machine.boot() is not None
        assert (machine.folder / "conf").read_text() == "after"

    def test_a_confirmation_that_is_cut_off_is_none(self, controller: Controller) -> None:
        """All returns with the timer, and no boot has anything left to undo."""
        machine = controller.machine
        (machine.folder / "conf").write_text("after")
        stopping = f"undo-test.timer) cd {machine.undo} && sh undo.sh; exit 1"
        machine.program("systemctl", f"case $* in stop*{stopping};; esac")
        assert not controller.confirm()
        assert controller.said[-1].endswith("so the host rolled back; is the door open?")
        assert (machine.folder / "conf").read_text() != "after"
        assert (machine.left(), machine.boot()) == ([], None)

    def test_nothing_is_confirmed_that_a_boot_would_not_have(self, controller: Controller) -> None:
        machine = controller.machine
        command = confirmed.confirmed("test", "why?", before="echo no room >&2; false")
        done = command.function(controller.state, controller.host, *command.args)
        assert done is False
        assert not [line for line in machine.asked() if line.startswith("systemctl daemon-reload")]
        assert machine.boot() is not None

    def test_one_of_two_is_confirmed(self, controller: Controller) -> None:
        machine = controller.machine
        (machine.folder / "other.conf").write_text("before")
        assert machine.arm(name="other").returncode == 0
        for name in ("conf", "other.conf"):
            (machine.folder / name).write_text("after")
        assert controller.confirm()
        assert machine.boot() is not None
        assert (machine.folder / "conf").read_text() == "after"
        assert (machine.folder / "other.conf").read_text() == "before"
        assert machine.left() == []

    def test_it_is_tried_again_where_it_did_not_work(self, machine: Machine) -> None:
        conf = machine.folder / "conf"
        conf.write_text("before")
        machine.arm()
        conf.unlink()
        conf.mkdir()
        booted = machine.boot()
        assert booted is not None
        assert booted.returncode == 1
        assert booted.stderr.endswith("test is not as it was\n")
        conf.rmdir()
        booted = machine.boot()
        assert booted is not None
        assert booted.returncode == 0
        assert conf.read_text() == "before"
        assert machine.left() == []

    def test_so_it_is_after_the_timer(self, machine: Machine) -> None:
        conf = machine.folder / "conf"
        conf.write_text("before")
        machine.arm()
        conf.unlink()
        conf.mkdir()
        assert machine.time_is_up() == 0
        conf.rmdir()
        assert machine.boot() is not None
        assert conf.read_text() == "before"

    def test_power_is_lost_while_the_timer_s_script_runs(self, machine: Machine) -> None:
        conf = machine.folder / "conf"
        conf.write_text("before")
        machine.arm(undo="kill -KILL $$")
        conf.write_text("after")
        machine.time_is_up()
        assert machine.boot() is not None
        assert conf.read_text() == "before"
        assert machine.left() == []


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
    # What systemd has read of the unit for the next boot is gone with it.
    assert [line for line in controller.machine.asked() if line.startswith("systemctl ")][-2:] == [
        "systemctl daemon-reload",
        f"systemctl stop {UNIT}.timer",
    ]
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


@pytest.mark.parametrize("error", [SSHException("SSH session not active"), EOFError(), OSError()])
def test_a_host_that_has_booted_says_nothing_over_the_connection_of_before(
    controller: Controller, error: Exception
) -> None:
    def gone(*words: object, **options: object) -> None:
        raise error

    controller.always = SSHException("no session")
    controller.host.run_shell_command = gone
    assert not controller.confirm()
    assert controller.said[-1] == (
        "after the change no new connection opened (no session), and the host has not confirmed"
        " that it rolled back; is the door open?"
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
