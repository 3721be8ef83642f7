"""What is done to start, stop and restart agents, step by step and to the letter."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host

from tests.unit.samples import QWEN, settings
from vllm_hosts.agents import actions
from vllm_hosts.agents.actions import Plan, restart, start, stop
from vllm_hosts.facts.agents import AgentsInspected
from vllm_hosts.facts.edge import EdgeRuns
from vllm_hosts.host.compose import COMPOSE, without_halves
from vllm_hosts.host.containers import Container
from vllm_hosts.operations.rotation import Rotation

TWIN = QWEN | {"name": "twin", "port": 8002, "gpus": [1], "served_model_name": "qwen"}
SAME_CARD = QWEN | {"name": "other", "port": 8003, "gpu_memory_utilization": 0.3}
HOST = settings(agents=[QWEN, TWIN], vllm={"directory": "/opt/v", "health_timeout": 77})
DO = f"{COMPOSE} --project-directory /opt/v --progress plain"


def whole(*agents: str) -> str:
    """What comes before Compose is asked to start these."""
    return without_halves(DO, agents)


class Gates(Rotation):
    """Gateways that write down what they are told, among what is done on the host."""

    def __init__(self, did: list[Any]) -> None:
        super().__init__("gpu1")
        vars(self)["did"] = did

    def out(self, agents: Collection[str], **_: object) -> None:
        vars(self)["did"].append(("out", *agents))

    def back(self, agents: Collection[str], **_: object) -> None:
        vars(self)["did"].append(("back", *agents))


class Steps:
    """What is done on a host whose containers and edge are these, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[Any] = []
        self.standing: dict[str, str] = {}
        self.edge = True
        self.gates = Gates(self.did)
        for name, stands_in in {
            "ask_host": self._ask,
            "carry_out": self._carry_out,
            "watched": lambda label, script: (label, script),
            "divert": lambda agent, twin: f"divert {agent} to {twin}",
            "taken_up": lambda agent: f"key of {agent}",
            "wait_healthy": lambda *given: self.did.append(("wait", *given)),
        }.items():
            monkeypatch.setattr(actions, name, stands_in)

    def _ask(self, fact: type, **given: Any) -> object:
        if fact is EdgeRuns:
            self.did.append("edge?")
            return self.edge
        assert fact is AgentsInspected
        return {name: self._container(name) for name in given["agents"]}

    def _container(self, name: str) -> Container:
        state = self.standing.get(name, "running")
        return Container(name, state, "healthy" if state == "running" else None)

    def _carry_out(self, commands: Iterable[Any]) -> None:
        self.did += commands

    def run(self, action: Any, *given: Any) -> list[Any]:
        self.did.clear()
        host = SimpleNamespace(log=lambda text: self.did.append(f"says{text}"))
        with ctx_host.use(host):
            action(*given, self.gates)
        return self.did


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def wait(*agents: str) -> tuple[str, str, list[str], int]:
    return ("wait", "/opt/v", [*agents], 77)


class TestStart:
    def test_what_does_not_run(self, steps: Steps) -> None:
        steps.standing = {"qwen": "exited"}
        assert steps.run(start, HOST, ["qwen", "twin"]) == [
            "says    twin is already running",
            "edge?",
            ("starting qwen", f"{whole('qwen')}{DO} up --detach --no-deps qwen"),
            "key of qwen",
            wait("qwen", "twin"),
            ("back", "qwen", "twin"),
        ]

    def test_all_of_different_cards_at_once(self, steps: Steps) -> None:
        steps.standing = {"qwen": "exited", "twin": "absent"}
        steps.edge = False
        assert steps.run(start, HOST, ["qwen", "twin"]) == [
            "edge?",
            ("starting qwen twin", f"{whole('qwen', 'twin')}{DO} up --detach --no-deps qwen twin"),
            wait("qwen", "twin"),
            ("back", "qwen", "twin"),
        ]

    def test_those_of_one_card_one_after_the_other(self, steps: Steps) -> None:
        qwen = QWEN | {"gpu_memory_utilization": 0.3}
        host = settings(
            agents=[qwen, SAME_CARD], vllm={"directory": "/opt/v", "health_timeout": 77}
        )
        steps.standing = {"qwen": "exited", "other": "exited"}
        assert steps.run(start, host, ["qwen", "other"]) == [
            "edge?",
            ("starting qwen", f"{whole('qwen')}{DO} up --detach --no-deps qwen"),
            "key of qwen",
            wait("qwen"),
            ("starting other", f"{whole('other')}{DO} up --detach --no-deps other"),
            "key of other",
            wait("qwen", "other"),
            ("back", "qwen", "other"),
        ]

    def test_nothing_where_all_run(self, steps: Steps) -> None:
        assert steps.run(start, HOST, ["qwen"]) == [
            "says    qwen is already running", wait("qwen"), ("back", "qwen"),
        ]  # fmt: skip


class TestStop:
    def test_what_runs_once_its_requests_are_drained(self, steps: Steps) -> None:
        steps.standing = {"gone": "exited", "none": "absent"}
        assert steps.run(stop, HOST, ["qwen", "gone", "twin", "none"]) == [
            "says    gone does not run",
            "says    none does not run",
            ("out", "qwen", "twin"),
            ("stopping qwen twin", f"{DO} stop qwen twin"),
            "says    qwen is stopped",
            "says    twin is stopped",
        ]

    def test_nothing_where_nothing_runs(self, steps: Steps) -> None:
        steps.standing = {"qwen": "exited"}
        assert steps.run(stop, HOST, ["qwen"]) == ["says    qwen does not run"]


class TestRestart:
    AGAIN = ("restarting qwen", f"{whole('qwen')}{DO} up --detach --no-deps --force-recreate qwen")

    def test_behind_a_twin(self, steps: Steps) -> None:
        assert steps.run(restart, HOST, "qwen") == [
            "edge?",
            ("out", "qwen"),
            "says    twin answers for qwen meanwhile",
            "divert qwen to twin",
            self.AGAIN,
            wait("qwen"),
            "key of qwen",
            ("back", "qwen"),
        ]

    def test_without_one(self, steps: Steps) -> None:
        steps.standing = {"twin": "exited"}
        assert steps.run(restart, HOST, "qwen") == [
            "edge?",
            ("out", "qwen"),
            "says    restarting qwen",
            self.AGAIN,
            "key of qwen",
            wait("qwen"),
            ("back", "qwen"),
        ]

    def test_without_an_edge_a_twin_cannot_answer(self, steps: Steps) -> None:
        steps.edge = False
        assert steps.run(restart, HOST, "qwen") == [
            "edge?",
            ("out", "qwen"),
            "says    restarting qwen",
            self.AGAIN,
            wait("qwen"),
            ("back", "qwen"),
        ]

    def test_how_it_does_is_fixed_before(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Plan("qwen", None).twin = "twin"  # type: ignore[misc]
