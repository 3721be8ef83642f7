"""What is done at a host counts when it begins and when it ends, in ways of its own too."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from vllm_hosts.facts import touched


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    for name in touched._WAYS:
        monkeypatch.setattr(Host, name, getattr(Host, name))
    monkeypatch.setattr(FunctionCommand, "execute", FunctionCommand.execute)
    touched.install()
    [made] = State(Inventory((["gpu1"], {})), Config()).inventory
    return made


def in_function(host: Host, function: Callable[[], Any]) -> Any:
    def called(state: State, host: Host) -> Any:
        return function()

    return FunctionCommand(called, (), {}).execute(host.state, host, {})


def in_shell(host: Host, function: Callable[[], Any]) -> Any:
    connector: Any = SimpleNamespace(run_shell_command=lambda *_, **__: function())
    host.connector = connector
    return host.run_shell_command(StringCommand("true"))


def test_nothing_was_done_at_a_new_host(host: Host) -> None:
    assert touched.times(host) == 0


@pytest.mark.parametrize("way", [in_function, in_shell])
def test_it_counts_before_and_after(
    host: Host, way: Callable[[Host, Callable[[], Any]], Any]
) -> None:
    seen: list[int] = []
    way(host, lambda: seen.append(touched.times(host)))
    assert (seen, touched.times(host)) == ([1], 2)


@pytest.mark.parametrize("way", [in_function, in_shell])
def test_what_comes_back_is_passed_on(
    host: Host, way: Callable[[Host, Callable[[], Any]], Any]
) -> None:
    assert way(host, lambda: False) is False


@pytest.mark.parametrize("way", [in_function, in_shell])
def test_what_fails_counts_as_well(
    host: Host, way: Callable[[Host, Callable[[], Any]], Any]
) -> None:
    def lost() -> None:
        raise EOFError

    with pytest.raises(EOFError):
        way(host, lost)
    assert touched.times(host) == 2


def test_it_is_counted_once_however_often_that_is_asked_for(host: Host) -> None:
    before = FunctionCommand.execute, Host.put_file
    assert before[0].counts is True  # type: ignore[attr-defined]
    touched.install()
    assert (FunctionCommand.execute, Host.put_file) == before
