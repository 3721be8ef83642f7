"""Which agents a deploy asks vLLM about, and what comes of it, with stand-ins for all looks."""

from __future__ import annotations

from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.compose import ComposeFound
from vllm_hosts.host.containers import Container
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.project import run
from vllm_hosts.rehearsal.answer import Answer, Refusal
from vllm_hosts.roles import rehearsal as role
from vllm_hosts.settings import HostSettings

PATH = "/opt/vllm/compose.yaml"


class World:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.settings: HostSettings = settings(agents=[QWEN, CODER])
        self.looked: list[Any] = []
        self.asked: list[Any] = []
        self.said: list[Any] = []
        self.facts: dict[str, Any] = {
            "HostMemory": 7,
            "TreeState": TreeFound({PATH: NOTHING}, ""),
            "ComposeProject": ComposeFound({"qwen": "1", "coder": "1"}, (), None),
        }
        self.judged: Any = SimpleNamespace(warnings=["w"], problems=["p"])
        patch.setattr(role, "look", self.look)
        patch.setattr(role, "compose_file", lambda settings, memory: f"file {memory}")
        patch.setattr(role, "ask_vllm", self.ask)
        patch.setattr(role, "judged", self.judge)
        patch.setattr(role, "say", self.said.append)

    def look(self, fact: type, **given: Any) -> Any:
        self.looked.append((fact.__name__, given))
        return self.facts[fact.__name__]

    def ask(self, settings: Any, agents: Any, *, again: Any) -> Any:
        self.asked.append([agent.name for agent in agents])
        self.again = again
        return {agent.name: SimpleNamespace(answer=f"a {agent.name}", held="h") for agent in agents}

    def judge(self, settings: Any, agents: Any, answers: Any, held: Any) -> Any:
        self.answers, self.held = answers, held
        return self.judged

    def refusals(self) -> list[str]:
        return role._refusals(self.settings)

    def there(self, *containers: Container) -> None:
        wanted = {"qwen": "1", "coder": "1"}
        self.facts["ComposeProject"] = ComposeFound(wanted, containers, None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def container(name: str, hash_: str = "1", state: str = "running") -> Container:
    return Container(name, state, service=name, config_hash=hash_)


def test_what_vllm_says_of_those_that_change_is_the_host_s(world: World) -> None:
    world.there(container("coder"))
    assert world.refusals() == ["p"]
    assert (world.said, world.asked) == ([["w"]], [["qwen"]])
    assert (world.answers, world.held) == ({"qwen": "a qwen"}, {"qwen": "h"})
    assert world.looked[1:] == [
        ("TreeState", {"paths": [PATH]}),
        (
            "ComposeProject",
            {
                "directory": "/opt/vllm",
                "project": "vllm",
                "file": "file 7",
                "names": ["VLLM_API_KEY_CODER", "VLLM_API_KEY_QWEN"],
            },
        ),
    ]
    # A refusal may be about the host, and is asked for again.
    assert world.again(Answer(refused=Refusal("model", "no"))) is True
    assert world.again(Answer()) is False


def test_where_nothing_changes_nobody_is_asked(world: World) -> None:
    world.there(container("qwen"), container("coder", state="exited"))
    # One that only stopped was accepted when it was made.
    assert (world.refusals(), world.asked, world.said) == ([], [], [])


def test_another_definition_is_asked_about(world: World) -> None:
    world.there(container("qwen", "0"), container("coder", "0", "exited"))
    world.refusals()
    assert world.asked == [["qwen", "coder"]]


def test_a_file_that_is_written_already_was_asked_about(world: World) -> None:
    digest = sha256(b"file 7").hexdigest()
    world.facts["TreeState"] = TreeFound({PATH: Found("f", sha256=digest)}, "")
    assert world.refusals() == []
    assert [name for name, _ in world.looked] == ["HostMemory", "TreeState"]


def test_it_can_be_switched_off(world: World) -> None:
    world.settings = settings(agents=[QWEN], capacity={"preflight": "off"})
    assert (world.refusals(), world.looked) == ([], [])


def test_it_is_a_promise_that_is_kept_while_a_run_executes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []
    monkeypatch.setattr(role, "promise_kept", lambda find, name: steps.append((find(), name)))
    monkeypatch.setattr(run, "current", lambda: SimpleNamespace(settings=world.settings))
    inner: Any = role.rehearsal
    inner._inner()
    assert steps == [(["p"], "vLLM accepts the agents that change")]
    assert inner._inner.deploy_name == "Rehearsal"
