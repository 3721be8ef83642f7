"""How agents are brought to what they should be, to the letter: what is stopped, started, diverted,
waited for, removed, and what is said of it before."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, replace
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.operation_steps import Steps
from vllm_hosts.errors import HostError
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.agent_changes import Definition
from vllm_hosts.host.compose import COMPOSE, ComposeFound, Hashes, Network
from vllm_hosts.host.containers import Container
from vllm_hosts.host.files import File, Found
from vllm_hosts.operations import compose
from vllm_hosts.operations.compose import Agents
from vllm_hosts.operations.foreseen import Changing
from vllm_hosts.operations.one_by_one import Serving, Turn
from vllm_hosts.settings.cells import Cell

FILE = File("/opt/vllm/compose.yaml", b"services: {}")
UP = "C --progress plain up --detach --no-deps"
SALT = "5a17"
MINUTES = "it is down for minutes, while its model loads"


def cell(agent: str, port: int = 8001) -> Cell:
    return Cell(agent, f"vllm-{port}", IPv4Network(f"198.18.{port % 100}.0/29"))


def network(agent: str, port: int = 8001, *containers: str, bridge: str = "") -> Network:
    found = cell(agent, port)
    return Network(agent, f"vllm_{agent}", str(found.subnet), bridge or found.bridge, containers)


def there(name: str, hash_: str = "old", health: str = "healthy", state: str = "running") -> Any:
    return Container(f"vllm-{name}", state, health, service=name, config_hash=hash_)


class Running(Steps):
    """``done``: what was waited for or taken meanwhile, among the commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = Found("f", 0o644, ("root", "0"), ("root", "0"), FILE.sha256)
        facts = {
            "TreeState": TreeFound({FILE.path: known}, ""),
            "ComposeProject": None,
            "ComposeHashes": None,
            "EdgeRuns": True,
        }
        super().__init__(compose, monkeypatch, facts)
        self.done: list[Any] = []
        self.turn: Turn | None = None
        self.up: list[bool] = []
        self.slept: list[float] = []
        self.found()
        put: Any = lambda name, value: monkeypatch.setattr(compose, name, value)  # noqa: E731
        put("token_hex", lambda size: SALT if size == 16 else "")
        put("watched", lambda label, script: (label, script))
        put("Tried", self.tried)
        put("change", lambda entries, **words: ("change", list(entries), words))
        put("divert", lambda agent, twin: ("divert", agent, twin))
        put("give_back", lambda agent, key: ("give back", agent, key.get_secret_value()))
        put("taken_up", lambda agent: ("take up", agent))
        put("wait_or_put_back", lambda *given: self.done.append(("wait", *given)))
        put("announce", self.telling("announce"))
        put("agents_change", lambda make: self.told.append(("agents_change", make())))
        put("announced", lambda: self.turn)
        put("turn_taken", self.taken)
        monkeypatch.setattr(time, "sleep", self.slept.append)

    def tried(self, command: tuple[str, str], otherwise: Any) -> tuple[str, str]:
        self.otherwise = otherwise
        return command

    @contextmanager
    def taken(self, turn: Turn, *, together: bool) -> Iterator[None]:
        self.done.append(("turn", turn.host, together))
        yield
        self.done.append("turn over")

    def found(self, *containers: Container, **more: Any) -> None:
        wanted = dict.fromkeys("abc", "new")
        self.facts["ComposeProject"] = ComposeFound(wanted, containers, None, **more)
        self.facts["ComposeHashes"] = Hashes(wanted, None)

    def wanted(self, *names: str, **changes: Any) -> Agents:
        serving = Serving(
            {name: f"m-{name}" for name in names}, "/opt/vllm", 9, changes.pop("together", False)
        )
        keys = {name: SecretStr(f"key {name}") for name in "abc"}
        cells = {name: cell(name, 8001 + at) for at, name in enumerate(names)}
        given: dict[str, Any] = {"peers": {}, "cells": cells, "cards": {}} | changes
        return Agents(
            directory="/opt/vllm", project="vllm", names=names, internal_keys=keys,
            definition=lambda: Definition(FILE, {"a": {"KEY_A": SecretStr("k")}}),
            serving=serving, edge_is_up=lambda: self.up.pop(0),
            put_back=lambda why: f"put back: {why}", **given,
        )  # fmt: skip

    def commands(self, wanted: Agents) -> list[Any]:
        self.done.clear()
        found = []
        for one in self.run(compose.agents_running, wanted):
            if isinstance(one, tuple) and len(one) == 2 and isinstance(one[1], str):
                one = (one[0], self.short(one[1]))
            found.append(self.short(one) if isinstance(one, str) else one)
        return found

    @staticmethod
    def short(text: str) -> str:
        return text.replace(f"{COMPOSE} --project-directory /opt/vllm", "C")

    def said(self) -> list[Any]:
        return [given[0] for name, *given in self.told if name == "leads_to"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Running:
    return Running(monkeypatch)


def start(*names: str, before: str = "", after: str = "") -> tuple[str, str]:
    words = " ".join(names)
    return f"starting {words}", f"{before}{UP} --remove-orphans {words}"


class TestSeen:
    def asked(self, steps: Running) -> dict[str, Any]:
        return next(given for name, given in steps.asked if name == "ComposeProject")

    def test_a_file_that_is_the_same_is_not_written_or_evaluated(self, steps: Running) -> None:
        steps.found(there("a", "new"))
        assert steps.commands(steps.wanted("a")) == []
        assert steps.told == [("remember", [FILE]), ("entries_differ", [], {
            FILE.path: steps.facts["TreeState"].paths[FILE.path]})]  # fmt: skip
        assert steps.asked == [
            ("TreeState", {"paths": [FILE.path]}),
            ("ComposeProject", {"directory": "/opt/vllm", "project": "vllm", "hashes": False}),
            ("ComposeHashes", {"directory": "/opt/vllm"}),
        ]

    def test_another_one_is_written_first_and_has_to_be_valid(self, steps: Running) -> None:
        steps.facts["TreeState"] = TreeFound({FILE.path: Found("-")}, "")
        steps.found(env={"KEY_A": hashlib.sha256(f"{SALT}KEY_A=k".encode()).hexdigest()})
        first, second = steps.commands(steps.wanted("a"))
        validate = f"{COMPOSE} --project-directory /opt/vllm config --quiet"
        assert first == ("change", [FILE], {"validate": validate})
        assert second == start("a")
        assert self.asked(steps) == {
            "directory": "/opt/vllm",
            "project": "vllm",
            "file": "services: {}",
            "names": ["KEY_A"],
            "salt": SALT,
        }

    def test_while_a_run_is_prepared_keys_are_compared(self, steps: Running) -> None:
        steps.executing = False
        steps.found(there("a", "new"))
        assert steps.commands(steps.wanted("a")) == [start("a")]
        assert steps.said() == [f"agent a is recreated (its key changed); {MINUTES}"]
        steps.found(
            there("a", "new"),
            env={"KEY_A": hashlib.sha256(f"{SALT}KEY_A=k".encode()).hexdigest()},
        )
        assert steps.commands(steps.wanted("a")) == []

    def test_what_is_seen_stays_as_it_was_seen(self, steps: Running) -> None:
        seen = compose.SeenAgents((), steps.facts["ComposeProject"], ())
        with pytest.raises(FrozenInstanceError):
            seen.different = [FILE]  # type: ignore[misc]
        with pytest.raises(FrozenInstanceError):
            steps.wanted("a").project = "x"  # type: ignore[misc]


class TestBrought:
    def test_what_changes_and_what_goes_is_said(self, steps: Running) -> None:
        steps.found(there("a"), there("z"), there("y"), starts={"a": 40})
        assert steps.commands(steps.wanted("a", "b")) == [start("a", "b")]
        differs = [given for name, *given in steps.told if name == "differs"]
        assert differs == [
            ["agent a", "does not run, or not as in compose.yaml"],
            ["agent b", "does not run, or not as in compose.yaml"],
            ["agent y", "is no longer in the settings"],
            ["agent z", "is no longer in the settings"],
        ]
        assert steps.said() == [
            "agent a is recreated (its definition changed); it is down for about 40 s, as long as"
            " its last start took",
            "agent b is started (it is new); that takes minutes: its model loads",
            "agent y is removed: it is no longer in the settings",
            "agent z is removed: it is no longer in the settings",
        ]

    def test_agents_that_only_leave_are_removed(self, steps: Running) -> None:
        steps.found(there("a", "new"), there("z"), there("y"))
        assert steps.commands(steps.wanted("a")) == [("removing y z", f"{UP} --remove-orphans a")]

    def test_a_command_that_fails_puts_back_what_ran(self, steps: Running) -> None:
        steps.commands(steps.wanted("a"))
        assert steps.otherwise() == "put back: "
        steps.otherwise = None
        steps.found(there("a"), there("b", "new"))
        steps.commands(steps.wanted("a", "b", peers={"a": ["b"]}))
        assert steps.otherwise() == "put back: "


class TestRolled:
    """An agent that has a twin restarts behind it."""

    PEERS = {"a": ["a", "b"], "b": ["a", "b"]}  # noqa: RUF012

    def test_one_after_the_other_each_behind_the_other(self, steps: Running) -> None:
        steps.found(there("a"), there("b"))
        assert steps.commands(steps.wanted("a", "b", peers=self.PEERS)) == [
            ("divert", "a", "b"),
            ("recreating a", f"{UP} a"),
            ("give back", "a", "key a"),
            ("divert", "b", "a"),
            ("recreating b", f"{UP} b"),
            ("give back", "b", "key b"),
        ]
        waits = [one[2] for one in steps.done]
        assert waits == [["a"], ["b"]]
        assert steps.said() == [
            "agent a is recreated (its definition changed); b answers for it meanwhile",
            "agent b is recreated (its definition changed); a answers for it meanwhile",
        ]

    def test_one_that_is_down_is_behind_the_one_that_is_well(self, steps: Running) -> None:
        steps.found(there("a", health="unhealthy"), there("b", "new"))
        commands = steps.commands(steps.wanted("a", "b", peers=self.PEERS))
        assert commands[0] == ("divert", "a", "b") and len(commands) == 3
        assert steps.done == [("wait", "/opt/vllm", ["a"], 9, steps.done[0][4])]
        assert steps.done[0][4]("why") == "put back: why"

    def test_without_an_edge_or_anybody_well_there_is_nobody_to_answer(
        self, steps: Running
    ) -> None:
        steps.facts["EdgeRuns"] = False
        steps.found(there("a"), there("b"))
        assert steps.commands(steps.wanted("a", "b", peers=self.PEERS)) == [start("a", "b")]
        steps.facts["EdgeRuns"] = True
        steps.found(there("a", health="starting"), there("b", health="starting"))
        assert steps.commands(steps.wanted("a", "b", peers=self.PEERS)) == [start("a", "b")]
        # An agent is no twin of its own.
        steps.found(there("a"))
        assert steps.commands(steps.wanted("a", peers={"a": ["a"]})) == [start("a")]
        # Where nothing changes nobody asks.
        steps.found(there("a", "new"))
        steps.commands(steps.wanted("a"))
        assert "EdgeRuns" not in [name for name, _ in steps.asked]

    def test_a_third_one_is_behind_one_that_is_already_back(self, steps: Running) -> None:
        steps.found(there("b", "new"), there("c"))
        peers = {"a": ["b"], "c": ["a"]}
        commands = steps.commands(steps.wanted("a", "b", "c", peers=peers))
        assert [one for one in commands if one[0] == "divert"] == [("divert", "a", "b")]
        assert commands[-1] == start("c")
        peers = {"a": ["b"], "c": ["a", "b"]}
        commands = steps.commands(steps.wanted("a", "b", "c", peers=peers))
        assert [one for one in commands if one[0] == "divert"] == [
            ("divert", "a", "b"),
            ("divert", "c", "a"),
        ]

    def test_before_it_runs_nobody_is_waited_for(self, steps: Running) -> None:
        steps.executing = False
        steps.found(there("a"), there("b"))
        steps.commands(steps.wanted("a", "b", peers=self.PEERS))
        assert steps.done == []


class TestCards:
    CARDS = {"a": [0], "b": [0], "c": [1]}  # noqa: RUF012

    def test_each_waits_for_the_one_before_on_its_card(self, steps: Running) -> None:
        steps.found(there("a"), there("b"), there("c"))
        assert steps.commands(steps.wanted("a", "b", "c", cards=self.CARDS)) == [
            start("a", "c", before="C --progress plain stop b && "),
            start("b"),
        ]
        assert [one[2] for one in steps.done] == [["a"]]
        steps.executing = False
        steps.commands(steps.wanted("a", "b", "c", cards=self.CARDS))
        assert steps.done == []

    def test_one_that_is_not_there_holds_no_card(self, steps: Running) -> None:
        steps.found(there("a"))
        assert steps.commands(steps.wanted("a", "b", cards=self.CARDS)) == [start("a"), start("b")]

    def test_one_that_is_still_starting_is_waited_for_first(self, steps: Running) -> None:
        starting = there("a", "new", "starting")
        steps.found(starting, there("c", "new", "starting"))
        assert steps.commands(steps.wanted("a", "b", "c", cards=self.CARDS)) == [start("b")]
        assert [one[2] for one in steps.done] == [["a"]]
        # One that leaves, or is recreated itself, is not.
        steps.found(starting)
        assert steps.commands(steps.wanted("b", cards=self.CARDS)) == [start("b")]
        steps.found(there("a", "old", "starting"))
        steps.commands(steps.wanted("a", cards=self.CARDS))
        assert steps.done == []


class TestNetworks:
    def test_a_network_that_is_another_is_left_and_removed_first(self, steps: Running) -> None:
        """Compose would not change it."""
        steps.found(
            there("a"), there("b"),
            networks=(network("a", 8009, "vllm-a"), network("b", 8002, "vllm-b")),
        )  # fmt: skip
        leaving = "C --progress plain rm --stop --force a && docker network rm vllm_a && "
        assert steps.commands(steps.wanted("a", "b")) == [start("a", "b", before=leaving)]
        # Another bridge is another network, too.
        steps.found(there("a"), networks=(network("a", 8001, "vllm-a", bridge="br-1"),))
        assert steps.commands(steps.wanted("a")) == [start("a", before=leaving)]

    def test_two_that_move_leave_both(self, steps: Running) -> None:
        steps.found(there("a"), there("b"), networks=(network("a", 8009), network("b", 8008)))
        [(_, script)] = steps.commands(steps.wanted("a", "b"))
        assert script.startswith(
            "C --progress plain rm --stop --force a b && docker network rm vllm_a vllm_b && "
        )

    @pytest.mark.parametrize("state", ["created", "exited"])
    def test_one_that_a_killed_docker_left_in_its_network_is_taken_out(
        self, steps: Running, state: str
    ) -> None:
        """Docker refuses to start it ever again: its endpoint exists already."""
        networks = (network("a", 8001, "vllm-a", "vllm-b"), network("b", 8002))
        out = "docker network disconnect --force vllm_a vllm-a && "
        steps.found(there("a", "new", state=state), there("b", state=state), networks=networks)
        gone = f"C --progress plain rm --stop --force a && {out}"
        assert steps.commands(steps.wanted("a", "b")) == [start("a", "b", before=gone)]
        # Also where the network is another one.
        another = (network("a", 8009, "vllm-a"),)
        steps.found(there("a", "new", state=state), networks=another)
        gone += "docker network rm vllm_a && "
        assert steps.commands(steps.wanted("a")) == [start("a", before=gone)]
        # One that runs is where it should be.
        steps.found(there("a"), networks=(network("a", 8001, "vllm-a"),))
        assert steps.commands(steps.wanted("a")) == [start("a")]

    def test_both_containers_of_one_whose_replacement_was_cut_off_go_first(
        self, steps: Running
    ) -> None:
        """Compose would remove one, and refuse the name of the other."""
        half = replace(there("a", state="created"), name="6a145f9dbb26_a")
        steps.found(there("a", "new"), half, there("b", "new"), networks=(network("a", 8001),))
        gone = "C --progress plain rm --stop --force a && "
        assert steps.commands(steps.wanted("a", "b")) == [start("a", before=gone)]
        rolled = steps.commands(steps.wanted("a", "b", peers={"a": ["b"]}))
        assert rolled[1] == ("recreating a", f"{gone}{UP} a")

    def test_one_that_is_rolled_leaves_it_alone(self, steps: Running) -> None:
        steps.found(there("a"), there("b", "new"), networks=(network("a", 8009),))
        commands = steps.commands(steps.wanted("a", "b", peers={"a": ["b"]}))
        assert commands[1] == (
            "recreating a",
            "C --progress plain rm --stop --force a && docker network rm vllm_a && " + f"{UP} a",
        )

    def test_networks_that_nobody_needs_go_and_those_of_others_stay(self, steps: Running) -> None:
        unused = (network("x"), network("y", 8001, "vllm-a"), network("z", 8001, "theirs"))
        steps.found(there("a", "new"), networks=(network("a"), *unused))
        assert steps.commands(steps.wanted("a")) == ["docker network rm vllm_x vllm_y >/dev/null"]
        assert ("differs", "network vllm_x vllm_y", "is no longer needed") in steps.told


class TestTurn:
    def taking(self, *models: str, serving: Sequence[str] = ()) -> Turn:
        return Turn("gpu1", frozenset(models), frozenset(serving), 0)

    def test_who_changes_no_model_takes_none(self, steps: Running) -> None:
        steps.turn = self.taking()
        steps.found(there("a", "new"))
        assert steps.commands(steps.wanted("a")) == []
        assert steps.done == []
        # While a run is prepared nobody has one.
        steps.executing, steps.turn = False, self.taking("m-a")
        steps.commands(steps.wanted("a"))
        assert steps.done == []

    def test_it_is_had_until_the_agents_serve_again(self, steps: Running) -> None:
        steps.turn, steps.up = self.taking("m-a", serving=["m-a"]), [True, False, True]
        steps.found(there("a"), there("b", "new"))
        assert steps.commands(steps.wanted("a", "b", "c")) == [start("a", "c"), ("take up", "a")]
        assert steps.done == [
            ("turn", "gpu1", False),
            ("wait", "/opt/vllm", ["a", "c"], 9, steps.done[1][4]),
            "turn over",
        ]
        assert steps.slept == [2.0] and steps.up == []

    def test_an_edge_that_does_not_come_back_fails_the_host(self, steps: Running) -> None:
        steps.turn, steps.up = self.taking("m-a", serving=["m-a"]), [True, *[False] * 15]
        steps.found(there("a"))
        with pytest.raises(HostError) as found:
            steps.commands(steps.wanted("a"))
        assert str(found.value) == (
            "the agents are healthy, but the edge, which answered before, reports that they are"
            " not; see vllm-hosts doctor"
        )
        assert "turn over" not in steps.done
        assert (len(steps.slept), steps.up) == (15, [])

    @pytest.mark.parametrize(
        "more",
        [
            {"containers": [there("a"), there("z")]},
            {"containers": [there("a")], "networks": (network("a", 8009),)},
        ],
    )
    def test_an_edge_that_follows_later_is_not_asked(
        self, steps: Running, more: dict[str, Any]
    ) -> None:
        steps.turn, steps.up = self.taking("m-a", serving=["m-a"]), [True]
        steps.found(*more.pop("containers"), **more)
        steps.commands(steps.wanted("a"))
        assert steps.up == []

    def test_an_edge_that_was_down_or_served_nothing_is_not_asked(self, steps: Running) -> None:
        steps.found(there("a"))
        steps.turn, steps.up = self.taking("m-a", serving=["m-a"]), [False]
        steps.commands(steps.wanted("a"))
        assert steps.up == []
        steps.turn = self.taking("m-a")
        steps.commands(steps.wanted("a"))
        assert steps.done[-1] == "turn over"

    def test_what_did_not_run_has_nothing_to_take_up(self, steps: Running) -> None:
        steps.turn = self.taking("m-a")
        steps.found()
        assert steps.commands(steps.wanted("a")) == [start("a")]
        steps.facts["EdgeRuns"] = False
        steps.found(there("a"))
        assert steps.commands(steps.wanted("a")) == [start("a")]

    def test_together_nobody_is_waited_for(self, steps: Running) -> None:
        steps.turn = self.taking("m-a")
        steps.found(there("a"))
        assert steps.commands(steps.wanted("a", together=True)) == [start("a")]
        assert steps.done == [("turn", "gpu1", True), "turn over"]


class TestAnnounced:
    def told(self, steps: Running, *names: str, **changes: Any) -> Any:
        assert steps.run(compose.agents_announced, steps.wanted(*names, **changes)) == []
        return [given for name, *given in steps.told if name in ("announce", "agents_change")]

    def test_what_changes_and_what_serves(self, steps: Running) -> None:
        steps.found(there("a"), there("b", "new"))
        changed, served = frozenset({"m-a", "m-c"}), frozenset({"m-a", "m-b"})
        changing = [Changing(changed, served, True)]
        assert self.told(steps, *"abc", together=True) == [[changed, served, {}], changing]
        steps.executing = False
        assert self.told(steps, *"abc", together=True) == [changing]

    def test_how_many_hosts_may_change_at_once(self, steps: Running) -> None:
        steps.found(there("a"))
        wanted = steps.wanted("a")
        wanted = replace(wanted, serving=replace(wanted.serving, at_once={"m-a": 3}))
        assert steps.run(compose.agents_announced, wanted) == []
        model = frozenset({"m-a"})
        assert steps.told[-2:] == [
            ("announce", model, model, {"m-a": 3}),
            ("agents_change", Changing(model, model, False, {"m-a": 3})),
        ]

    def test_one_that_gets_another_name_served_what_the_new_one_will(self, steps: Running) -> None:
        steps.found(there("z"), there("b", "old"))
        [[changed, served, _], _] = self.told(steps, "a", "b")
        assert (changed, served) == ({"m-a", "m-b"}, {"m-a", "m-b"})
        # One that leaves and did not serve has served nobody.
        steps.found(there("z", health="unhealthy"))
        assert self.told(steps, "a")[0] == [{"m-a"}, set(), {}]
        steps.found(there("b", "new"))
        assert self.told(steps, "a", "b")[0] == [{"m-a"}, {"m-b"}, {}]


class TestRotation:
    """Behind gateways: nothing is stopped that may still get requests."""

    @pytest.fixture
    def story(self, steps: Running, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What happens, in order."""
        story: list[str] = []

        def told(name: str, value: Any) -> None:
            def put(*given: Any, **words: Any) -> Any:
                first = given[0]
                story.append(f"{name} {first if isinstance(first, str) else len(first)}")
                return value(*given, **words)

            monkeypatch.setattr(compose, name, put)

        for name in ("watched", "divert", "give_back", "change"):
            told(name, getattr(compose, name))
        told("wait_or_put_back", lambda *_: None)
        monkeypatch.setattr(
            compose,
            "wait_or_put_back",
            lambda directory, names, *_: story.append(f"wait {' '.join(names)}"),
        )
        self.gates: Any = SimpleNamespace(
            gates=("gw1",),
            reachable=lambda: story.append("reachable"),
            out=lambda agents: story.append(f"out {' '.join(agents)}"),
            back=lambda agents, again_later: story.append(
                f"back {' '.join(agents)}{' or later' if again_later else ''}"
            ),
        )
        return story

    def wanted(self, steps: Running, *names: str, **changes: Any) -> Agents:
        wanted = steps.wanted(*names, **changes)
        return replace(wanted, serving=replace(wanted.serving, rotation=self.gates))

    def test_out_before_anything_is_written_and_back_once_they_answer(
        self, steps: Running, story: list[str]
    ) -> None:
        steps.turn = Turn("gpu1", frozenset({"m-a"}), frozenset({"m-a"}), 0)
        steps.facts["TreeState"] = TreeFound({FILE.path: Found("-")}, "")
        steps.found(there("a"), there("b", "new"), there("z"))
        steps.up = [True, True]
        steps.commands(self.wanted(steps, "a", "b"))
        assert story == [
            "reachable", "out a z", "change 1", "watched starting a", "wait a", "back a or later",
        ]  # fmt: skip

    def test_with_a_twin_each_one_goes_by_itself(self, steps: Running, story: list[str]) -> None:
        steps.turn = Turn("gpu1", frozenset({"m-a"}), frozenset({"m-a"}), 0)
        steps.found(there("a"), there("b"))
        steps.up = [True, True]
        peers = {"a": ["b"], "b": ["a"]}
        steps.commands(self.wanted(steps, "a", "b", peers=peers))
        assert story == [
            "reachable", "reachable", "out ",
            "out a", "divert a", "watched recreating a", "wait a", "give_back a", "back a or later",
            "out b", "divert b", "watched recreating b", "wait b", "give_back b", "back b or later",
            "wait a b", "back a b or later",
        ]  # fmt: skip

    def test_one_that_moves_is_back_only_once_the_edge_follows(
        self, steps: Running, story: list[str]
    ) -> None:
        steps.turn = Turn("gpu1", frozenset({"m-a"}), frozenset({"m-a"}), 0)
        steps.found(there("a"), there("b"), networks=[network("a", 8077), network("b", 8002)])
        steps.up = [True]
        steps.commands(self.wanted(steps, "a", "b", peers={"a": ["b"]}))
        assert [line for line in story if line.startswith(("out", "back"))] == [
            "out b", "out a", "back  or later", "back b or later",
        ]  # fmt: skip

    def test_while_a_run_is_prepared_nobody_is_told(self, steps: Running, story: list[str]) -> None:
        steps.executing = False
        steps.found(there("a"))
        steps.commands(self.wanted(steps, "a"))
        assert story == ["watched starting a"]
        assert (
            "their requests go to other hosts meanwhile, where gateways know one that answers"
            in steps.said()
        )

    def test_where_all_hosts_change_together_nobody_is_drained(
        self, steps: Running, story: list[str]
    ) -> None:
        steps.turn = Turn("gpu1", frozenset({"m-a"}), frozenset({"m-a"}), 0)
        steps.found(there("a"))
        steps.up = [True]
        steps.commands(self.wanted(steps, "a", together=True))
        assert story == ["watched starting a"]

    def test_one_that_cannot_be_drained_is_left_as_it_is(
        self, steps: Running, story: list[str]
    ) -> None:
        def out(agents: list[str]) -> None:
            raise HostError("gateway gw1 answers clients and cannot be asked")

        self.gates.out = out
        steps.turn = Turn("gpu1", frozenset({"m-a"}), frozenset({"m-a"}), 0)
        steps.facts["TreeState"] = TreeFound({FILE.path: Found("-")}, "")
        steps.found(there("a"))
        steps.up = [True]
        with pytest.raises(HostError, match="gw1"):
            steps.commands(self.wanted(steps, "a"))
        assert story == ["reachable"]

    def test_where_a_gateway_cannot_be_asked_no_turn_begins(
        self, steps: Running, story: list[str]
    ) -> None:
        def reachable() -> None:
            raise HostError("gateway gw1 answers clients and cannot be asked")

        self.gates.reachable = reachable
        steps.turn = Turn("gpu1", frozenset({"m-a"}), frozenset({"m-a"}), 0)
        steps.found(there("a"))
        steps.up = [True]
        with pytest.raises(HostError, match="gw1"):
            steps.commands(self.wanted(steps, "a"))
        assert (story, steps.done) == ([], [])


def test_agents_of_whom_nothing_more_is_known() -> None:
    wanted = Agents("", "", (), Definition, Serving({}, "", 1), {}, {}, {}, {})  # type: ignore[arg-type]
    assert wanted.edge_is_up() is False
    assert wanted.put_back("why") is None
