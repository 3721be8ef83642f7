"""After an outage: how long Docker and the agents are waited for, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra import logger
from pyinfra.api.command import StringCommand

from vllm_hosts.errors import HostError
from vllm_hosts.facts.docker import AgentsServed, Served
from vllm_hosts.operations import outage
from vllm_hosts.operations.one_by_one import Serving

SERVING = Serving({"a": "m", "b": "n"}, "/opt/vllm", 9, together=True)
COMMANDS: list[Any] = [StringCommand("one"), StringCommand("two")]
THERE = Served(True, True, ("a", "b"), {"a": 58, "b": 61})


class Host:
    """Docker answers again after so many looks; the clock moves only where somebody sleeps."""

    name = "gpu1"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept, self.silent = 1000.0, list[float](), 0
        self.served, self.executing = THERE, True
        self.story: list[Any] = []
        self.wait_fails = False
        self.looks = 0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        state = SimpleNamespace(get=lambda: SimpleNamespace(is_executing=self.executing))
        for name, stand_in in {
            "time": clock,
            "ctx_state": state,
            "ctx_host": SimpleNamespace(get=lambda: self),
            "look": self.look,
            "wait_healthy": self.wait,
            "leads_to": lambda what: self.story.append(("leads to", what)),
            "announce": lambda models, serving, at_once: (models, serving),
            "turn_taken": self.taken,
            "abandon": lambda name: self.story.append(("abandoned", name)),
        }.items():
            monkeypatch.setattr(outage, name, stand_in)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def look(self, fact: type) -> Served:
        assert fact is AgentsServed
        self.looks += 1
        assert self.looks < 1000, "nobody waits for so long"
        if self.story[-1:] == [("run", "two")] and self.silent:
            self.silent -= 1
            return Served(False, False, (), {})
        return self.served

    def wait(self, *given: object) -> None:
        self.story.append(("wait", *given))
        if self.wait_fails:
            raise HostError("agent a is exited")

    def log_styled(self, *given: object, **how: object) -> None:
        self.story.append((*given, how))

    @contextmanager
    def taken(self, turn: object, *, together: bool) -> Iterator[None]:
        self.story.append(("turn", turn, together))
        yield
        self.story.append("over")

    def run(self, serving: Serving | None = SERVING, **words: Any) -> list[Any]:
        self.story.clear()
        for command in outage.outage(COMMANDS, serving, "all ends", **words):
            self.story.append(("run", str(command)))
        return self.story


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


RUN = [("run", "one"), ("run", "two")]
BOTH = frozenset({"m", "n"})
TAKEN = ("turn", (BOTH, BOTH), True)
DOWN = ("leads to", "all ends; a, b are down for about 61 s after it, while models load")
WAIT = ("wait", "/opt/vllm", ["a", "b"], 9)


def test_the_whole_of_it(host: Host) -> None:
    assert host.run() == [DOWN, TAKEN, *RUN, WAIT, "over"]
    assert host.slept == []


def test_where_no_agents_are_it_is_said_and_done(host: Host) -> None:
    assert host.run(None) == [("leads to", "all ends"), *RUN]


def test_containers_outlive_it_only_where_both_hold(host: Host) -> None:
    kept = [("leads to", "all ends; agents keep running"), *RUN]
    assert host.run(outlived=True) == kept
    host.served = Served(True, False, ("a", "b"), THERE.starts)
    assert host.run(outlived=True)[0] == DOWN


def test_only_agents_that_serve_and_are_known(host: Host) -> None:
    host.served = Served(True, False, ("b", "somebody"), THERE.starts)
    story = host.run()
    assert story[0] == (
        "leads to",
        "all ends; b is down for about 61 s after it, while models load",
    )
    assert story[1] == ("turn", (frozenset("n"), frozenset("n")), True)


def test_a_run_that_only_looks_has_no_turn(host: Host) -> None:
    host.executing = False
    assert host.run() == [DOWN, *RUN]


def test_docker_is_looked_at_until_it_answers(host: Host) -> None:
    host.silent = 3
    assert host.run()[-2:] == [WAIT, "over"]
    assert host.slept == [2.0] * 3


def test_docker_is_not_waited_for_for_ever(host: Host) -> None:
    """Two minutes, to the end of them; others keep their agents then."""
    host.silent = 1000
    assert host.run()[4:] == [
        (
            "Docker does not answer after 120 s\n    the deploy goes on here, and may repair that",
            {"fg": "yellow", "log_func": logger.warning},
        ),
        ("abandoned", "gpu1"),
        "over",
    ]
    assert len(host.slept) == 61


def test_agents_that_do_not_come_back_end_nothing(host: Host) -> None:
    host.wait_fails = True
    assert host.run()[-2:] == [("abandoned", "gpu1"), "over"]


@pytest.mark.parametrize(
    ("agents", "starts", "words"),
    [
        ([], {}, ""),
        (["a"], {"a": 5}, "; a is down for about 5 s after it, while models load"),
        (["a", "b"], {"a": 9, "b": 5}, "; a, b are down for about 9 s after it, while models load"),
        # One that nobody has timed may take any time.
        (["a", "b"], {"a": 9}, "; a, b are down for minutes after it, while models load"),
    ],
)
def test_what_clients_notice(agents: list[str], starts: dict[str, int], words: str) -> None:
    assert outage.out_for(agents, Served(True, False, (), starts)) == words
