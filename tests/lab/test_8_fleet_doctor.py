"""The doctor on gateways: which agents get no requests, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.deploys import command
from tests.lab.doctor_faults import OF_FLEET
from tests.lab.fleet import CHAT, DRAFT, FLEET, GATEWAYS, NOTICED, Fleet, frozen

pytestmark = pytest.mark.nightly
_UNIT = "vllm-hosts-balancer"


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    """Each test begins with all agents in rotation."""
    fleet.wait_whole()


def doctor(gateway: str) -> list[dict[str, str]]:
    """What is wrong with a gateway."""
    run = command("vllm-hosts", "doctor", FLEET, "--host", gateway, "--json")
    found: dict[str, Any] = json.loads(run.output[run.output.index("{") :])[gateway]
    assert found["could_not_look"] == [], run.output
    diagnoses: list[dict[str, str]] = found["found"]
    assert run.code == (1 if diagnoses else 0), run.output
    return diagnoses


def test_healthy_gateways_have_nothing(fleet: Fleet) -> None:
    for gateway in GATEWAYS:
        assert doctor(gateway) == []


@contextmanager
def _stopped(fleet: Fleet) -> Iterator[None]:
    lab_hosts.run("gw1", f"systemctl stop {_UNIT}")
    try:
        yield
    finally:
        lab_hosts.run("gw1", f"systemctl start {_UNIT}")


@contextmanager
def _hanging(fleet: Fleet, host: str, agent: str, model: str) -> Iterator[None]:
    with frozen(host, agent):
        fleet.wait_for(host, False, timeout=NOTICED + 10, model=model)
        yield


@contextmanager
def _drained(fleet: Fleet) -> Iterator[None]:
    words = ("chat", "--host", "gpu2")
    assert command("vllm-hosts", "agents", FLEET, "drain", *words).code == 0
    try:
        yield
    finally:
        command("vllm-hosts", "agents", FLEET, "undrain", *words)


#: What is done, and what the first diagnosis says then.
FAULTS: dict[str, tuple[Callable[[Fleet], Any], str]] = {
    "balancer-down": (_stopped, "does not answer"),
    "model-without-agent": (lambda fleet: _hanging(fleet, "gpu1", "draft", DRAFT), DRAFT),
    "agent-out-of-rotation": (
        lambda fleet: _hanging(fleet, "gpu3", "chat", CHAT),
        "Agent chat on gpu3",
    ),
    "agent-drained": (_drained, "Agent chat on gpu2 is drained"),
}


def test_each_diagnosis_is_made_here() -> None:
    assert set(FAULTS) == set(OF_FLEET)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_first(fleet: Fleet, name: str) -> None:
    made, says = FAULTS[name]
    with made(fleet):
        first, *_ = doctor("gw1")
    assert first["id"] == name
    assert says in first["what"]
    fleet.wait_whole()
    assert doctor("gw1") == []


def test_commands_about_agents_leave_gateways_out(fleet: Fleet) -> None:
    for words in (("agents", FLEET, "status", "--json"), ("top", FLEET, "--once", "--json")):
        run = command("vllm-hosts", *words)
        assert run.code == 0, run.output
        assert "gpu3" in run.output
        assert not any(f'"{gateway}"' in run.output for gateway in GATEWAYS), run.output
    asked = command("vllm-hosts", "agents", FLEET, "status", "--host", "gw1")
    assert asked.code == 2
    assert "gw1 is a gateway and runs no agents" in asked.output


def test_nothing_differs_on_gateways_and_their_history_is_there(fleet: Fleet) -> None:
    run = command("vllm-hosts", "drift", FLEET, *(f"--host={name}" for name in GATEWAYS))
    assert run.code == 0, run.output
    run = command("vllm-hosts", "history", FLEET, "--host", "gw1", "--json")
    assert run.code == 0, run.output
    [found] = json.loads(run.output[run.output.index("[") :])
    assert any("HAProxy is installed" in step for one in found["runs"] for step in one["changed"])
