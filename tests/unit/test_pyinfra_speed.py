"""pyinfra's own costly functions: the same results, found once."""

from __future__ import annotations

import inspect
import resource
import sys
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, get_type_hints

import pyinfra
import pytest
from pyinfra.api import arguments
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ArgumentTypeError
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from vllm_hosts.connect import pyinfra_speed
from vllm_hosts.host import render

#: Of theirs, what they do not say that they have.
connectors: Any = import_module("pyinfra.api.connectors")
util: Any = import_module("pyinfra.api.util")
#: Functions of theirs, by name and module. Another test of this process may have installed ours.
PYINFRA_S: dict[str, tuple[Any, Any]] = {
    name: (module, getattr(vars(module)[name], "original", vars(module)[name]))
    for module, name in (
        (util, "get_operation_order_from_stack"),
        (import_module("pyinfra.api.arguments"), "pop_global_arguments"),
    )
}


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


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyinfra's own functions in their places, whatever another test has installed."""
    for name, (home, function) in PYINFRA_S.items():
        for module in list(sys.modules.values()):
            if name in vars(module) and module.__name__ not in (__name__, home.__name__):
                monkeypatch.setattr(module, name, function)
        monkeypatch.setattr(home, name, function)


class TestOrder:
    """Operations are put in order by lines of code."""

    @staticmethod
    def lines(state: State) -> Any:
        return util.get_operation_order_from_stack(state)

    @pytest.mark.parametrize("cli", [True, False])
    @pytest.mark.parametrize("deploy", [__file__, "deploy.py", None], ids=["here", "none", "no"])
    def test_the_lines_are_the_same(
        self, cli: bool, deploy: str | None, theirs: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pyinfra, "is_cli", cli)
        state = State(Inventory(([], {})), Config())
        state.current_deploy_filename = deploy
        state.current_op_file_number = 7
        found = []
        for _ in range(2):
            # On one line, so that both are called from the same one.
            found.append((lambda: self.lines(state))())
            pyinfra_speed.install()
        assert found[0] == found[1]
        assert (found[0][:1] == [7]) is cli
        # This function, the one on its line and the one above; pytest's frames are none of them.
        assert deploy != __file__ or len(found[0]) == 3 + cli

    def test_no_file_is_looked_for_twice(
        self, theirs: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []
        plain = inspect.getsourcefile

        def counted(code: Any) -> Any:
            asked.append(code)
            return plain(code)

        monkeypatch.setattr(inspect, "getsourcefile", counted)
        state = State(Inventory(([], {})), Config())
        self.lines(state)
        assert len(asked) > 20
        pyinfra_speed.install()
        self.lines(state)
        asked.clear()
        assert self.lines(state) and not asked

    def test_it_is_in_the_place_of_each_import(self, theirs: None) -> None:
        pyinfra_speed.install()
        pyinfra_speed.install()
        operation = sys.modules["pyinfra.api.operation"]
        assert (
            vars(operation)["get_operation_order_from_stack"]
            is vars(util)["get_operation_order_from_stack"]
        )
        assert isinstance(util.get_operation_order_from_stack, partial)

    def test_another_version_s_is_left_alone(
        self, theirs: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def other() -> list[object]:
            return []

        plain = util.get_operation_order_from_stack
        monkeypatch.setattr(util, "stack", other)
        pyinfra_speed.install()
        assert util.get_operation_order_from_stack is plain


class TestArguments:
    """What an operation runs with: as it is called, as its deploy is, as the host's data and the
    configuration say."""

    GIVEN: ClassVar[list[dict[str, Any]]] = [
        {},
        {"name": "x", "_env": {"A": "b"}, "own": 1},
        {"_sudo_user": "mine", "_timeout": 7, "_stdin": ["a"], "_if": lambda: True},
        {"_sudo": False, "_retries": 2, "_serial": True},
    ]

    @pytest.fixture
    def state(self) -> State:
        data = {"_env": {"FROM": "host"}, "_timeout": 9, "x_mine": 1}
        groups = {"some": (["gpu1"], {"_sudo": True, "_env": {"FROM": "group"}})}
        inventory = Inventory(([("gpu1", data)], {"_chdir": "/all"}), **groups)
        return State(inventory, Config(SUDO_USER="config", ENV={"OF": "config"}))

    def popped(self, state: State) -> Any:
        [host] = state.inventory
        deploy: Any = {"_su_user": "deploy", "_ignore_errors": True}
        host.current_deploy_kwargs = deploy
        found = []
        for given in self.GIVEN:
            given = dict(given)
            [taken, names] = arguments.pop_global_arguments(state, host, given)
            found.append(({**taken, "_retry_until": 0}, names, given))
        return found

    def test_they_are_the_same(self, state: State, theirs: None) -> None:
        expected = self.popped(state)
        pyinfra_speed.install()
        assert self.popped(state) == expected
        assert expected[0][0]["_env"] == {"OF": "config", "FROM": "host"}

    def test_what_is_assigned_in_a_run_counts(self, state: State, theirs: None) -> None:
        pyinfra_speed.install()
        [host] = state.inventory
        host.data._sudo_user = "assigned"
        assert arguments.pop_global_arguments(state, host, {})[0]["_sudo_user"] == "assigned"
        taken: Any = arguments.pop_global_arguments(state, host, {})[0]
        taken["_env"]["more"] = "x"
        assert "more" not in arguments.pop_global_arguments(state, host, {})[0]["_env"]

    @pytest.mark.parametrize(
        "wrong", [{"_sudo": "yes"}, {"_env": {"OF": 1}}, {"_env": ["A"]}, {"_timeout": "1"}]
    )
    def test_a_wrong_type_is_refused_as_before(
        self, state: State, theirs: None, wrong: dict[str, Any]
    ) -> None:
        said = []
        [host] = state.inventory
        for _ in range(2):
            with pytest.raises((ArgumentTypeError, ValueError)) as refused:
                arguments.pop_global_arguments(state, host, dict(wrong))
            said.append((refused.type, str(refused.value)))
            pyinfra_speed.install()
        assert said[0] == said[1]
        assert said[0][1]

    def test_the_host_s_data_is_put_together_once(
        self, state: State, theirs: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []
        plain: Any = Inventory.get_groups_data

        def counted(inventory: Inventory, groups: Any) -> Any:
            asked.append(None)
            return plain(inventory, groups)

        monkeypatch.setattr(Inventory, "get_groups_data", counted)
        [host] = state.inventory
        arguments.pop_global_arguments(state, host, {})
        assert len(asked) > 20
        pyinfra_speed.install()
        asked.clear()
        arguments.pop_global_arguments(state, host, {})
        assert len(asked) == 1

    def test_another_version_s_is_left_alone(
        self, theirs: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def other(state: object, host: object, kwargs: object) -> object:
            return None

        monkeypatch.setattr(arguments, "pop_global_arguments", other)
        pyinfra_speed.install()
        assert arguments.pop_global_arguments is other


@pytest.mark.parametrize(
    ("said", "hosts", "found"), [(0, 3, 3), (0, 1000, 100), (7, 1000, 7), (0, 0, 1)]
)
def test_a_hundred_hosts_at_once_unless_somebody_says(said: int, hosts: int, found: int) -> None:
    config = Config(PARALLEL=said)
    pyinfra_speed.at_once(config, hosts)
    assert found == config.PARALLEL


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ((1024, 1 << 20), (65536, 1 << 20)),
        ((1024, 4096), (4096, 4096)),
        ((100000, 1 << 20), (100000, 1 << 20)),
        ((1024, resource.RLIM_INFINITY), (65536, resource.RLIM_INFINITY)),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_a_fleet_has_more_connections_than_a_program_has_files(
    limits: tuple[int, int], found: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_: list[object] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, what: set_.append(what))
    pyinfra_speed.many_connections()
    assert set_ == ([found] if found else [])


def test_a_system_that_allows_no_more_files_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, what: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    pyinfra_speed.many_connections()


def test_types_of_arguments_are_worked_out_once_for_all_facts() -> None:
    facts: Any = import_module("pyinfra.api.facts")
    resolve = facts.all_global_arguments
    assert dict(resolve()) == get_type_hints(arguments.AllArguments)
    before = resolve.cache_info().misses
    with pytest.raises(TypeError, match="reserved for global arguments"):
        type("Odd", (facts.FactBase,), {"command": lambda self, _sudo: "true"})
    assert resolve.cache_info().misses == before
