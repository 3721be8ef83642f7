"""Agents that do not become healthy are put back, and rollback.py goes back by hand, on a host
that answers from recorded looks."""

from __future__ import annotations

import itertools
import json
import re
import runpy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.projects import ROOT
from tests.unit.recorded_host import Operation
from tests.unit.recording import InLine, Recorder, Run
from tests.unit.samples import CODER, QWEN
from vllm_hosts.host.compose import ComposeFound
from vllm_hosts.host.containers import Container
from vllm_hosts.host.files import Found
from vllm_hosts.host.paths import WAY_BACK
from vllm_hosts.host.services import compose_file
from vllm_hosts.operations import compose, healthy, way_back
from vllm_hosts.operations.one_by_one import Turn
from vllm_hosts.roles.lock import lock
from vllm_hosts.roles.rollback import rollback
from vllm_hosts.roles.secrets import secrets
from vllm_hosts.roles.vllm import vllm

COMPOSE = "/opt/vllm/compose.yaml"
UP = "The agents run as in compose.yaml"
BACK = "The agents are those of before the last deploy"
NAMES = ("qwen", "coder")
_LABEL = re.compile(r'echo "    (?:starting|recreating) ([a-z ]+): \$waited s')


def rollback_py() -> None:
    runpy.run_path(str(ROOT / "rollback.py"))


class Agents:
    """The agents of a recorded host: each runs with the definition that compose.yaml had when it
    was started last, and is healthy unless that is a bad one."""

    def __init__(self, recorder: Recorder, folder: Path) -> None:
        self.recorder, self.folder = recorder, folder
        self.bad: set[str] = set()
        self.crashes = False
        self.count = itertools.count()
        self.runs = dict.fromkeys(NAMES, self.present)
        self._wire()

    def _wire(self) -> None:
        host: Any = self.recorder.host
        host.after = {}
        host._ComposeProject, host._AgentStates = self._project, self._states
        do: Callable[[str, Sequence[str], Operation], str] = type(host).run.__get__(host)

        def run(command: str, given: Sequence[str], done: Operation) -> str:
            said = do(command, given, done)
            if not said and (label := _LABEL.search(command)):
                self.runs |= dict.fromkeys(label[1].split(), self.present)
                if "--remove-orphans" in command:
                    self.runs = {one: self.runs[one] for one in self.services}
            return said

        host.run = run

    @property
    def present(self) -> str:
        """The digest of compose.yaml."""
        return sha256(self.recorder.host.contents[COMPOSE]).hexdigest()

    @property
    def services(self) -> list[str]:
        text = self.recorder.host.contents[COMPOSE].decode()
        return re.findall(r"^  ([a-z]+):\n    container_name", text, re.M)

    def _container(self, name: str) -> Container:
        known = Container(name, "running", "healthy", service=name, config_hash=self.runs[name])
        if self.runs[name] not in self.bad:
            return known
        if not self.crashes:
            return replace(known, state="exited")
        # Docker starts it again and again.
        return replace(known, health="starting", restarts=next(self.count))

    def _project(self, file: str | None = None, path: str | None = None, **_: Any) -> ComposeFound:
        contents = self.recorder.host.contents
        text = contents[path] if path else file.encode() if file else contents[COMPOSE]
        wanted = dict.fromkeys(NAMES, sha256(text).hexdigest())
        return ComposeFound(wanted, tuple(map(self._container, self.runs)), None, looks._NETWORKS)

    def _states(self, agents: Sequence[str]) -> dict[str, Container]:
        return {name: self._container(name) for name in agents}

    def settings(self, **changes: Any) -> None:
        """From now on the host's settings are others."""
        self.folder /= "next"
        self.folder.mkdir()
        host: Any = self.recorder.host
        del host.run
        self.recorder = self.recorder.copied(self.folder, **changes)
        self._wire()

    def deploy(self, *, good: bool = True, **changes: Any) -> Run:
        """Deploys agents with other settings, which become healthy or not."""
        before = self.present
        if changes:
            self.settings(**changes)
        if not good:
            self.bad.add(sha256(self._wanted()).hexdigest())
        assert not changes or sha256(self._wanted()).hexdigest() != before
        return self.recorder.run(secrets, vllm)

    def _wanted(self) -> bytes:
        return compose_file(self.recorder.host.settings, looks.FRESH["HostMemory"]).encode()

    def kept(self, name: str) -> str | None:
        """The digest of a compose.yaml that is kept."""
        content = self.recorder.host.contents.get(f"{WAY_BACK}/{name}/compose.yaml")
        return None if content is None else sha256(content).hexdigest()


@pytest.fixture
def agents(
    in_line: InLine, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Agents:
    monkeypatch.setattr(healthy, "_LOOK_EVERY", 0)
    monkeypatch.setattr(compose, "_LOOK_EVERY", 0)
    recorder = in_line()
    recorder.host.facts["AgentLog"] = ("ValueError: no such kernel",)
    recorder.edge = lambda path: 200 if path == "/health" else 401
    for model in (looks.HUB_MODEL, "/srv/models/coder"):
        recorder.host.paths[model] = Found("d", 0o755)
    found = Agents(recorder, tmp_path_factory.mktemp("agents"))
    original = Recorder.copied

    def copied(self: Recorder, folder: Path, **changes: Any) -> Recorder:
        made = original(self, folder, **changes)
        made.edge = self.edge
        return made

    monkeypatch.setattr(Recorder, "copied", copied)
    return found


def longer(length: int) -> dict[str, Any]:
    """Settings in which agent qwen is another one."""
    return {"agents": [QWEN | {"max_model_len": length}, CODER]}


class TestKept:
    def test_a_deploy_keeps_what_is_healthy_and_what_was_before_it(self, agents: Agents) -> None:
        first = agents.present
        assert (agents.kept("now"), agents.kept("before")) == (first, None)
        done = agents.deploy(**longer(2048))
        assert not done.failed, done.said
        assert (agents.kept("now"), agents.kept("before")) == (agents.present, first)
        assert agents.present != first
        kept = json.loads(agents.recorder.host.contents[f"{WAY_BACK}/now/definition.json"])
        assert (kept["image"], kept["image_id"]) == ("vllm/vllm-openai:v0.33.0", looks.IMAGE_ID)
        assert [agent["name"] for agent in kept["agents"]] == ["qwen", "coder"]

    def test_nothing_of_it_is_secret_or_readable_by_others(self, agents: Agents) -> None:
        agents.deploy(**longer(2048))
        host = agents.recorder.host
        env = host.contents["/opt/vllm/.env"].decode()
        keys = re.findall(r"^[A-Z_]+=(.+)$", env, re.M)
        below = [path for path in host.paths if path.startswith(WAY_BACK)]
        assert len(keys) == 2 and len(below) == 7
        for path in below:
            assert host.paths[path].mode == (0o700 if host.paths[path].kind == "d" else 0o600)
            text = host.contents.get(path, b"").decode()
            assert not any(key in text for key in keys)

    def test_a_second_deploy_keeps_the_same(self, agents: Agents) -> None:
        agents.deploy(**longer(2048))
        before = agents.kept("before")
        assert agents.deploy().changed == []
        assert agents.kept("before") == before

    def test_a_new_key_is_no_other_definition(self, agents: Agents) -> None:
        agents.settings(secrets={"internal_key_command": "printf %043d 0"})
        done = agents.recorder.run(secrets, vllm)
        assert done.changed == ["Secrets | .env holds the secrets, for root only"]
        assert agents.kept("before") is None


class TestPutBack:
    def test_agents_that_do_not_become_healthy_are_put_back(self, agents: Agents) -> None:
        first, env = agents.present, agents.recorder.host.contents["/opt/vllm/.env"]
        done = agents.deploy(good=False, **longer(2048))
        assert done.failed
        assert agents.present == first == agents.kept("now")
        assert agents.runs == dict.fromkeys(NAMES, first)
        assert agents.recorder.host.contents["/opt/vllm/.env"] == env
        *_, failed, putting, last = [one for one in done.said if "healthy after" not in one]
        assert failed.startswith("agent qwen is exited; its last lines:")
        assert "ValueError: no such kernel" in failed
        assert putting == (
            "putting back the agents of 2026-11-26 09:00:00 UTC, from vllm/vllm-openai:v0.33.0"
        )
        assert last == (
            "agents did not become healthy (see above); those of before are back, from"
            " vllm/vllm-openai:v0.33.0, and healthy. Correct the settings, or set them back, and"
            " deploy again"
        )

    def test_the_record_has_what_was_put_back(self, agents: Agents) -> None:
        """So that drift says that the settings differ, and not that somebody was on the host."""
        agents.deploy(good=False, **longer(2048))
        found = agents.recorder.host.paths[COMPOSE]
        assert found.deployed == (found.sha256,) == (agents.present,)

    def test_its_history_says_so(self, agents: Agents) -> None:
        agents.deploy(good=False, **longer(2048))
        agents.recorder.run(lock, vllm)
        steps = json.loads(agents.recorder.shell.heard[-1])["changed"]
        assert steps == [
            "vLLM | The agents run as in compose.yaml",
            "the agents of before are put back",
        ]

    def test_a_command_that_fails_puts_back_as_well(self, agents: Agents) -> None:
        """Such as a port that somebody else has."""
        first = agents.present
        agents.settings(**longer(2048))
        host = agents.recorder.host
        wanted = sha256(agents._wanted()).hexdigest()
        original = host.run

        def run(command: str, given: Sequence[str], done: Operation) -> str:
            if _LABEL.search(command) and agents.present == wanted:
                done.commands.append(command)
                return "port is already allocated"
            return original(command, given, done)

        host.run = run  # type: ignore[method-assign]
        done = agents.recorder.run(vllm)
        assert done.failed
        assert agents.present == first
        assert agents.runs == dict.fromkeys(NAMES, first)
        assert "those of before are back" in done.said[-1]

    def test_where_it_is_switched_off_nothing_is_put_back(self, agents: Agents) -> None:
        first = agents.present
        done = agents.deploy(good=False, vllm={"roll_back": False}, **longer(2048))
        assert done.failed
        assert agents.present != first
        assert done.said[-1].startswith("agent qwen is exited; its last lines:")

    def test_the_first_deploy_has_nothing_to_put_back(self, agents: Agents) -> None:
        host = agents.recorder.host
        for path in [path for path in host.contents if path.startswith(WAY_BACK)]:
            del host.contents[path], host.paths[path]
        done = agents.deploy(good=False, **longer(2048))
        assert done.said[-1].startswith("agent qwen is exited; its last lines:")

    def test_the_last_good_definition_is_not_put_back_over_itself(self, agents: Agents) -> None:
        """An agent that crashes by itself: there is nothing that would be better."""
        agents.bad.add(agents.present)
        done = agents.recorder.run(vllm)
        assert done.said[-1].startswith("agent qwen is exited; its last lines:")
        assert not any("putting back" in one for one in done.said)

    def test_a_run_that_was_cut_off_is_finished_by_the_next(self, agents: Agents) -> None:
        """It finds agents that run as compose.yaml says, and never were healthy."""
        first = agents.present
        agents.settings(**longer(2048))
        host, wanted = agents.recorder.host, agents._wanted()
        digest = sha256(wanted).hexdigest()
        host.contents[COMPOSE] = wanted
        host.paths[COMPOSE] = replace(host.paths[COMPOSE], sha256=digest)
        agents.bad.add(digest)
        agents.crashes = True
        agents.runs = dict.fromkeys(NAMES, digest)
        done = agents.recorder.run(vllm)
        assert done.operations[2].commands == [], "there is nothing to start"
        assert "agent qwen crashed" in " ".join(done.said)
        assert done.failed
        assert (agents.present, agents.runs) == (first, dict.fromkeys(NAMES, first))
        assert "those of before are back" in done.said[-1]

    def test_a_second_failure_says_so_and_ends(self, agents: Agents) -> None:
        agents.bad.add(agents.present)
        done = agents.deploy(good=False, **longer(2048))
        assert done.failed
        assert done.said[-1] == (
            "agents did not become healthy (see above), and those of before could not be put back"
            " either; see vllm-hosts doctor, correct the settings, and deploy again"
        )
        reasons = [one for one in done.said if one.startswith("agent qwen is exited; its last")]
        assert len(reasons) == 2
        assert agents.present == agents.kept("now")

    def test_what_is_kept_and_cannot_be_read_is_named(self, agents: Agents) -> None:
        agents.settings(**longer(2048))
        agents.recorder.host.contents[f"{WAY_BACK}/now/definition.json"] = b"{}}\n"
        [sentence] = agents.recorder.run(vllm).refused
        said = f"what was kept for a way back (remove {WAY_BACK} to go on without it) could not be"
        assert sentence.startswith(said)

    def test_what_cannot_be_put_back_is_named(self, agents: Agents) -> None:
        agents.settings(**longer(2048))
        agents.recorder.host.facts["ImageId"] = ""
        bad = agents._wanted()
        agents.bad.add(sha256(bad).hexdigest())
        done = agents.recorder.run(vllm)
        assert agents.present == sha256(bad).hexdigest()
        assert (
            "nothing was put back: their image vllm/vllm-openai:v0.33.0 is no longer"
            in (done.said[-1])
        )

    def test_keys_of_now_stay(self, agents: Agents) -> None:
        """A key that was replaced together with the change does not come back."""
        old = agents.recorder.host.contents["/opt/vllm/.env"]
        done = agents.deploy(
            good=False, secrets={"internal_key_command": "printf %043d 0"}, **longer(2048)
        )
        assert done.failed
        env = agents.recorder.host.contents["/opt/vllm/.env"]
        assert env != old
        assert [line.split(b"=")[0] for line in env.splitlines()] == [
            line.split(b"=")[0] for line in old.splitlines()
        ]

    def test_the_next_deploy_of_the_same_says_that_it_is_the_same(self, agents: Agents) -> None:
        agents.deploy(good=False, **longer(2048))
        agents.bad.clear()
        done = agents.deploy()
        assert (
            "agents get the definition again that was taken back here (2026-11-26 09:00:00 UTC)"
            in done.effects
        )
        assert not done.failed, done.said
        assert f"{WAY_BACK}/undone" not in agents.recorder.host.contents
        assert agents.kept("now") == agents.present

    def test_settings_that_were_set_back_change_nothing(self, agents: Agents) -> None:
        agents.deploy(good=False, **longer(2048))
        agents.settings(agents=[QWEN, CODER | {"copy_from": None}])
        # No test of models here: the folder's name is the same.
        done = agents.recorder.run(secrets, vllm)
        assert done.changed == ["vLLM | What is healthy is kept for a way back"]
        assert f"{WAY_BACK}/undone" not in agents.recorder.host.contents


class TestByHand:
    def test_it_goes_back_to_what_was_before_the_last_deploy(self, agents: Agents) -> None:
        first = agents.present
        agents.deploy(**longer(2048))
        done = agents.recorder.run(rollback)
        assert (done.failed, done.refused) == (False, []), done.said
        assert agents.present == first == agents.kept("now")
        assert agents.kept("before") is None
        assert agents.runs == dict.fromkeys(NAMES, first)
        assert done.effects[0] == (
            "agents go back to those of 2026-11-26 09:00:00 UTC, from vllm/vllm-openai:v0.33.0"
        )
        assert done.effects[1].startswith("agent qwen is recreated (its definition changed)")
        assert done.said[-1] == (
            "the next deploy does what the settings say: set them back too, if that is not done"
        )

    def test_twice_is_refused(self, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
        final: list[bool] = []
        monkeypatch.setattr(way_back, "refuse_for_good", lambda: final.append(True))
        agents.deploy(**longer(2048))
        agents.recorder.run(rollback)
        assert final == []
        here = agents.present
        done = agents.recorder.run(rollback)
        assert done.refused == [
            "the last deploy was taken back already (2026-11-26 09:00:00 UTC); to go further back,"
            " set back what you changed, and deploy"
        ]
        assert agents.present == here
        assert final == [True]

    def test_after_an_automatic_one_it_is_refused(self, agents: Agents) -> None:
        agents.deploy(**longer(2048))
        agents.deploy(good=False, **longer(4096))
        assert "was taken back already" in agents.recorder.run(rollback).refused[0]

    def test_a_deploy_afterwards_goes_forward_again(self, agents: Agents) -> None:
        first = agents.present
        agents.deploy(**longer(2048))
        second = agents.present
        agents.recorder.run(rollback)
        done = agents.deploy()
        assert not done.failed, done.said
        assert (agents.present, agents.kept("now"), agents.kept("before")) == (
            second,
            second,
            first,
        )
        assert agents.recorder.run(rollback).refused == []
        assert agents.present == first

    def test_what_was_never_healthy_goes_back_to_the_last_that_was(self, agents: Agents) -> None:
        """Where deploys do not do that themselves."""
        agents.deploy(**longer(2048))
        second = agents.present
        agents.deploy(good=False, vllm={"roll_back": False}, **longer(4096))
        done = agents.recorder.run(rollback)
        assert not done.failed, done.said
        assert (agents.present, agents.kept("now")) == (second, second)
        assert agents.kept("before") is not None

    def test_after_the_first_deploy_there_is_nothing(self, agents: Agents) -> None:
        [sentence] = agents.recorder.run(rollback).refused
        assert sentence.startswith("there is nothing to go back to: no other agents than these")

    def test_agents_of_before_that_are_not_healthy_leave_those_of_now(self, agents: Agents) -> None:
        agents.bad.add(agents.present)
        agents.deploy(**longer(2048))
        second = agents.present
        done = agents.recorder.run(rollback)
        assert done.failed
        assert (agents.present, agents.runs) == (second, dict.fromkeys(NAMES, second))
        assert "those of before are back" in done.said[-1]

    def test_an_agent_that_was_renamed_since_is_a_reason_against_it(self, agents: Agents) -> None:
        agents.recorder.host.contents[f"{WAY_BACK}/now/definition.json"] = (
            agents.recorder.host.contents[f"{WAY_BACK}/now/definition.json"].replace(
                b'"name":"qwen"', b'"name":"query"'
            )
        )
        agents.deploy(**longer(2048))
        [sentence] = agents.recorder.run(rollback).refused
        assert "agent query was renamed, moved to another port or removed since" in sentence

    def test_an_agent_that_was_added_goes(self, agents: Agents) -> None:
        """The edge asks for its first agent, and says that this one is not there."""
        agents.deploy(agents=[CODER])
        agents.recorder.host.facts["ListeningSockets"] = ()
        first = agents.present
        done = agents.deploy(agents=[QWEN, CODER])
        assert not done.failed, done.said
        answers = iter([200])
        agents.recorder.edge = lambda path: next(answers, 503)
        done = agents.recorder.run(rollback)
        assert (done.failed, done.refused) == (False, []), done.said
        assert (agents.present, agents.runs) == (first, {"coder": first})
        assert (
            "agent qwen is removed; the edge answers for it with 502 until it is deployed"
            in done.effects
        )

    def test_an_edge_that_answered_before_has_to_do_so_again(self, agents: Agents) -> None:
        agents.deploy(**longer(2048))
        answers = iter([200])
        agents.recorder.edge = lambda path: next(answers, 503)
        done = agents.recorder.run(rollback)
        assert done.failed
        assert "the edge, which answered before, reports that they are not" in done.said[-1]

    def test_the_edge_gets_the_keys_that_agents_then_have(self, agents: Agents) -> None:
        agents.deploy(**longer(2048))
        done = agents.recorder.run(rollback)
        for name in NAMES:
            assert f'vllm_hosts_{name} "' in done[BACK]

    def test_hosts_of_one_model_take_turns(
        self, agents: Agents, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[Turn] = []

        @contextmanager
        def turn_taken(turn: Turn, *, together: bool) -> Iterator[None]:
            assert not together
            taken.append(turn)
            yield

        monkeypatch.setattr(way_back, "turn_taken", turn_taken)
        agents.deploy(**longer(2048))
        taken.clear()
        assert not agents.recorder.run(rollback).failed
        both = frozenset({"qwen", "coder-14b"})
        assert [(turn.models, turn.serving) for turn in taken] == [(both, both)]

    def test_rollback_py_holds_the_host_and_checks_promises(self, agents: Agents) -> None:
        agents.deploy(**longer(2048))
        done = agents.recorder.run(rollback_py)
        assert [name.partition(" | ")[0] for name in done.names if "|" in name] == [
            "Lock",
            "Ownership",
            *["Roll back"] * 3,
            *["Assertions"] * 4,
        ]
        assert not done.failed, done.said
        said = json.loads(agents.recorder.shell.heard[-1])
        assert said["changed"] == ["Roll back | The agents are those of before the last deploy"]
