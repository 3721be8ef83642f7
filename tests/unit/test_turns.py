"""Agents of one card start one after the other; others do not wait."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from vllm_hosts.facts.compose import Container, Project
from vllm_hosts.gpus import turns
from vllm_hosts.operations import compose

NAMES = ("a", "b", "c", "d", "e")
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
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *containers: Container) -> None:
        found = Project(dict.fromkeys(NAMES, "new"), containers, None)
        self.story: list[str] = []
        monkeypatch.setattr(
            compose, "look",
            lambda fact, **_: found if fact is compose.ComposeProject else False,
        )  # fmt: skip
        monkeypatch.setattr(compose, "differs", lambda what, how: None)
        state = SimpleNamespace(get=lambda: SimpleNamespace(is_executing=True))
        monkeypatch.setattr(compose, "ctx_state", state)
        monkeypatch.setattr(compose, "watched", lambda label, script: script)
        monkeypatch.setattr(compose, "wait_healthy", self.wait)

    def wait(self, directory: str, agents: Sequence[str], timeout: int) -> None:
        self.story.append(f"wait {' '.join(agents)}")

    def run(self, agents: Sequence[str], cards: dict[str, list[int]]) -> list[str]:
        steps: Any = compose.agents_running._inner.__wrapped__  # type: ignore[attr-defined]
        for command in steps(
            "/opt/vllm", "vllm", agents, timeout=9, peers={}, internal_keys=KEYS, cells={},
            cards=cards,
        ):  # fmt: skip
            text = str(command).replace(f"{compose.COMPOSE} --project-directory /opt/vllm", "C")
            self.story.append(text.replace("C --progress plain ", "").replace("--detach ", ""))
        return self.story


def there(name: str, hash_: str = "old", health: str = "healthy") -> Container:
    return Container(name, hash_, "running", health, name)


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
