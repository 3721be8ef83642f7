"""Who holds a host and what runs have left there, as the host says it: our own scripts, run here.

Processes, and whatever ends one, are stand-ins: nothing of this machine is looked at or ended.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts import lock
from vllm_hosts.facts.base import END, HostFact, T
from vllm_hosts.facts.lock import HostHistory, LockFound, LockState, Released
from vllm_hosts.host.history import HistoryEntry
from vllm_hosts.host.marks import Left, Owner

BOOT = "962bd73d-5bb1"
SAID = {"who": "ada@laptop", "what": "deploy.py of prod.py", "since": "2026-11-26T08:00:00Z"}
OWNER = Owner(**SAID, pid=100, boot=BOOT, address="192.0.2.7")
RECORD = f"100 {BOOT} 192.0.2.7 {json.dumps(SAID)}"
NOT_ROOT = "commands do not run as root; connect as root, or set _sudo = True"


class Machine:
    """A host in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.lock, self.history = folder, folder / "lock", folder / "history"
        self.user, self.left = "0", ":"
        monkeypatch.setattr(lock, "functions", lambda: self.functions)

    @property
    def functions(self) -> str:
        return f"""
            lock={self.lock}; history={self.history}
            id() {{ echo {self.user}; }}
            look_at_left() {{ {self.left}; }}
        """

    def ran(self, fact: HostFact[T], script: str) -> T:
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, timeout=20
        )
        assert done.stderr == ""
        return fact.process(done.stdout.splitlines())

    def found(self) -> LockFound:
        return self.ran(LockState(), LockState().command())

    def entries(self, lines: int) -> tuple[HistoryEntry, ...]:
        return self.ran(HostHistory(), HostHistory().command(lines))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


class TestHeld:
    def test_a_fresh_host_is_free(self, machine: Machine) -> None:
        assert machine.found() == LockFound(False, None, Left())
        assert not machine.lock.exists()

    def test_the_kernel_s_lock_counts_and_not_what_stands_in_the_file(
        self, machine: Machine
    ) -> None:
        machine.lock.write_text(f"{RECORD}\n")
        assert machine.found() == LockFound(False, None, Left())
        with machine.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert machine.found() == LockFound(True, OWNER, Left())

    @pytest.mark.parametrize(
        "text", ["", "whatever\n", f"{RECORD[:30]}\n", f"{RECORD}{' ' * 4000}"]
    )
    def test_who_cannot_be_read_holds_it_all_the_same(self, machine: Machine, text: str) -> None:
        machine.lock.write_text(text)
        with machine.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            found = machine.found()
        assert found.held
        # Spaces behind a record are none of it.
        assert found.owner == (OWNER if text.startswith(RECORD) else None)

    def test_a_file_without_end_ends_no_look(self, machine: Machine) -> None:
        machine.lock.write_text("x" * 100_000)
        assert machine.found() == LockFound(False, None, Left())

    def test_what_a_deploy_has_left(self, machine: Machine) -> None:
        machine.left = "echo process 7 2026-11-26T08:00:00Z apt-get; echo undo firewall"
        left = Left(((7, "2026-11-26T08:00:00Z", "apt-get"),), ("firewall",))
        assert machine.found() == LockFound(False, None, left)

    def test_another_user_would_see_nothing(self, machine: Machine) -> None:
        machine.user = "1000"
        looks: list[tuple[HostFact[Any], str]] = [
            (LockState(), LockState().command()),
            (HostHistory(), HostHistory().command(1)),
            (Released(), Released().command(1, BOOT)),
        ]
        for fact, script in looks:
            with pytest.raises(HostError) as found:
                machine.ran(fact, script)
            assert str(found.value) == NOT_ROOT

    def test_a_look_is_kept_as_it_was(self) -> None:
        with pytest.raises(FrozenInstanceError):
            LockFound(False, None, Left()).held = True  # type: ignore[misc]


class Processes(Machine):
    """``frees``: what has to be ended until the host is free."""

    frees = ""

    def started(self, *names: str, pid: int = 100) -> None:
        """From the one that holds the host upwards; the last one's parent is 1."""
        for number, name in enumerate(names):
            folder = self.folder / f"proc/{pid + number}"
            folder.mkdir(parents=True)
            parent = 1 if number == len(names) - 1 else pid + number + 1
            (folder / "stat").write_text(f"{pid + number} ({name}) S {parent} 7 7 0\n")
            (folder / "comm").write_text(f"{name}\n")

    @property
    def functions(self) -> str:
        return f"""{super().functions}
            flock() {{ [ "$*" = "-n -s {self.lock} true" ] && [ -e {self.folder}/free ]; }}
            sleep() {{ echo "sleep $1" >>{self.folder}/done; }}
            kill() {{
                echo "kill $*" >>{self.folder}/done
                [ "$*" != "{self.frees}" ] || : >{self.folder}/free
            }}
        """

    def released(self, pid: int = 100, boot: str = BOOT) -> bool:
        script = Released().command(pid, boot)
        return self.ran(Released(), script.replace("/proc/", f"{self.folder}/proc/"))

    @property
    def done(self) -> list[str]:
        file = self.folder / "done"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    found = Processes(tmp_path, monkeypatch)
    found.lock.write_text(f"{RECORD}\n")
    return found


class TestReleased:
    @pytest.mark.parametrize(
        "name", ["sshd", "sshd-session", "pyinfra", "python3.11", "vllm-hosts"]
    )
    def test_the_connection_that_it_came_over_ends(self, processes: Processes, name: str) -> None:
        processes.started("sh", "a) S 7 (b", name, "sshd")
        processes.frees = "102"
        assert processes.released()
        assert processes.done == ["kill 102"]

    def test_a_host_that_is_free_by_now_is_left_alone(self, processes: Processes) -> None:
        processes.started("sh", "sshd")
        (processes.folder / "free").touch()
        assert processes.released()
        assert processes.done == []

    def test_another_run_is_left_alone(self, processes: Processes) -> None:
        processes.started("sh", "sshd")
        assert not processes.released(101)
        assert not processes.released(boot="another")
        processes.lock.write_text(f"7 {BOOT} -\n{RECORD}\n")
        assert not processes.released()
        assert processes.done == []

    def test_what_does_not_end_is_killed(self, processes: Processes) -> None:
        processes.started("sh", "sshd")
        processes.frees = "-KILL 100"
        assert processes.released()
        assert processes.done == ["kill 101", *["sleep 0.5"] * 10, "kill -KILL 100"]

    def test_what_holds_it_still_is_said(self, processes: Processes) -> None:
        """A program that systemd has started, such as."""
        processes.started("sh", "screen")
        assert not processes.released()
        assert processes.done == [*["sleep 0.5"] * 10, "kill -KILL 100", *["sleep 0.5"] * 4]

    def test_one_that_has_ended_meanwhile(self, processes: Processes) -> None:
        processes.frees = "-KILL 100"
        assert processes.released()
        assert processes.done[-1] == "kill -KILL 100"

    @pytest.mark.parametrize(("between", "found"), [(15, True), (16, False)])
    def test_it_is_looked_for_in_sixteen_steps(
        self, processes: Processes, between: int, found: bool
    ) -> None:
        processes.started("sh", *["bash"] * between, "sshd")
        processes.frees = f"{100 + between + 1}"
        assert processes.released() == found


class TestHistory:
    def line(self, number: int = 1, **changes: object) -> str:
        said: dict[str, object] = {"who": "ada@laptop", "what": "deploy.py", "since": "s"}
        said |= {"commit": "c", "version": "1", "ended": "done", "changed": ["a", "b"]} | changes
        return f"2026-11-26T08:00:0{number}Z 192.0.2.7 {json.dumps(said)}"

    def test_the_last_ones_in_order(self, machine: Machine) -> None:
        machine.history.write_text("".join(f"{self.line(number)}\n" for number in range(4)))
        found = machine.entries(2)
        assert [one.at for one in found] == ["2026-11-26T08:00:02Z", "2026-11-26T08:00:03Z"]
        assert found[0] == HistoryEntry(
            at="2026-11-26T08:00:02Z",
            address="192.0.2.7",
            who="ada@laptop",
            what="deploy.py",
            since="s",
            commit="c",
            version="1",
            ended="done",
            changed=("a", "b"),
        )
        with pytest.raises(FrozenInstanceError):
            found[0].at = ""  # type: ignore[misc]

    def test_a_host_without_any(self, machine: Machine) -> None:
        assert machine.entries(9) == ()
        machine.history.touch()
        assert machine.entries(9) == ()

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"who": "ada"}', '{"changed": 7}', "x" * 9000]
    )
    def test_one_that_somebody_edited_does_not_hide_the_others(
        self, machine: Machine, text: str
    ) -> None:
        machine.history.write_text(f"when where {text}\n{self.line()}\n")
        first, second = machine.entries(9)
        unknown = dict.fromkeys(("who", "what", "since", "commit", "version"), "unknown")
        ended = "this line cannot be read"
        assert first == HistoryEntry(at="when", address="where", ended=ended, changed=(), **unknown)
        assert second.ended == "done"

    def test_what_no_run_of_ours_would_write_is_bounded(self, machine: Machine) -> None:
        many = ["s" * 7] * 300
        machine.history.write_text(f"{self.line(changed=many, who='w' * 300)}\n")
        [found] = machine.entries(9)
        assert len(found.changed) == 200
        assert found.who == f"{'w' * 200} ..."
        assert not HostHistory().process(["== user", "0", "== history", "", END])
        at, address = "t" * 99, "a" * 99
        [odd] = HostHistory().process(["== user", "0", "== history", f"{at} {address} x", END])
        assert (odd.at, odd.address) == (f"{at[:32]} ...", f"{address[:64]} ...")

    def test_a_history_without_end_ends_no_look(self, machine: Machine) -> None:
        machine.history.write_text("x" * 700_000)
        [found] = machine.entries(9)
        assert found.ended == "this line cannot be read"
        assert "head -c 600000" in HostHistory().command(9)
