"""What operations know and tell before a run: whom they refuse, and what counts as a difference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra import logger
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import ahead
from vllm_hosts.host.files import Absent, File, Folder, Found
from vllm_hosts.operations import checks, differences, foreseen
from vllm_hosts.operations.foreseen import Changing, Foreseen, Outlook


class World:
    """A run at one host."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.before: list[bool] = []
        self.state: Any = SimpleNamespace(is_executing=False)
        self.host: Any = SimpleNamespace(
            name="gpu1", current_op_hash="op",
            log_styled=lambda text, **how: self.said.append((text, how)),
        )  # fmt: skip
        self.state.ops = {}

    @contextmanager
    def at(self, name: str = "gpu1", *before: bool) -> Iterator[None]:
        self.host.name = name
        operations = {
            number: SimpleNamespace(operation_meta=SimpleNamespace(_maybe_is_change=changes))
            for number, changes in enumerate(before)
        }
        self.state.ops = _At(operations)
        with ctx_state.use(self.state), ctx_host.use(self.host):
            yield


class _At(dict[Any, Any]):
    """By any host the same."""

    def __init__(self, operations: Any) -> None:
        self.operations = operations

    def __getitem__(self, host: Any) -> Any:
        return self.operations


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(foreseen, "_outlook", None)
    monkeypatch.setattr(differences, "_told", None)
    monkeypatch.setattr(differences, "_wanted", {})
    return World()


def prepared(*, dry: bool = False) -> Outlook:
    return foreseen.begin(dry=dry)


class TestForeseen:
    def test_nobody_listens(self, world: World) -> None:
        with world.at():
            assert not foreseen.refuse(["x"]) and not foreseen.refused()
            assert not foreseen.would_fail("x", lost=True)
            assert not foreseen.may_have_changed(["/a"])
            assert not foreseen.dry() and not foreseen.was_refused("gpu1")
            foreseen.leads_to("x")
            foreseen.will_change(["/a"])
            foreseen.agents_change(lambda: pytest.fail("nobody asked"))
            foreseen.conditional()

    def test_a_host_that_is_refused(self, world: World) -> None:
        outlook = prepared()
        with world.at():
            assert not foreseen.refused()
            assert foreseen.refuse(["no\x1b[2J disk", "no card"])
            assert foreseen.refused() and foreseen.was_refused("gpu1")
            assert outlook.hosts["gpu1"].refused == ["no disk", "no card"]
        with world.at("gpu2"):
            assert not foreseen.refused()
        assert not foreseen.was_refused("gpu2") and not foreseen.was_refused("gpu3")
        foreseen.end()
        assert not foreseen.was_refused("gpu1")

    def test_nothing_is_collected_while_a_run_executes(self, world: World) -> None:
        outlook = prepared()
        world.state.is_executing = True
        with world.at():
            assert not foreseen.refuse(["x"])
            foreseen.leads_to("x")
        assert outlook.hosts == {}

    def test_effects_and_agents(self, world: World) -> None:
        outlook = prepared()
        changing = Changing(frozenset({"m"}))
        with world.at():
            foreseen.leads_to("it\x1b[2J restarts")
            foreseen.agents_change(lambda: changing)
        assert outlook.hosts == {"gpu1": Foreseen(effects=["it restarts"], changing=changing)}
        assert (changing.serving, changing.together) == (frozenset(), False)
        with pytest.raises(FrozenInstanceError):
            changing.together = True  # type: ignore[misc]

    def test_what_could_be_repaired_by_then_refuses_nobody(self, world: World) -> None:
        outlook = prepared()
        with world.at("gpu1", False, True):
            for _ in range(2):
                assert not foreseen.would_fail("no disk")
        assert outlook.hosts["gpu1"] == Foreseen(unknown=["no disk"], conditional={"op"})
        with world.at("gpu2", False):
            assert foreseen.would_fail("no disk")
        assert outlook.hosts["gpu2"] == Foreseen(refused=["no disk"])
        with world.at("gpu3", True):
            assert foreseen.would_fail("gone", lost=True)
        assert outlook.hosts["gpu3"] == Foreseen(refused=["gone"])

    def test_what_earlier_operations_change(self, world: World) -> None:
        outlook = prepared()
        with world.at():
            foreseen.will_change(["/a", "nginx"])
            assert not foreseen.may_have_changed(["/b"])
            assert outlook.hosts["gpu1"].conditional == set()
            assert foreseen.may_have_changed(["/b", "nginx"])
            assert outlook.hosts["gpu1"].conditional == {"op"}
            world.host.current_op_hash = None
            foreseen.conditional()
        assert outlook.hosts["gpu1"].conditional == {"op"}
        assert outlook.hosts["gpu1"].changed == {"/a", "nginx"}

    def test_a_dry_run(self, world: World) -> None:
        prepared(dry=True)
        with world.at():
            assert foreseen.dry()
            world.state.is_executing = True
            assert not foreseen.dry()
        world.state.is_executing = False
        prepared()
        with world.at():
            assert not foreseen.dry()


class TestChecks:
    def run(self, operation: Any, given: Any) -> None:
        assert list(operation._inner.__wrapped__(given)) == []

    def test_problems_fail_a_host_all_at_once(self, world: World) -> None:
        world.state.is_executing = True
        with world.at():
            self.run(checks.no_problems, lambda: [])
            for operation in (checks.no_problems, checks.promise_kept):
                with pytest.raises(HostError, match="^a; b$"):
                    self.run(operation, lambda: ["a", "b"])
            self.run(checks.promise_kept, lambda: [])

    def test_while_a_run_is_prepared_they_refuse_it(self, world: World) -> None:
        outlook = prepared()
        with world.at():
            self.run(checks.no_problems, lambda: ["a"])
            # What is true only at the end of a run is not asked before.
            self.run(checks.promise_kept, lambda: pytest.fail("asked"))
        assert outlook.hosts["gpu1"].refused == ["a"]
        foreseen.end()
        with world.at(), pytest.raises(HostError):
            self.run(checks.no_problems, lambda: ["a"])

    def test_a_promise_is_looked_at_as_it_is_now(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        strict: list[Any] = []

        @contextmanager
        def strictly(host: Any) -> Iterator[None]:
            strict.append(host.name)
            yield
            strict.append("over")

        monkeypatch.setattr(ahead, "strictly", strictly)
        world.state.is_executing = True
        with world.at():
            self.run(checks.promise_kept, lambda: strict.append("found") or [])  # type: ignore[func-returns-value]
        assert strict == ["gpu1", "found", "over"]

    def test_what_is_said_is_said_once(self, world: World) -> None:
        line = ("    a", {"fg": "yellow", "log_func": logger.warning})
        prepared()
        with world.at():
            self.run(checks.said, ["a\x1b[2J"])
            assert world.said == []
            world.state.is_executing = True
            self.run(checks.said, ["a\x1b[2J"])
            assert world.said == [line]
        world.state.is_executing = False
        prepared(dry=True)
        with world.at():
            self.run(checks.said, ["a"])
        assert world.said == [line, line]


class TestDifferences:
    FILE = File("/etc/x", b"content")
    THERE = Found("f", 0o600, ("root", "0"), ("root", "0"), FILE.sha256)

    def test_without_somebody_who_listens_nothing_is_looked_at(self, world: World) -> None:
        with world.at():
            assert not differences.asked_for()
            differences.differs("a", "b", look=lambda: pytest.fail("looked"))
            differences.entries_differ([self.FILE], {})

    def test_each_host_has_its_own(self, world: World) -> None:
        with differences.listening() as told:
            assert differences.asked_for()
            with world.at():
                differences.differs("unit\x1b[2J x", "is\x1b[2J off")
                differences.differs("/etc/x", "odd", self.FILE, lambda: self.THERE)
            with world.at("gpu2"):
                differences.entries_differ([self.FILE], {"/etc/x": self.THERE})
        assert not differences.asked_for()
        assert told["gpu1"] == [
            differences.Difference("unit x", "is off"),
            differences.Difference("/etc/x", "odd", self.FILE, self.THERE),
        ]
        [found] = told["gpu2"]
        assert (found.what, found.entry, found.found) == ("/etc/x", self.FILE, self.THERE)
        assert "0600" in found.how
        with pytest.raises(FrozenInstanceError):
            found.what = "x"  # type: ignore[misc]

    def test_it_ends_whatever_happens(self, world: World) -> None:
        with pytest.raises(ValueError), differences.listening():
            raise ValueError
        assert not differences.asked_for()

    def test_files_that_a_run_keeps_are_remembered(self, world: World) -> None:
        gone, other = Absent("/etc/y"), File("/etc/x", b"other")
        with world.at():
            assert differences.remembered() == []
            differences.remember([self.FILE, Folder("/etc/z"), gone])
            differences.remember([other])
            assert differences.remembered() == [other, gone]
        with world.at("gpu2"):
            assert differences.remembered() == []
