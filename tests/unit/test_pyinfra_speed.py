"""pyinfra's own costly functions: the same results, found once."""

from __future__ import annotations

from typing import Any

import pytest
from pyinfra.api import arguments
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from vllm_hosts.connect import pyinfra_speed
from vllm_hosts.host import render


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list of the calls of pyinfra's function, which is in its place again."""
    calls: list[object] = []
    plain = getattr(arguments.all_global_arguments, "__wrapped__", arguments.all_global_arguments)

    def counted() -> Any:
        calls.append(None)
        return plain()

    monkeypatch.setattr(arguments, "all_global_arguments", counted)
    return calls


def popped() -> Any:
    state = State(Inventory(([("gpu1", {"_sudo": True})], {})), Config())
    [host] = state.inventory
    return [arguments.pop_global_arguments(state, host, {"_sudo_user": "x"}) for _ in range(5)]


def test_types_of_arguments_are_resolved_once(resolved: list[object]) -> None:
    expected = popped()
    assert len(resolved) >= 5
    resolved.clear()
    pyinfra_speed.install()
    pyinfra_speed.install()
    found = popped()
    assert len(resolved) == 1
    assert [keys for _, keys in found] == [keys for _, keys in expected]
    assert [given["_sudo"] for given, _ in found] == [True] * 5
    assert [{**given, "_retry_until": 0} for given, _ in found] == [
        {**given, "_retry_until": 0} for given, _ in expected
    ]


def test_another_version_s_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(state: object) -> list[object]:
        return []

    monkeypatch.setattr(arguments, "all_global_arguments", other)
    pyinfra_speed.install()
    assert arguments.all_global_arguments is other  # type: ignore[comparison-overlap]


def test_a_template_with_filters_is_compiled_once() -> None:
    def loud(text: str) -> str:
        return text.upper()

    first = render._with_filters(frozenset({"loud": loud}.items()))
    assert render._with_filters(frozenset({"loud": loud}.items())) is first
    assert first.filters["loud"] is loud and "loud" not in render._environment().filters
