"""All of deploy.py on a recorded host: looking ahead does the same in a few executions."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_host

from tests.unit import recorded_looks as looks
from tests.unit.examples import examples
from tests.unit.fakes import listening
from tests.unit.recording import InLine, Recorder, Run, deploy_py, keys_py
from vllm_hosts.facts import ahead, asked
from vllm_hosts.host.files import NOTHING
from vllm_hosts.operations import one_by_one


def test_a_run_that_fails_forgets_nothing(in_line: InLine) -> None:
    recorder = in_line()
    file = recorder.inventory.with_name("asked.json")
    recorder.run(deploy_py)
    whole = asked.read(file)["deploy.py"]["gpu1"]
    recorder.host.fails["systemctl enable"] = "no"
    recorder.host.facts["Units"] = {
        name: replace(unit, enabled=False) for name, unit in recorder.host.facts["Units"].items()
    }
    assert recorder.run(deploy_py).failed
    assert set(asked.read(file)["deploy.py"]["gpu1"]) == set(whole)


def shown(done: Run) -> list[list[str]]:
    return [list(one.shown()) for one in done.operations]


def both(recorder: Recorder, folder: Path) -> tuple[Run, Run]:
    """The same run on two copies of a host, with and without looking ahead."""
    (folder / "on").mkdir()
    (folder / "off").mkdir()
    on = recorder.copied(folder / "on").run(deploy_py)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ahead.SWITCH, "0")
        off = recorder.copied(folder / "off").run(deploy_py)
    return on, off


def test_keys_py_asks_once_before_and_once_while_it_executes(in_line: InLine) -> None:
    recorder = in_line()
    # The first one has not seen what keys.py asks.
    for _ in range(2):
        done = recorder.run(keys_py)
    assert done.executions == ["asks for 2 facts"] * 2 and not done.changed


class TestDeploy:
    """All of deploy.py."""

    def test_a_run_that_changes_nothing_takes_a_few_executions(
        self, in_line: InLine, tmp_path: Path
    ) -> None:
        recorder = in_line()
        recorder.run(deploy_py)
        on, off = both(recorder, tmp_path)
        # While pyinfra prepares it as well: with -y it does not.
        executed = on.executions[on.executions.index("asks AgentStates") - 2 :]
        print(f"executions of a host: {len(off.executions)} before, {len(on.executions)} now,")
        print(f"of which {len(executed)} with -y: {', '.join(executed)}")
        assert executed[0].startswith("asks for ")
        # With the one that holds the host, four.
        assert executed[1:] == ["asks ComposeProject", "asks AgentStates"]
        assert len(on.executions) <= 6
        assert not on.changed and shown(on) == shown(off)
        # More is no mistake, but has to be meant: raise them together with what needs it.
        print(f"{len(on.operations)} operations, {on.sent} bytes sent for looks")
        assert len(on.operations) <= 63
        assert on.sent <= 2 * 16_200

    def test_compose_is_asked_again_once_its_answer_is_old(
        self, in_line: InLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = in_line()
        recorder.run(deploy_py)
        assert recorder.run(deploy_py).executions.count("asks ComposeProject") == 3
        monkeypatch.setattr(ahead, "FRESH", -1.0)
        assert recorder.run(deploy_py).executions.count("asks ComposeProject") == 4

    def test_compose_is_asked_again_where_something_was_done_meanwhile(
        self, in_line: InLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = in_line()
        recorder.run(deploy_py)
        plain = one_by_one.announced

        def announced() -> Any:
            ctx_host.get().run_shell_command(StringCommand("true"))
            return plain()

        monkeypatch.setattr("vllm_hosts.operations.compose.announced", announced)
        assert recorder.run(deploy_py).executions.count("asks ComposeProject") == 4

    def test_one_change_costs_one_more_look_ahead(self, in_line: InLine, tmp_path: Path) -> None:
        recorder = in_line()
        recorder.run(deploy_py)
        recorder.host.chmod("/opt/vllm/.env", 0o640)
        on, off = both(recorder, tmp_path)
        assert len(on.changed) == 1 and shown(on) == shown(off)
        assert len(on.executions) <= 14 < len(off.executions) / 8

    @given(data=st.data())
    @settings(
        deadline=None,
        max_examples=examples(4),
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_whatever_others_have_changed_it_does_the_same(
        self,
        data: st.DataObject,
        deployed: tuple[Recorder, Run],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        folder = tmp_path_factory.mktemp("changed")
        recorder = deployed[0].copied(folder)
        recorder.run(deploy_py)
        host = recorder.host
        for path in data.draw(st.sets(st.sampled_from(sorted(host.paths)), max_size=3)):
            kind = data.draw(st.sampled_from(["gone", "mode", "content"]))
            there = host.paths[path]
            changes: dict[str, dict[str, Any]] = {
                "mode": {"mode": 0o604},
                "content": {"sha256": "0" * 64},
            }
            host.paths[path] = NOTHING if kind == "gone" else replace(there, **changes[kind])
        for name in data.draw(st.sets(st.sampled_from(sorted(host.packages)), max_size=2)):
            del host.packages[name]
        for name in data.draw(st.sets(st.sampled_from(sorted(host.stamps)), max_size=2)):
            del host.stamps[name]
        if data.draw(st.booleans()):
            host.facts["FirewallLoaded"] = looks.FRESH["FirewallLoaded"]
        if data.draw(st.booleans()):
            host.fails[data.draw(st.sampled_from(["nft", "nginx -t", "apt-get", "docker"]))] = "no"
        on, off = both(recorder, folder)
        assert shown(on) == shown(off)
        assert (on.failed, on.refused, on.effects) == (off.failed, off.refused, off.effects)
        assert len(on.executions) <= len(off.executions)

    def test_what_is_promised_at_the_end_is_asked_at_the_end(
        self, in_line: InLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a run that changed something: a program may have begun to listen since."""
        recorder = in_line()
        recorder.run(deploy_py)
        recorder.host.chmod("/opt/vllm/.env", 0o640)
        change = type(recorder.host).answer

        def answer(host: Any, fact: type, **given: Any) -> Any:
            if fact.__name__ == "NginxState" and given == {}:
                late = listening("0.0.0.0:6666", 'users:(("nc",pid=9,fd=3))')
                host.facts["ListeningSockets"] = (*sockets, late)
            return change(host, fact, **given)

        sockets = deepcopy(recorder.host.facts["ListeningSockets"])
        monkeypatch.setattr(type(recorder.host), "answer", answer)
        recorder.host.facts["ListeningSockets"] = sockets
        done = recorder.run(deploy_py)
        assert done.failed or done.refused
        assert "6666" in " ".join([*done.said, *done.refused])
