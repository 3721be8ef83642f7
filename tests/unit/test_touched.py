"""Whatever reaches a host counts as a change of it, but for what a fact asks."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.command import (
    FileDownloadCommand,
    FileUploadCommand,
    FunctionCommand,
    PyinfraCommand,
    RsyncCommand,
    StringCommand,
)
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput

from vllm_hosts.facts import touched
from vllm_hosts.operations.base import note, watched


@pytest.fixture
def host() -> Host:
    touched.install()
    state = State(Inventory((["gpu1"], {})), Config())
    [host] = state.inventory
    connector: Any = SimpleNamespace(
        run_shell_command=lambda *_, **__: (True, CommandOutput([])),
        put_file=lambda *_, **__: True,
        get_file=lambda *_, **__: True,
        rsync=lambda *_, **__: True,
        check_can_rsync=lambda: None,
        connect=lambda: None,
        disconnect=lambda: None,
    )
    host.connector = connector
    return host


@pytest.mark.parametrize(
    "command",
    [
        StringCommand("true"),
        watched("working", "true"),
        FileUploadCommand(io.BytesIO(b""), "/tmp/x"),
        FileDownloadCommand("/etc/passwd", io.BytesIO()),
        RsyncCommand("a", "b", []),
        FunctionCommand(lambda state, host: True, (), {}),
        FunctionCommand(lambda: True, (), {}),
        note("said"),
    ],
)
def test_each_kind_of_command_counts(host: Host, command: PyinfraCommand) -> None:
    before = touched.times(host)
    command.execute(host.state, host, {})
    assert touched.times(host) > before


@pytest.mark.parametrize("way", ["connect", "disconnect"])
def test_another_connection_counts(host: Host, way: str) -> None:
    before = touched.times(host)
    getattr(host, way)()
    assert touched.times(host) > before


def test_what_is_asked_while_a_command_runs_is_no_answer_for_later(host: Host) -> None:
    seen = []

    def run(*_: object, **__: object) -> Any:
        seen.append(touched.times(host))
        return True, CommandOutput([])

    host.connector.run_shell_command = run  # type: ignore[method-assign]
    host.run_shell_command(StringCommand("true"))
    assert touched.times(host) > seen[0]


def test_a_command_that_fails_counts(host: Host) -> None:
    def lost(*_: object, **__: object) -> Any:
        raise EOFError

    host.connector.run_shell_command = lost  # type: ignore[method-assign]
    before = touched.times(host)
    with pytest.raises(EOFError):
        host.run_shell_command(StringCommand("true"))
    assert touched.times(host) > before


def test_asking_does_not_count(host: Host) -> None:
    before = touched.times(host)
    with touched.asking(host), touched.asking(host):
        host.run_shell_command(StringCommand("true"))
    assert touched.times(host) == before
    host.run_shell_command(StringCommand("true"))
    assert touched.times(host) > before


def test_other_hosts_do_not_count(host: Host) -> None:
    state = State(Inventory((["gpu2"], {})), Config())
    [other] = state.inventory
    before = touched.times(other)
    host.run_shell_command(StringCommand("true"))
    assert touched.times(other) == before
