"""Reboots: one at a time, none after a host that stayed away, and only where they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from pyinfra.api.command import FunctionCommand, PyinfraCommand, StringCommand

from tests.unit.driver_hosts import H100, bare
from tests.unit.test_gpu import smi
from vllm_hosts.errors import HostError
from vllm_hosts.host.gpus import GpuHost
from vllm_hosts.host.nvidia_smi import Failure
from vllm_hosts.operations import driver, reboot
from vllm_hosts.roles.nvidia_driver.plan import reboot_needed, reboot_reason


class FakeHost:
    """Answers with another boot's id some tries after it was told to reboot; or never."""

    def __init__(self, name: str, away: int | None, story: list[str]) -> None:
        self.name, self.away, self.story = name, away, story
        self.boot, self.connected = 1, True
        self.down = 0

    def log(self, message: str) -> None:
        self.story.append(f"{self.name} {message.split()[0]}")

    def log_styled(self, message: str, **_: object) -> None:
        self.story.append(f"{self.name} failed: {message}")

    def run_shell_command(self, command: StringCommand, **_: object) -> tuple[bool, Any]:
        if "systemctl reboot" in str(command):
            self.down = 1
        return True, SimpleNamespace(stdout=f"boot-{self.boot}\n")

    def disconnect(self) -> None:
        self.connected = False

    def connect(self, show_errors: bool) -> None:
        if self.down:
            self.down += 1
            if self.away is None or self.down <= self.away:
                raise EOFError
            self.boot, self.down = 2, 0
        self.connected = True


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reboot, "_gone", [])
    monkeypatch.setattr(reboot, "connector_options", lambda state, host: {})
    monkeypatch.setattr(reboot, "clear_askpass_cache", lambda host: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: gevent.sleep(0.001))


def run(*hosts: FakeHost, timeout: float = 5) -> list[bool]:
    jobs = [gevent.spawn(reboot._reboot, None, host, "why", timeout) for host in hosts]
    gevent.joinall(jobs, raise_error=True)
    return [job.value for job in jobs]


def test_hosts_reboot_one_after_the_other() -> None:
    story: list[str] = []
    assert run(FakeHost("a", 4, story), FakeHost("b", 4, story), FakeHost("c", 2, story)) == [
        True,
        True,
        True,
    ]
    names = [line.split()[0] for line in story]
    assert [line.split()[1] for line in story] == ["rebooting:", "is"] * 3
    assert names[0::2] == names[1::2]
    assert sorted(names[0::2]) == ["a", "b", "c"]


def test_the_machine_that_deploys_is_not_rebooted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the run that waits for it."""
    story: list[str] = []
    host = FakeHost("@local", 2, story)
    monkeypatch.setattr(reboot, "_own_boot_id", lambda: "boot-1")
    assert run(host) == [False]
    assert host.down == 0
    assert "reboot it (systemctl reboot), then run this again" in story[0]


def test_a_host_that_stays_away_is_the_last_one_to_reboot() -> None:
    story: list[str] = []
    hosts = [FakeHost("a", None, story), FakeHost("b", 2, story)]
    assert run(*hosts, timeout=0.05) == [False, False]
    assert hosts[1].boot == 1
    assert hosts[1].down == 0, "b was told to reboot"
    assert any("b failed" in line and "since a did not come back" in line for line in story)


def test_the_old_boot_s_answers_do_not_count_as_being_back() -> None:
    """A host that is slow to go down still answers for a while."""
    story: list[str] = []
    slow = FakeHost("a", 2, story)
    slow.connect = lambda show_errors: setattr(slow, "connected", True)  # type: ignore[method-assign]
    assert run(slow, timeout=0.05) == [False]


class Steps:
    """What ``driver_answers`` does while a host's state changes under it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *states: GpuHost) -> None:
        waiting: Iterator[GpuHost] = iter(states)
        monkeypatch.setattr(driver, "look", lambda fact: next(waiting))
        self.patch = monkeypatch

    def run(
        self, *, executing: bool = True, allowed: bool = True
    ) -> tuple[list[PyinfraCommand], str | None]:
        state = SimpleNamespace(get=lambda: SimpleNamespace(is_executing=executing))
        self.patch.setattr(driver, "ctx_state", state)
        self.patch.setattr(driver, "differs", lambda what, how: None)
        refused: Callable[[Failure], str] | None = None if allowed else reboot_needed
        answers = driver.driver_answers._inner.__wrapped__  # type: ignore[attr-defined]
        commands: list[PyinfraCommand] = []
        try:
            for command in answers(reboot_reason, refused=refused, timeout=60):
                commands.append(command)
        except HostError as error:
            return commands, str(error)
        return commands, None


SILENT = bare(H100, smi=smi("no-driver"))
STALE = bare(H100, smi=smi("mismatch"))
GOOD = bare(H100, smi=smi("h200"))


def test_a_driver_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Steps(monkeypatch, GOOD).run() == ([], None)


def test_loading_the_module_may_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    commands, error = Steps(monkeypatch, SILENT, GOOD).run()
    assert error is None
    assert len(commands) == 1
    assert "modprobe nvidia" in str(commands[0])


def test_a_reboot_is_the_last_resort_and_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands, error = Steps(monkeypatch, STALE, STALE, GOOD).run()
    assert error is None
    assert [type(command) for command in commands] == [type(commands[0]), FunctionCommand]
    _, error = Steps(monkeypatch, STALE, STALE, STALE).run()
    assert error is not None
    assert error.startswith("after a reboot (Failed to initialize NVML")


def test_without_leave_there_is_no_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    commands, error = Steps(monkeypatch, STALE, STALE).run(allowed=False)
    assert len(commands) == 1
    assert error is not None
    assert error.startswith("a reboot is needed: Failed to initialize NVML")


def test_what_a_reboot_does_not_mend_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    commands, error = Steps(monkeypatch, SILENT, SILENT).run()
    assert len(commands) == 1
    assert error is not None
    assert error.startswith("the GPU driver does not answer: NVIDIA-SMI has failed")


def test_nothing_is_judged_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    commands, error = Steps(monkeypatch, SILENT).run(executing=False)
    assert (len(commands), error) == (1, None)
