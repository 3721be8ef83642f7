"""What takes all agents of a host down: in its turn, and said before."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts.apt import Packages
from vllm_hosts.facts.docker import AgentsServed, Daemon, Served
from vllm_hosts.operations import apt, apt_lists, docker, one_by_one, outage
from vllm_hosts.operations.one_by_one import Serving, Turn, Turns
from vllm_hosts.operations.rotation import Rotation

M = frozenset({"m"})
SERVING = Serving({"a": "m", "b": "n"}, "/opt/vllm", 9)


class Steps:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
        self.story: list[str] = []
        self.told: list[str] = []
        self.executing = True
        self.wait_fails = False
        self.daemon = Daemon(True, True, b"{}", ())
        self.turns = Turns()
        self.served = served
        for module in (outage, docker):
            monkeypatch.setattr(module, "look", self.look)
        monkeypatch.setattr(outage, "leads_to", self.told.append)
        monkeypatch.setattr(docker, "differs", lambda *what: None)
        state = SimpleNamespace(get=lambda: SimpleNamespace(is_executing=self.executing))
        monkeypatch.setattr(outage, "ctx_state", state)
        host = SimpleNamespace(name="gpu1", log_styled=lambda text, **_: self.story.append(text))
        monkeypatch.setattr(outage, "ctx_host", SimpleNamespace(get=lambda: host))
        monkeypatch.setattr(outage, "announce", self.announce)
        monkeypatch.setattr(outage, "abandon", self.turns.abandon)
        monkeypatch.setattr(outage, "turn_taken", self.taken)
        monkeypatch.setattr(outage, "wait_healthy", self.wait)
        monkeypatch.setattr(docker, "change", lambda entries, validate, activate: "write")
        monkeypatch.setattr(docker, "watched", lambda label, script: "restart")

    def look(self, fact: type, **_: object) -> object:
        return self.served if fact is AgentsServed else self.daemon

    def announce(
        self, models: frozenset[str], serving: frozenset[str], at_once: dict[str, int]
    ) -> Turn:
        return self.turns.announce("gpu1", models, serving, 0, at_once)

    @contextmanager
    def taken(self, turn: Turn, *, together: bool) -> Iterator[None]:
        with self.turns.taken(turn, everybody=True, say=self.story.append):
            self.story.append(f"turn {','.join(sorted(turn.models))}")
            yield
        self.story.append("turn over")

    def wait(self, directory: str, agents: list[str], timeout: int) -> None:
        self.story.append(f"wait {' '.join(agents)}")
        if self.wait_fails:
            raise HostError("agent a is exited")

    def restarted(self, serving: Serving = SERVING, **words: Any) -> list[str]:
        operation: Any = docker.daemon_configured._inner.__wrapped__  # type: ignore[attr-defined]
        for command in operation(lambda current: {"debug": True}, serving=serving, **words):
            self.story.append(str(command))
        return self.story


class Gates(Rotation):
    """Gateways that write down what they are told."""

    def __init__(self, story: list[str], fails: str = "") -> None:
        super().__init__("gpu1")
        vars(self).update(story=story, fails=fails)

    def out(self, agents: Collection[str], **_: object) -> None:
        vars(self)["story"].append(f"out {' '.join(agents)}")

    def back(self, agents: Collection[str], **_: object) -> None:
        vars(self)["story"].append(f"back {' '.join(agents)}")
        if vars(self)["fails"]:
            raise HostError(vars(self)["fails"])


def test_gateways_send_nothing_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, served("a"))
    serving = replace(SERVING, rotation=Gates(steps.story), at_once={"m": 3})
    assert steps.restarted(serving) == [
        "turn m", "out a", "write", "wait a", "back a", "turn over",
    ]  # fmt: skip
    assert steps.turns.turns[0].at_once == {"m": 3}


def test_where_all_hosts_change_together_gateways_are_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch, served("a"))
    serving = replace(SERVING, rotation=Gates(steps.story), together=True)
    assert steps.restarted(serving) == ["turn m", "write", "wait a", "turn over"]


def test_one_that_gateways_do_not_find_again_ends_the_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch, served("a"))
    serving = replace(SERVING, rotation=Gates(steps.story, "gw1 does not find it"))
    assert any("gw1 does not find it" in line for line in steps.restarted(serving))
    assert steps.turns.turns[0].state == "failed"


def served(*healthy: str, live: bool = False) -> Served:
    return Served(True, live, healthy, {"a": 58})


def test_docker_restarts_in_a_turn_where_containers_do_not_outlive_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch, served("a", "somebody"))
    assert steps.restarted() == ["turn m", "write", "wait a", "turn over"]
    assert steps.told == [
        "Docker is restarted; a is down for about 58 s after it, while models load"
    ]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (served("a", live=True), "Docker is restarted; agents keep running"),
        (served(), "Docker is restarted"),
    ],
)
def test_where_nobody_is_out_there_is_no_turn(
    monkeypatch: pytest.MonkeyPatch, found: Served, told: str
) -> None:
    steps = Steps(monkeypatch, found)
    assert steps.restarted() == ["write"]
    assert steps.told == [told]


def test_a_dry_run_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, served("a"))
    steps.executing = False
    assert steps.restarted() == ["write"]
    assert steps.turns.turns == []


def test_agents_that_do_not_come_back_keep_other_hosts_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run goes on there: the role vllm may make them anew."""
    steps = Steps(monkeypatch, served("a"))
    steps.wait_fails = True
    story = steps.restarted()
    assert story[-1] == "turn over"
    assert any("the deploy goes on here, and may repair that" in line for line in story)
    other = steps.turns.announce("gpu2", M, M, 1)
    with (
        pytest.raises(HostError, match="gpu1 failed while its agents of m were down"),
        steps.turns.taken(other, everybody=True, say=lambda sentence: None),
    ):
        pass


def test_a_toolkit_that_will_be_newer_restarts_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is installed, nothing on the host says so."""
    steps = Steps(monkeypatch, served())
    steps.daemon = Daemon(True, True, b'{"debug": true}', ())
    assert steps.restarted(provided_by=["toolkit"]) == []
    asked: list[list[str]] = []

    def may_have_changed(names: list[str]) -> bool:
        asked.append(names)
        return True

    monkeypatch.setattr(docker, "may_have_changed", may_have_changed)
    assert steps.restarted(provided_by=["toolkit"]) == ["restart"]
    assert asked == [["toolkit"]]


def test_packages_that_take_docker_s_place_take_agents_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch, served("a", live=True))
    found = Packages({"docker.io": "26.1.5"}, frozenset())
    monkeypatch.setattr(apt, "look", lambda fact, **_: found)
    monkeypatch.setattr(apt, "differs", lambda *what: None)
    monkeypatch.setattr(apt, "watched", lambda label, script: label)
    monkeypatch.setattr(apt_lists, "recent", lambda: True)
    changed: list[str] = []
    monkeypatch.setattr(apt, "will_change", changed.extend)
    for command in apt.packages_installed(
        {"docker-ce": None}, conflicting=["docker.io", "runc"], serving=SERVING
    ):
        steps.story.append(str(command))
    assert steps.story == [
        "turn m", "removing docker.io", "installing docker-ce", "wait a", "turn over"
    ]  # fmt: skip
    assert changed == ["docker.io", "docker-ce"]
    assert steps.told == [
        "packages docker.io are replaced by docker-ce; a is down for about 58 s after it,"
        " while models load"
    ]


def test_a_run_begins_with_no_turn_taken() -> None:
    before = one_by_one.begin()
    before.announce("gpu1", M, M, 0)
    assert one_by_one.begin().turns == []
