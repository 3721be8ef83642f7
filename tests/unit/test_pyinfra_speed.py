"""pyinfra's own costly functions: the same results, found once."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
from pyinfra.api import arguments
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from vllm_hosts.connect import pyinfra_speed
from vllm_hosts.host import render

#: Of theirs, what they do not say that they have.
connectors: Any = import_module("pyinfra.api.connectors")
util: Any = import_module("pyinfra.api.util")


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


def test_packages_are_asked_for_connectors_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    plain = getattr(connectors.entry_points, "__wrapped__", connectors.entry_points)

    def counted(*, group: str) -> Any:
        calls.append(group)
        return plain(group=group)

    monkeypatch.setattr(connectors, "entry_points", counted)
    expected = connectors.get_all_connectors()
    assert calls == ["pyinfra.connectors"]
    pyinfra_speed.install()
    pyinfra_speed.install()
    for _ in range(3):
        assert connectors.get_all_connectors() == expected
    assert len(calls) == 2
    assert expected["ssh"].handles_execution


def test_operations_are_in_order_without_reading_code(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(Inventory(([], {})), Config())
    state.current_deploy_filename = __file__
    read: list[object] = []
    plain = inspect.findsource

    def counted(code: object) -> Any:
        read.append(code)
        return plain(code)  # type: ignore[arg-type]

    def lines() -> Any:
        return util.get_operation_order_from_stack(state)

    monkeypatch.setattr(inspect, "findsource", counted)
    monkeypatch.setattr(util, "stack", inspect.stack)
    monkeypatch.setattr(util, "getframeinfo", inspect.getframeinfo)
    found = []
    for _ in range(2):
        # On one line, so that both are called from the same one.
        found.append(lines())
        if len(found) == 1:
            assert read
            read.clear()
            pyinfra_speed.install()
    assert not read
    assert found[0] == found[1]
    # This function and the one above, and pytest's frames before this file are none.
    assert len(found[0]) == 2
    pyinfra_speed.install()
    assert lines()[1:] == found[0][1:]


def test_code_is_found_as_before_in_a_version_that_looks_in_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other() -> list[object]:
        return []

    monkeypatch.setattr(util, "stack", other)
    pyinfra_speed.install()
    assert util.stack is other
