"""Roles on a host that records what they do.

Operations are pyinfra's own, prepared and executed as in a run, over its connector that runs
nothing.
"""

from __future__ import annotations

import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.operations import run_host_op
from pyinfra.api.state import State, StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host, ctx_state

from tests.unit import recorded_looks as looks
from tests.unit.fleets import gateway
from tests.unit.model_files import safetensors
from tests.unit.projects import ROOT as REPOSITORY
from tests.unit.recorded_host import Host, Operation, snapshot
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.connect import alongside, lock, pyinfra_speed
from vllm_hosts.facts import ahead, base
from vllm_hosts.host import frames, probe
from vllm_hosts.host.rotation import Balancer
from vllm_hosts.keys import KeyStore
from vllm_hosts.operations import differences, foreseen, one_by_one, rotation
from vllm_hosts.project import rotation as in_front
from vllm_hosts.project import run
from vllm_hosts.project.before import Run as Begun
from vllm_hosts.project.loaded import Project
from vllm_hosts.rehearsal import remembered

# As every run does.
pyinfra_speed.install()


@dataclass
class Run:
    """What a run did, operation by operation, and what it said."""

    operations: list[Operation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    #: What stood below pyinfra's table before the run.
    effects: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: bool = False
    #: Executions over SSH, in order: what was asked alone, together, or done.
    executions: list[str] = field(default_factory=list)
    #: Bytes of what was asked together, as they are sent.
    sent: int = 0

    def __getitem__(self, name: str) -> Operation:
        [found] = [one for one in self.operations if one.name.partition(" | ")[2] == name]
        return found

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.operations]

    @property
    def changed(self) -> list[str]:
        """Operations that ran a command."""
        return [one.name for one in self.operations if one.commands]


class _Connector(FakeConnector):
    """pyinfra's connector that runs nothing, with a host of ours behind it."""

    recorded: Host
    operation: Operation
    run: Run
    client = SimpleNamespace(
        get_transport=lambda: SimpleNamespace(
            auth_handler=SimpleNamespace(auth_method="publickey"), is_active=lambda: True
        ),
        close=lambda: None,
    )

    def run_shell_command(self, command: Any, *_: Any, **arguments: Any) -> Any:
        self.run.executions.append(f"does {self.operation.name}")
        said = self.recorded.run(
            command.get_raw_value(), arguments.get("_stdin") or (), self.operation
        )
        return not said, CommandOutput([OutputLine("stderr", said)] if said else [])

    def put_file(
        self, filename_or_io: Any, remote_filename: str, *_: Any, **arguments: Any
    ) -> bool:
        self.run.executions.append(f"sends {remote_filename}")
        self.operation.commands.append(f"upload {remote_filename}")
        return True


class Shell:
    """The shell that holds a host for a deploy: it says what it is made to say, and hears what the
    deploy tells it."""

    def __init__(self, *says: str) -> None:
        self.says = list(says)
        self.heard: list[str] = []
        self.closed = False

    def send(self, text: str) -> None:
        self.heard.append(text)

    def line(self) -> str:
        return f"lock {self.says.pop(0)}\n" if self.says else ""

    def errors(self) -> str:
        return ""

    def ended(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class Session(Shell):
    """The session of a command that goes on beside others: it has ended when somebody asks.

    :ivar failed: what it printed as errors.
    """

    def __init__(self, failed: str) -> None:
        super().__init__()
        self.failed = failed
        self.printed = [f"vllm-hosts-ended {int(bool(failed))}\n"]

    def line(self) -> str:
        return self.printed.pop(0) if self.printed else ""

    def errors(self) -> str:
        return self.failed


@lru_cache(maxsize=32)
def _sent(commands: tuple[str, ...]) -> int:
    """Bytes of what is asked together, which is packed for that: the same in most runs."""
    lines = frames.given([*commands])
    return len(frames.program()) + sum(len(line) + 1 for line in lines)


def deploy_py() -> None:
    """The whole deploy, as its entry file calls it."""
    runpy.run_path(str(REPOSITORY / "deploy.py"))


def keys_py() -> None:
    """The clients' keys alone."""
    runpy.run_path(str(REPOSITORY / "keys.py"))


class Recorder:
    """Runs roles on a host, with a store of keys below a folder."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.host = host
        self.inventory = folder / "inventory" / "prod.py"
        self.inventory.parent.mkdir(exist_ok=True)
        self.inventory.touch()
        #: What the edge answers to a path, and which ports open from here.
        self.edge: Callable[[str], int] = lambda path: 401
        self.open: set[int] = set()
        #: Which ports were tried from here, and for how long.
        self.tried: set[tuple[str, int, float]] = set()
        #: What the edge was asked.
        self.asked: list[tuple[Any, ...]] = []
        #: What the HAProxies of gateways see, where they run, and what they were told.
        self.balancers: dict[str, Balancer] = {}
        self.told: list[tuple[str, str]] = []
        self._executions: list[str] = []
        self._done = Run()
        #: Who holds the host, in the last run.
        self.shell = Shell()
        #: What that one says first, in the next run.
        self.says: tuple[str, ...] = ("taken",)
        #: What goes on beside other commands, and whether there is a session for it.
        self.beside: list[Session] = []
        self.sessions = True

    def copied(self, folder: Path, **changes: Any) -> Recorder:
        """The same host and store once more, below another folder, with other settings."""
        shutil.copytree(self.inventory.parent, folder / "inventory", dirs_exist_ok=True)
        host = snapshot(self.host)()
        known = self.host.settings
        made = settings(**{**known.model_dump(), **changes})
        # What it is in its inventory is not set for it, and stays.
        fleet = {
            name: getattr(known, name)
            for name in ("pools", "gateways", "front", "mirror_at", "mirror_for")
        }
        host.settings = made.model_copy(update=fleet)
        return Recorder(folder, host)

    def run(self, *roles: Callable[[], object], dry: bool = False) -> Run:
        """What a run of these roles does: prepared first, then executed, operation by operation."""
        done = Run()
        data = {"fake_delay": 0, "fake_delay_jitter": 0}
        name = self.host.settings.name
        state = State(Inventory(([(name, data)], {})), Config(), check_for_changes=True)
        [host] = state.inventory
        # What operations ask a host while the run is prepared is none of theirs.
        known = {"recorded": self.host, "operation": Operation("before"), "run": done}
        self._executions, self._done = done.executions, done
        connector = type("_Recording", (_Connector,), known)
        self._connector: Any = connector
        host.connector, host.connected = connector(state, host), True

        def say(message: str, **_: object) -> None:
            done.said.append(message.strip())

        vars(host).update(log=say, log_styled=say)
        with self._begun(state), ctx_state.use(state), ctx_host.use(host):
            outlook = foreseen.begin(dry=False)
            for role in roles:
                role()
            told = outlook.hosts.get(self.host.settings.name, foreseen.Foreseen())
            done.effects, done.refused = told.effects, told.refused
            if dry or done.refused:
                return done
            state.is_executing = True
            for identifier in state.get_op_order():
                [name] = state.get_op_meta(identifier).names
                done.operations.append(Operation(name))
                connector.operation = done.operations[-1]  # type: ignore[attr-defined]
                if not run_host_op(state, host, identifier):
                    done.failed = True
                    state.failed_hosts.add(host)
                    break
            state.current_stage = StateStage.Disconnect
        return done

    @contextmanager
    def _begun(self, state: State) -> Iterator[None]:
        settings = self.host.settings
        project = Project(self.inventory, state.inventory, KeyStore(self.inventory))
        # As if they had been read from it.
        front = {one.name: gateway(one.name) for one in settings.gateways}
        vars(project).update(settings={**front, settings.name: settings})
        begun = Begun(self.inventory, dry=False, ours=True, project=project)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "_run", begun)
            patch.setattr(differences, "_wanted", {})
            patch.setattr(remembered, "folder", lambda: self.inventory.parent / "rehearsals")
            patch.setattr(base, "get_fact", self._fact)
            patch.setattr(ahead, "asked_together", self._together)
            ahead.begin(self.inventory.with_name("asked.json"), "deploy.py")
            patch.setattr(lock, "opened", self._opened)
            patch.setattr(alongside, "opened", self._session)
            patch.setattr(alongside, "_begun", WeakKeyDictionary())
            patch.setattr(rotation, "seen_at", lambda _, gate, __: self.balancers.get(gate))
            patch.setattr(rotation, "told_at", self._told)
            patch.setattr(in_front, "ask_host", self.host.answer)
            patch.setattr(probe, "visit", self._visit)
            patch.setattr(probe, "reachable", self._reachable)
            patch.setattr(probe, "round_trip", lambda *_: 0.04)
            one_by_one.begin()
            yield
            ahead.end(state)
        foreseen.end()

    def _opened(self, state: State, host: object, script: str) -> Shell:
        assert script.strip()
        self.shell = Shell(*self.says)
        return self.shell

    def _session(self, state: State, host: object, script: str) -> Session:
        if not self.sessions:
            raise OSError("no session")
        operation = self._connector.operation
        self._done.executions.append(f"begins {operation.name}")
        self.beside.append(Session(self.host.run(script, (), operation)))
        return self.beside[-1]

    def _told(self, connections: object, gate: str, script: str) -> None:
        self.told.append((gate, script))
        words = re.findall(r"set server (\S+)/(\S+) state (\w+)", script)
        state = {(pool, name): state == "drain" for pool, name, state in words}
        self.balancers[gate] = Balancer(
            tuple(
                replace(one, drained=state.get((one.pool, one.name), one.drained))
                for one in self.balancers[gate].servers
            )
        )

    def _reachable(self, address: str, port: int, timeout: float) -> bool:
        self.tried.add((address, port, timeout))
        return port in self.open

    @contextmanager
    def _visit(
        self, address: str, port: int, **how: Any
    ) -> Iterator[Callable[..., probe.Response]]:
        def ask(path: str, **_: Any) -> probe.Response:
            self.asked.append((address, port, how["name"], how["ca_file"]))
            return probe.Response(self.edge(path), {}, b"")

        yield ask

    def _fact(
        self, state: State, host: object, fact: type[Any], kwargs: dict[str, Any], **_: object
    ) -> Any:
        # The script is not run, and it has to be one. pyinfra's own arguments are not the fact's.
        own = {name: value for name, value in kwargs.items() if name != "_timeout"}
        assert fact().command(**{n: v for n, v in own.items() if n[0] != "_"}).strip()
        self._executions.append(f"asks {fact.__name__}")
        return self.host.answer(fact, **own)

    def _together(
        self, host: object, asked: list[ahead.Query], options: object
    ) -> dict[ahead.Query, ahead.Value]:
        """What the host answers now, whatever becomes of it until somebody wants to know."""
        self._executions.append(f"asks for {len(asked)} facts")
        self._done.sent += _sent(tuple(look.command for look in asked))
        answers: dict[ahead.Query, ahead.Value] = {}
        for look in asked:
            # Where a recorded host has no answer, a real one has.
            with suppress(LookupError):
                answers[look] = snapshot(self.host.answer(look.fact, **look.arguments))
        return answers


def first_deploy(folder: Path) -> tuple[Recorder, Run]:
    """A host after its first deploy, which had everything to do, and that run."""
    model = folder / "coder"
    model.mkdir()
    (model / "config.json").write_bytes(looks.CONFIG)
    (model / "model.safetensors").write_bytes(safetensors())
    asked = settings(
        agents=[QWEN, CODER | {"copy_from": str(model)}],
        nvidia={"driver": "install"},
        ssh_hardening={"enabled": True},
        edge={"names": ["llm.example.com"]},
    )
    recorder = Recorder(folder, Host(asked, looks.FRESH, looks.AFTER, offered=looks.OFFERED))
    return recorder, recorder.run(deploy_py)


#: A host that has everything, to be changed, with these settings in the place of its own.
InLine = Callable[..., Recorder]
