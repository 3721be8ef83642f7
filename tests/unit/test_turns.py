"""Agents of one card start one after the other; others do not wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from vllm_hosts.errors import HostError
from vllm_hosts.facts.compose import ComposeHashes, ComposeProject
from vllm_hosts.facts.tree import TreeFound, TreeState
from vllm_hosts.host.agent_changes import Definition
from vllm_hosts.host.compose import COMPOSE, ComposeFound, Hashes
from vllm_hosts.host.containers import Container
from vllm_hosts.host.files import File, Found
from vllm_hosts.host.gpus import turns
from vllm_hosts.operations import compose
from vllm_hosts.operations.one_by_one import Serving, Turn

NAMES = ("a", "b", "c", "d", "e")
FILE = File("/opt/vllm/compose.yaml", b"services: {}")
KEYS = dict.fromkeys(NAMES, SecretStr("x"))


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({}, [["a", "b", "c"]]),
        ({"a": [0], "b": [1], "c": [2]}, [["a", "b", "c"]]),
        ({"a": [0], "b": [0], "c": [1]}, [["a", "c"], ["b"]]),
        ({"a": [0, 1], "b": [1, 2], "c": [2]}, [["a"], ["b"], ["c"]]),
        ({"a": [0], "b": [1], "c": [0, 1]}, [["a", "b"], ["c"]]),
        ({"a": [0], "b": [0], "c": []}, [["a", "c"], ["b"]]),
    ],
)
def test_turns(cards: dict[str, list[int]], expected: list[list[str]]) -> None:
    assert turns(["a", "b", "c"], cards) == expected


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.integers(0, 3), max_size=3)))
def test_every_agent_has_a_turn_and_no_two_of_one_share_a_card(cards: dict[str, set[int]]) -> None:
    found = turns(NAMES, cards)
    assert sorted(agent for turn in found for agent in turn) == list(NAMES)
    for turn in found:
        held = [card for agent in turn for card in cards.get(agent, ())]
        assert len(held) == len(set(held))


class Steps:
    """What ``agents_running`` does on a host, with what it sees there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *containers: Container) -> None:
        self.found = ComposeFound(dict.fromkeys(NAMES, "new"), containers, None)
        self.story: list[str] = []
        self.turn: Turn | None = None
        self.edge = False
        self.up = [True] * 9
        monkeypatch.setattr(compose, "look", self.look)
        monkeypatch.setattr(compose, "differs", lambda what, how: None)
        monkeypatch.setattr(compose, "entries_differ", lambda entries, found: None)
        monkeypatch.setattr(compose, "remember", lambda entries: None)
        state = SimpleNamespace(get=lambda: SimpleNamespace(is_executing=True))
        monkeypatch.setattr(compose, "ctx_state", state)
        monkeypatch.setattr(compose, "watched", lambda label, script: script)
        monkeypatch.setattr(compose, "Tried", lambda command, otherwise: command)
        monkeypatch.setattr(compose, "wait_or_put_back", self.wait)
        monkeypatch.setattr(compose, "leads_to", lambda effect: None)
        monkeypatch.setattr(compose, "announced", lambda: self.turn)
        monkeypatch.setattr(compose, "turn_taken", self.taken)
        monkeypatch.setattr(compose, "change", lambda entries, validate: "write compose.yaml")
        monkeypatch.setattr(compose, "taken_up", lambda agent: f"take up {agent}")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        self.digest = FILE.sha256

    def look(self, fact: type, **asked: object) -> object:
        if fact is TreeState:
            there = Found("f", 0o644, ("root", "0"), ("root", "0"), self.digest)
            return TreeFound({FILE.path: there}, "")
        if fact is ComposeProject:
            assert asked.get("hashes", True) == (self.digest != FILE.sha256)
            assert ("file" in asked) == (self.digest != FILE.sha256)
            return self.found
        if fact is ComposeHashes:
            return Hashes(self.found.wanted, self.found.error)
        return self.edge

    @contextmanager
    def taken(self, turn: Turn, *, together: bool) -> Iterator[None]:
        self.story.append("turn")
        yield
        self.story.append("turn over")

    def wait(self, directory: str, agents: Sequence[str], *_: object) -> None:
        self.story.append(f"wait {' '.join(agents)}")

    def wanted(
        self, agents: Sequence[str], cards: dict[str, list[int]], *, together: bool = False
    ) -> compose.Agents:
        models = {agent: f"model-{agent}" for agent in agents}
        return compose.Agents(
            directory="/opt/vllm",
            project="vllm",
            names=agents,
            definition=lambda: Definition(FILE, {}),
            serving=Serving(models, "/opt/vllm", 9, together),
            peers={},
            cells={},
            cards=cards,
            internal_keys=KEYS,
            edge_is_up=lambda: self.up.pop(0),
        )

    def run(
        self, agents: Sequence[str], cards: dict[str, list[int]], *, together: bool = False
    ) -> list[str]:
        steps: Any = compose.agents_running._inner.__wrapped__  # type: ignore[attr-defined]
        wanted = self.wanted(agents, cards, together=together)
        for command in steps(wanted):
            text = str(command).replace(f"{COMPOSE} --project-directory /opt/vllm", "C")
            self.story.append(text.replace("C --progress plain ", "").replace("--detach ", ""))
        return self.story


def there(name: str, hash_: str = "old", health: str = "healthy") -> Container:
    return Container(name, "running", health, service=name, config_hash=hash_)


def test_each_waits_for_the_one_before_on_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    assert steps.run(["a", "b", "c"], {"a": [0], "b": [0], "c": [1]}) == [
        "up --no-deps --remove-orphans a c",
        "wait a",
        "up --no-deps --remove-orphans b",
    ]


def test_the_next_ones_leave_the_card_first(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, there("a"), there("b"), there("c"))
    assert steps.run(["a", "b", "c"], {"a": [0], "b": [0], "c": [1]}) == [
        "stop b && up --no-deps --remove-orphans a c",
        "wait a",
        "up --no-deps --remove-orphans b",
    ]


def test_one_that_is_still_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, there("a", "new", "starting"), there("c", "new", "starting"))
    assert steps.run(["a", "b", "c"], {"a": [0], "b": [0], "c": [1]}) == [
        "wait a",
        "up --no-deps --remove-orphans b",
    ]


def test_what_is_as_it_should_be_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, there("a", "new", "starting"), there("b", "new"))
    assert steps.run(["a", "b"], {"a": [0], "b": [0]}) == []


def test_one_that_left_the_settings_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, there("a", "new"), there("z"))
    assert steps.run(["a"], {"a": [0]}) == ["up --no-deps --remove-orphans a"]


def turn() -> Turn:
    return Turn("gpu1", frozenset({"m"}), frozenset({"m"}), 0)


def test_a_turn_is_had_until_the_agents_serve_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """O3: compose.yaml is written in it too, so that who has no turn keeps the old one."""
    steps = Steps(monkeypatch, there("a"), there("b", "new"))
    steps.turn, steps.edge, steps.digest = turn(), True, "another"
    assert steps.run(["a", "b"], {}) == [
        "turn",
        "write compose.yaml",
        "up --no-deps --remove-orphans a",
        "take up a",
        "wait a",
        "turn over",
    ]


def test_an_edge_that_does_not_come_back_fails_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, there("a"))
    steps.turn, steps.up = turn(), [True, *[False] * 20]
    with pytest.raises(HostError, match="reports that they are not"):
        steps.run(["a"], {})
    assert "turn over" not in steps.story
    steps = Steps(monkeypatch, there("a"))
    # It was not up before either, or knows an agent that has left.
    steps.turn, steps.up = turn(), [False]
    assert steps.run(["a"], {})[-1] == "turn over"
    steps = Steps(monkeypatch, there("a"), there("z"))
    steps.turn, steps.up = turn(), [True]
    assert steps.run(["a"], {})[-1] == "turn over"


def test_agents_that_change_together_are_waited_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, there("a"))
    steps.turn = turn()
    assert "wait a" not in steps.run(["a"], {}, together=True)


def test_hosts_tell_what_they_serve_and_change(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[frozenset[str], frozenset[str], dict[str, int]]] = []

    def announced(steps: Steps, *names: str) -> tuple[set[str], set[str]]:
        monkeypatch.setattr(compose, "announce", lambda *what: told.append(what))
        operation: Any = compose.agents_announced._inner.__wrapped__  # type: ignore[attr-defined]
        assert list(operation(steps.wanted(names, {}))) == []
        models, serving, _ = told.pop()
        return set(models), set(serving)

    names = ("a", "b", "c")
    assert announced(Steps(monkeypatch, there("a"), there("b", "new")), *names) == (
        {"model-a", "model-c"},
        {"model-a", "model-b"},
    )
    assert announced(Steps(monkeypatch, there("a", "new", "starting")), "a") == (set(), set())
    # An agent that gets another name served what the new one will.
    assert announced(Steps(monkeypatch, there("z")), "a") == ({"model-a"}, {"model-a"})
    assert announced(Steps(monkeypatch, there("z", "old", "unhealthy")), "a") == (
        {"model-a"},
        set(),
    )
