"""When a run holds a host, and with which words it lets it go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_state

from vllm_hosts.connect import alongside, lock, stopping
from vllm_hosts.connect.lock import Purpose
from vllm_hosts.facts.base import LOST
from vllm_hosts.operations import base, locked

HOST: Any = SimpleNamespace(name="gpu1", connector=None)


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    said: list[tuple[object, ...]] = []
    monkeypatch.setattr(lock, "take", lambda purpose: said.append(("take", purpose)))
    monkeypatch.setattr(alongside, "end", lambda host: said.append(("end", host)))
    monkeypatch.setattr(lock, "release", lambda *given: said.append(("release", *given)))
    return said


@pytest.mark.parametrize("executing", [True, False])
def test_a_run_that_only_looks_holds_nothing(
    story: list[tuple[object, ...]], executing: bool
) -> None:
    operation: Any = locked.host_held._inner.__wrapped__  # type: ignore[attr-defined]
    purpose = Purpose("deploy.py of prod.py")
    state: Any = SimpleNamespace(is_executing=executing)
    with ctx_state.use(state):
        assert list(operation(purpose)) == []
    assert story == [("take", purpose)] * executing


def test_it_is_let_go_where_it_failed_with_the_step_s_name(
    story: list[tuple[object, ...]],
) -> None:
    state: Any = SimpleNamespace(get_op_meta=lambda hash_: SimpleNamespace(names={f"step {hash_}"}))
    locked.Releasing.operation_host_error(state, HOST, "ab12")
    # Nobody else gets the host while something of this run goes on there.
    assert story == [("end", HOST), ("release", HOST, "failed at step ab12")]


def test_a_connection_that_is_lost_is_said_once(
    story: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command whose connection ends fails without a word, one of ours may have said so."""
    monkeypatch.setattr(base, "_told", set())
    monkeypatch.setattr(stopping, "stopped", False)
    state: Any = SimpleNamespace(get_op_meta=lambda hash_: SimpleNamespace(names={"step"}))
    said: list[str] = []
    active = [True]
    transport = SimpleNamespace(is_active=lambda: active[0])
    host: Any = SimpleNamespace(
        name="gpu2",
        connector=SimpleNamespace(client=SimpleNamespace(get_transport=lambda: transport)),
        log_styled=lambda text, **options: said.append(text),
    )
    locked.Releasing.operation_host_error(state, host, "ab12")
    assert said == []
    active[0] = False
    for _ in range(2):
        locked.Releasing.operation_host_error(state, host, "ab12")
    assert said == [LOST] and "connection was lost midway; run the command again" in LOST
    base._told.clear()
    base.fail(state, host, LOST)
    locked.Releasing.operation_host_error(state, host, "ab12")
    assert said == [LOST] * 2
    # Who stopped the run closed it.
    base._told.clear()
    monkeypatch.setattr(stopping, "stopped", True)
    locked.Releasing.operation_host_error(state, host, "ab12")
    assert said == [LOST] * 2


@pytest.mark.parametrize(
    ("stage", "ended"),
    [(StateStage.Disconnect, "done"), (StateStage.Execute, "interrupted")],
)
def test_it_is_let_go_with_its_connection(
    story: list[tuple[object, ...]], stage: StateStage, ended: str
) -> None:
    state: Any = SimpleNamespace(current_stage=stage)
    locked.Releasing.host_disconnect(state, HOST)
    assert story == [("release", HOST, ended)]
