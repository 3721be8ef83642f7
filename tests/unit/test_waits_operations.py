"""Agents and hosts that are waited for: how long, with which words, and when there is no point."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host, ctx_state

from tests.unit.operation_steps import Steps
from vllm_hosts.connect import lock
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.compose import HealthChecks
from vllm_hosts.host.containers import Container
from vllm_hosts.operations import healthy, reboot


def agent(state: str = "running", health: str | None = "starting", restarts: int = 0) -> Container:
    return Container("a", state, health, restarts=restarts)


WELL, STARTS = agent(health="healthy"), agent()


class Agents:
    """What each look at agents finds, the last for ever; the clock moves where somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: dict[str, Container]) -> None:
        self.looks, self.now, self.said = list(looks), 0.0, list[str]()
        self.asked: list[tuple[str, dict[str, Any], float]] = []
        self.unchecked: dict[str, str] = {}
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(healthy, "time", clock)
        monkeypatch.setattr(healthy, "_LOOK_SOON", healthy._LOOK_EVERY)
        monkeypatch.setattr(healthy, "look", self.look)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def look(self, fact: type, **given: Any) -> Any:
        self.asked.append((fact.__name__, given, self.now))
        assert len(self.asked) < 1000, "nobody waits for so long"
        if fact.__name__ == "AgentLog":
            return ("one", "two")
        if fact.__name__ == "HealthChecks":
            return {name: self.unchecked.get(name, "") for name in given["agents"]}
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def wait(self, *names: str, timeout: int = 600) -> list[str]:
        host: Any = SimpleNamespace(log=self.said.append)
        with ctx_host.use(host):
            return healthy.wait_healthy("/opt/vllm", names, timeout)


def words(failed: pytest.ExceptionInfo[HostError]) -> str:
    return " ".join(str(failed.value).split())


def test_agents_that_are_well_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Agents(monkeypatch, {"a": WELL, "b": WELL})
    assert agents.wait("a", "b") == []
    assert agents.asked == [("AgentStates", {"agents": ["a", "b"]}, 0.0)]


def test_nobody_is_asked_about_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that Docker was restarting was announced, and runs by the time of the host's turn."""
    agents = Agents(monkeypatch)
    assert agents.wait() == []
    assert agents.asked == []


def test_only_those_that_are_not_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Agents(
        monkeypatch,
        {"a": STARTS, "b": WELL, "c": STARTS},
        {"a": STARTS, "c": WELL},
        {"a": WELL},
    )
    assert agents.wait("a", "b", "c") == ["a", "c"]
    assert [(given["agents"], now) for _, given, now in agents.asked] == [
        (["a", "b", "c"], 0.0),
        (["a", "c"], 2.0),
        (["a"], 4.0),
    ]
    assert agents.said == ["    c is healthy after 2 s", "    a is healthy after 4 s"]


def test_the_first_looks_come_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = healthy._LOOK_SOON
    agents = Agents(monkeypatch, *[{"a": STARTS}] * 6, {"a": WELL})
    monkeypatch.setattr(healthy, "_LOOK_SOON", soon)
    agents.wait("a")
    assert [now for _, _, now in agents.asked] == [0, 0.25, 0.75, 1.75, 3.75, 5.75, 7.75]


def test_something_is_said_after_ten_seconds_and_every_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = {"a": STARTS, "b": agent(health=None, state="created")}
    agents = Agents(monkeypatch, *[starts] * 23, {"a": WELL, "b": WELL})
    agents.wait("a", "b")
    assert agents.said[:2] == [
        f"    waiting for agents: {seconds} s, a is starting, b is created" for seconds in (10, 40)
    ]
    assert len(agents.said) == 4


@pytest.mark.parametrize(
    ("then", "timeout", "why"),
    [
        (agent("exited", None), 600, "is exited"),
        (agent("paused", None), 600, "is paused"),
        (agent(restarts=3), 600, "crashed 2 times"),
        (agent(restarts=2), 4, "is not healthy after 4 s (vllm.health_timeout)"),
        (
            agent("restarting", None, restarts=1),
            2,
            "is not healthy after 2 s (vllm.health_timeout)",
        ),
    ],
)
def test_when_there_is_no_point_in_waiting(
    monkeypatch: pytest.MonkeyPatch, then: Container, timeout: int, why: str
) -> None:
    first = {"a": agent(restarts=1), "b": WELL}
    agents = Agents(monkeypatch, first, {"a": then})
    with pytest.raises(HostError) as failed:
        agents.wait("a", "b", timeout=timeout)
    assert words(failed) == f"agent a {why}; its last lines: | one | two"
    log = {"agent": "a", "directory": "/opt/vllm", "lines": 30}
    assert agents.asked[-1][:2] == ("AgentLog", log)


def test_an_agent_that_docker_cannot_check_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agents = Agents(monkeypatch, {"a": STARTS, "b": STARTS}, *[{"a": STARTS, "b": WELL}] * 9)
    agents.unchecked["a"] = "OCI runtime exec failed: write /tmp/x: no space left on device"
    with pytest.raises(HostError) as failed:
        agents.wait("a", "b")
    assert words(failed) == (
        "agent a may run, but Docker cannot check its health: OCI runtime exec failed: write"
        " /tmp/x: no space left on device; its last lines: | one | two"
    )
    asked = [(name, given["agents"], now) for name, given, now in agents.asked[:-1]]
    assert asked[-2:] == [("AgentStates", ["a"], 10.0), ("HealthChecks", ["a"], 10.0)]


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        (["OCI runtime exec failed: full"] * 3, "OCI runtime exec failed: full"),
        (["ok", *["OCI runtime exec failed: a\u001b[31m\nb"] * 3], "OCI runtime exec failed: a b"),
        (["OCI runtime exec failed: full"] * 2, ""),
        ([*["OCI runtime exec failed: full"] * 2, "ok"], ""),
        # A processor that is busy with loading is no reason to give up.
        (["Health check exceeded timeout (10s)"] * 5, ""),
        ([], ""),
    ],
)
def test_what_docker_cannot_check(checks: list[str], said: str) -> None:
    line = json.dumps({"name": "/a", "checks": [*checks, None]})
    assert HealthChecks().process(["== checks", line, END]) == {"a": said}


def test_every_agent_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = agent("exited", None)
    agents = Agents(monkeypatch, {"a": STARTS, "b": STARTS}, {"a": ended, "b": ended})
    with pytest.raises(HostError) as failed:
        agents.wait("a", "b")
    last = "is exited; its last lines: | one | two"
    assert words(failed) == f"agent a {last} agent b {last}"


@pytest.mark.parametrize("executing", [True, False])
def test_a_run_that_only_looks_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, executing: bool
) -> None:
    steps = Steps(healthy, monkeypatch, {})
    waited: list[object] = []

    def wait(*given: object) -> list[str]:
        waited.append(given)
        return ["a"]

    monkeypatch.setattr(healthy, "wait_healthy", wait)
    monkeypatch.setattr(healthy, "noted", waited.append)
    steps.executing = executing
    assert steps.run(healthy.agents_healthy, "/opt/vllm", ["a", "b"], 9) == []
    assert waited == [("/opt/vllm", ["a", "b"], 9), ["a"]] * executing


class Rebooting:
    """A host whose connection answers with these boots, one for each time that it is asked."""

    name = "gpu1"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *boots: str | Exception | None) -> None:
        self.boots, self.now, self.story = list(boots), 1000.0, list[Any]()
        self.connected, self.connects, self.asked = True, True, 0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        for name, stand_in in {
            "time": clock,
            "_gone": [],
            "_own_boot_id": lambda: "here",
            "connector_options": lambda state, host: {"_sudo": True},
            "clear_askpass_cache": lambda host: self.story.append("askpass"),
        }.items():
            monkeypatch.setattr(reboot, name, stand_in)
        monkeypatch.setattr(lock, "again", lambda host: self.story.append("held again"))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def log(self, text: str) -> None:
        self.story.append(text)

    def log_styled(self, text: str, **_: object) -> None:
        self.story.append(text)

    def disconnect(self) -> None:
        self.story.append("disconnect")
        self.connected = False

    def connect(self, *, show_errors: bool) -> None:
        assert not show_errors
        self.connected = self.connects

    def run_shell_command(self, command: object, **how: object) -> tuple[bool, Any]:
        assert how == {"print_output": False, "print_input": False, "_sudo": True}
        self.asked += 1
        if self.asked > 1000:
            raise KeyboardInterrupt("nobody waits for so long")
        if "boot_id" not in str(command):
            self.story.append(str(command))
            return True, None
        boot = self.boots.pop(0) if len(self.boots) > 1 else self.boots[0]
        if isinstance(boot, Exception):
            raise boot
        return boot is not None, SimpleNamespace(stdout=f"{boot}\n")

    def run(self, timeout: int = 60) -> bool:
        state: Any = SimpleNamespace()
        command = reboot.rebooted("why", timeout)
        return bool(command.function(state, self, *command.args))


TOLD = [
    "    rebooting: why",
    "( sleep 1; systemctl reboot ) </dev/null >/dev/null 2>&1 &",
]
ANEW = ["askpass", "disconnect"]


def test_a_host_is_back_when_it_says_another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, "1", "1", OSError("gone"), None, "2")
    assert host.run()
    assert host.story == [*TOLD, *ANEW * 4, "    is back after 12 s", "held again"]


def test_one_attempt_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to a host that goes down may hang: it is given up, and tried anew."""
    host, limits = Rebooting(monkeypatch, "1", "2"), list[tuple[object, ...]]()

    @contextmanager
    def limit(*given: object) -> Iterator[None]:
        limits.append(given)
        with suppress(TimeoutError):
            yield

    monkeypatch.setattr(reboot, "gevent", SimpleNamespace(Timeout=limit))
    assert host.run()
    assert limits == [(20, False)]


def test_a_host_that_does_not_connect_is_not_back(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, "1", "2")
    host.connects = False
    assert not host.run(timeout=9)
    assert host.story == [
        *TOLD,
        *ANEW * 3,
        "the host did not come back within 9 s from a reboot (why)",
    ]
    assert reboot._gone == ["gpu1"]
    # And none after it.
    assert not host.run()
    assert host.story[-1] == (
        "a reboot is needed (why), and was not tried since gpu1 did not come back from its own;"
        " check that host first"
    )


def test_a_host_that_cannot_be_held_again_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, "1", "2")

    def again(host: object) -> None:
        raise HostError("somebody else has it")

    monkeypatch.setattr(lock, "again", again)
    assert not host.run()
    assert host.story[-1] == "somebody else has it"
    assert reboot._gone == []


def test_the_machine_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, "here")
    assert not host.run()
    assert host.story == [
        "a reboot is needed (why), and this deploy runs on the machine itself; reboot it"
        " (systemctl reboot), then run this again"
    ]


def test_a_machine_may_have_no_boot_id(monkeypatch: pytest.MonkeyPatch) -> None:
    own = reboot._own_boot_id()
    assert own is None or own == own.strip() != ""
    paths: list[str] = []

    class NoPath:
        def __init__(self, path: str) -> None:
            paths.append(path)

        def read_text(self) -> str:
            raise FileNotFoundError

    monkeypatch.setattr(reboot, "Path", NoPath)
    assert reboot._own_boot_id() is None
    assert paths == ["/proc/sys/kernel/random/boot_id"]


def test_one_host_at_a_time() -> None:
    assert reboot._one_at_a_time.counter == 1
    state: Any = SimpleNamespace()
    with ctx_state.use(state), reboot._one_at_a_time:
        assert reboot._one_at_a_time.locked()
