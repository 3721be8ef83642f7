"""Commands that show what hosts say: whatever a host answers, a terminal gets lines of ours."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from pyinfra.context import ctx_host

import vllm_hosts
from tests.unit import hostile
from tests.unit.examples import examples
from tests.unit.fakes import inspect_line
from tests.unit.projects import AGENT, Project
from tests.unit.stand_in_host import StandInHost
from tests.unit.test_odd_answers import FACTS as SOME
from tests.unit.test_odd_facts import FACTS as OTHERS
from vllm_hosts.cli.commands_docs import every_command
from vllm_hosts.cli.main import main
from vllm_hosts.connect import lock
from vllm_hosts.connect.connections import Connections
from vllm_hosts.connect.reach import saying
from vllm_hosts.doctor.query import DoctorLook
from vllm_hosts.facts.agents import AgentLogs, AgentsInspected
from vllm_hosts.facts.base import END, HostFact

#: What is typed: every command that asks hosts with facts and shows their answers.
COMMANDS = (
    ("agents", "logs"),
    ("agents", "start"),
    ("agents", "status"),
    ("agents", "status", "--json"),
    ("agents", "stop", "--yes"),
    ("doctor",),
    ("doctor", "--json"),
    ("history",),
    ("history", "--json"),
    ("hosts", "adopt", "gpu1", "--yes"),
    ("images",),
    ("images", "prune", "--yes"),
    ("lock", "status"),
    ("lock", "release", "--yes"),
    ("plan", "--offline"),
    ("plan", "--offline", "--json"),
    ("top", "--once"),
    ("top", "--once", "--json"),
    ("usage",),
    ("usage", "--by", "model", "--csv"),
    ("usage", "--json"),
)
#: Others: they ask no host with facts, or as deploys do (test_hostile_deploys.py), or with tests.
WITHOUT = {
    "agents drain", "agents restart", "agents undrain", "ca", "check", "docs", "drift", "endpoints",
    "hosts list", "hosts release", "init",
    "keys add", "keys extend", "keys init", "keys list", "keys new-ca",
    "keys recipients add", "keys recipients list", "keys recipients remove", "keys revoke",
    "keys rotate", "keys rotate-internal", "keys show", "settings", "tls renew", "tls status",
    "verify",
}  # fmt: skip


def test_every_command_is_tried() -> None:
    """A new one is tried too, or this test fails."""
    known = {
        name.removeprefix("vllm-hosts ")
        for name, command in every_command(main, "vllm-hosts")
        if not isinstance(command, click.Group)
    }
    tried = {
        name
        for name in known
        for words in COMMANDS
        if [*words][: len(name.split())] == name.split()
    }
    assert tried | WITHOUT == known and not tried & WITHOUT


class Hostile:
    """A host that is asked by commands, in the place of a connection."""

    def __init__(self, folder: Path) -> None:
        self.samples = {type(fact): lines for fact, lines in (*SOME, *OTHERS)}
        (folder / "host").mkdir()
        seen = StandInHost(folder / "host").output().splitlines()
        self.samples[DoctorLook] = seen[: seen.index(END)]
        self.samples[AgentsInspected] = [
            "== containers", inspect_line("qwen"), inspect_line("coder", "exited", None),
        ]  # fmt: skip
        assert AgentLogs in self.samples
        self.random = Random(0)
        self.honest = False
        (folder / "site").mkdir()
        project = Project(folder / "site")
        project.write("inventory/prod.py", 'gpu_hosts = [("gpu1", {"ssh_hostname": "192.0.2.1"})]')
        names = ("qwen", "coder")
        project.group(
            agents=[dict(AGENT, name=name, port=8001 + n, gpus=[n]) for n, name in enumerate(names)]
        )
        self.inventory = str(project.folder / "inventory/prod.py")

    def answer(self, fact: type[HostFact[Any]], **arguments: object) -> Any:
        asked = fact()
        assert asked.command(**arguments)
        sample = self.samples[fact]
        lines = sample if self.honest else hostile.answer(self.random, sample)
        return asked.process([*lines, END])

    def at(self, _: object, name: str, do: Any, limit: float | None = None) -> Any:
        with ctx_host.use(self.host), saying(self.host):
            return do()

    #: pyinfra's, as far as commands know it.
    host: Any = SimpleNamespace(name="gpu1", data={}, connected=True, log=print, groups=[])

    def type(self, words: tuple[str, ...]) -> Any:
        at = 2 if words[0] in ("hosts",) else 1
        return CliRunner().invoke(main, [*words[:at], self.inventory, *words[at:]])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    made = Hostile(tmp_path_factory.mktemp("hostile"))
    for module in pkgutil.walk_packages(vllm_hosts.__path__, "vllm_hosts."):
        if module.name.startswith(("vllm_hosts.cli.", "vllm_hosts.agents.", "vllm_hosts.top.")):
            importlib.import_module(module.name)
    with pytest.MonkeyPatch.context() as patch:
        for name, loaded in list(sys.modules.items()):
            for function in ("ask_host", "look", "carry_out", "reachable"):
                if name.startswith("vllm_hosts.") and callable(vars(loaded).get(function)):
                    instead = {"carry_out": list, "reachable": lambda *_, **__: False}
                    patch.setattr(loaded, function, instead.get(function, made.answer))
        patch.setattr(Connections, "at", lambda *words, **how: made.at(*words, **how))
        for function in ("take", "changing", "release"):
            patch.setattr(lock, function, lambda *_, **__: None)
        patch.setattr("vllm_hosts.top.live._APART", 0)
        patch.setenv("XDG_CACHE_HOME", str(Path(made.inventory).parent / "cache"))
        yield made


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_honest_host_is_shown(host: Hostile, words: tuple[str, ...]) -> None:
    """So that a hostile one is, too."""
    host.honest = True
    try:
        done = host.type(words)
    finally:
        host.honest = False
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert "could not be" not in done.output or words[0] == "plan", done.output


@settings(max_examples=examples(20), deadline=None)
@given(random=hostile.seeds)
def test_a_hostile_host_writes_no_line_of_its_own(host: Hostile, random: Random) -> None:
    host.random = random
    words = random.choice(COMMANDS)
    done = host.type(words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    for line in done.output.split("\n"):
        assert not hostile.evil(line), line
    if "--json" in words:
        json.loads(done.stdout)
