"""What pyinfra does for each host and operation of a run, done with less: the same results."""

from __future__ import annotations

import gc
import inspect
import logging
import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ContextManager, ContextObject, LocalContextObject

from vllm_hosts.connect import pyinfra_speed
from vllm_hosts.project.deploy_output import Brief, _Briefly

arguments: Any = import_module("pyinfra.api.arguments")
operation: Any = import_module("pyinfra.api.operation")
progress: Any = import_module("pyinfra.progress")
#: pyinfra's own, whatever another test of this process has installed.
_SPINNER = getattr(progress.progress_spinner, "original", progress.progress_spinner)


def _their_get(self: Any, key: str) -> Any:
    if self._get_module() is None:
        return getattr(self._base_cls, key)
    return getattr(self._get_module(), key)


class TestWhatIsCurrent:
    @pytest.mark.parametrize("kind", [ContextObject, LocalContextObject])
    def test_attributes_are_the_same(
        self, kind: type[ContextObject], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def found() -> list[object]:
            manager = ContextManager("x", kind)
            manager.set_base(SimpleNamespace(one="base"))
            first = manager.context.one
            manager.set(SimpleNamespace(one="now", none=None))
            values = [first, manager.context.one, manager.context.none]
            with pytest.raises(AttributeError, match="other"):
                _ = manager.context.other
            manager.reset()
            return [*values, manager.context.one]

        monkeypatch.setattr(ContextObject, "__getattr__", _their_get)
        expected = found()
        pyinfra_speed.install()
        assert ContextObject.__getattr__ is not _their_get
        assert found() == expected == ["base", "now", None, "base"]

    def test_another_version_s_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def other(self: Any, key: str) -> Any:
            return key

        monkeypatch.setattr(ContextObject, "__getattr__", other)
        pyinfra_speed.install()
        assert ContextObject.__getattr__ is other


class TestSignatures:
    def test_they_are_worked_out_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(operation, "signature", inspect.signature)
        pyinfra_speed.install()

        def own(one: int, *, two: str = "") -> None: ...

        found = operation.signature(own)
        assert found == inspect.signature(own)
        assert operation.signature(own) is found
        with pytest.raises(TypeError, match="three"):
            operation.signature(own).bind(1, three=3)

    def test_another_version_s_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def other(of: object) -> object:
            return of

        monkeypatch.setattr(operation, "signature", other)
        pyinfra_speed.install()
        assert operation.signature is other


class Item:
    """Counts how often it is shown."""

    shown = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        Item.shown += 1
        return self.name


class TestProgress:
    @pytest.fixture
    def lines(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What the line at the bottom is taken from; pyinfra's own function is in its place."""
        for module in list(sys.modules.values()):
            name = "progress_spinner"
            ours = vars(module).get(name)
            if ours is not None and getattr(ours, "original", ours) is _SPINNER:
                monkeypatch.setattr(module, name, _SPINNER)
        monkeypatch.setattr(progress, "TERMINAL_WIDTH", 60)
        monkeypatch.setattr(progress, "is_output_active", lambda: True)
        queues: list[Any] = []
        monkeypatch.setattr(progress, "_print_spinner", lambda stop, queue: queues.append(queue))
        Item.shown = 0
        return queues

    @pytest.mark.parametrize("prefix", [None, "role | step"])
    @pytest.mark.parametrize("count", [1, 3, 40])
    def test_the_line_is_the_same(self, lines: list[Any], count: int, prefix: str | None) -> None:
        items = [Item(f"gpu{number}") for number in range(count)]
        found = []
        for _ in range(2):
            said = []
            with progress.progress_spinner(set(items), prefix) as done:
                gevent.sleep(0)
                said.append(lines[-1][-1])
                for item in items:
                    done(item)
                    said.append(lines[-1][-1])
                with pytest.raises(ValueError, match="Invalid complete item"):
                    done(items[0])
            found.append(said)
            pyinfra_speed.install()
        assert progress.progress_spinner is not _SPINNER
        assert found[0] == found[1]

    def test_nobody_is_named_for_each_host(self, lines: list[Any]) -> None:
        pyinfra_speed.install()
        items = [Item(f"gpu{number}") for number in range(500)]
        with progress.progress_spinner(items) as done:
            for item in items:
                done(item)
        assert Item.shown == 0

    def test_without_output_nothing_is_kept(
        self, lines: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "is_output_active", lambda: False)
        pyinfra_speed.install()
        with progress.progress_spinner([1]) as done:
            done(7)
        assert lines == []

    def test_another_version_s_is_left_alone(
        self, lines: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def other(items: object, prefix_message: object = None) -> object:
            return items

        monkeypatch.setattr(progress, "progress_spinner", other)
        pyinfra_speed.install()
        assert progress.progress_spinner is other


def test_a_default_is_found_anew_when_the_configuration_changes() -> None:
    pyinfra_speed.install()
    state = State(Inventory((["gpu1"], {})), Config(SUDO_USER="first"))
    [host] = state.inventory
    found = [arguments.pop_global_arguments(state, host, {})[0]["_sudo_user"]]
    state.config.SUDO_USER = "second"
    found.append(arguments.pop_global_arguments(state, host, {})[0]["_sudo_user"])
    assert found == ["first", "second"]
    taken = [arguments.pop_global_arguments(state, host, {})[0] for _ in range(2)]
    # Whoever changes a list of one operation changes no other's.
    assert taken[0]["_success_exit_codes"] == [0]
    assert taken[0]["_success_exit_codes"] is not taken[1]["_success_exit_codes"]


def test_garbage_is_looked_for_less_often() -> None:
    before = gc.get_threshold()
    try:
        pyinfra_speed.few_collections()
        assert gc.get_threshold()[0] >= 20 * 700
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)


def test_what_is_dropped_is_no_record_before(caplog: pytest.LogCaptureFixture) -> None:
    whole = logging.Logger("whole", logging.DEBUG)
    records: list[logging.LogRecord] = []

    def kept(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    whole.addFilter(kept)
    briefly = _Briefly(whole)

    def _run_host_op() -> None:
        briefly.info("No changes")
        briefly.warning("%s", "odd")

    def log() -> None:
        briefly.info("Retrying %s", "it")

    _run_host_op()
    log()
    assert [(one.funcName, one.getMessage()) for one in records] == [
        ("_run_host_op", "odd"),
        ("log", "Retrying it"),
    ]
    # Those are exactly the ones that are dropped later anyway.
    record = logging.LogRecord("x", logging.INFO, "operations.py", 1, "y", (), None, "_run_host_op")
    assert not Brief().wanted(record)
