"""Looking ahead decides nothing differently, and costs one execution."""

from __future__ import annotations

import base64
import gzip
import io
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyinfra.api.command import FileUploadCommand, FunctionCommand, StringCommand
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State, StateStage
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host, ctx_state

from tests.architecture import modules
from tests.unit.examples import examples
from vllm_hosts.errors import HostError
from vllm_hosts.facts import ahead, asked, look
from vllm_hosts.facts.base import END, HostFact, ending, sections

NAMES = ("a", "b", "c", "d")
_READS = re.compile(r"read ([a-z])$", re.M)


class Thing(HostFact[str]):
    """One thing of the host, which stays until somebody changes it."""

    what = "a thing"
    steady = True

    def command(self, thing: str) -> str:
        return ending(f"echo '== value'\nread {thing}")

    def parse(self, lines: list[str]) -> str:
        [value] = sections(lines)["value"]
        if value == "bad":
            raise ValueError(value)
        return value


class Passing(Thing):
    """One that changes by itself."""

    steady = False


@dataclass
class Machine:
    """A host with things, in the place of a connector. ``trouble``: how it answers many at once."""

    things: dict[str, str] = field(default_factory=lambda: dict.fromkeys(NAMES, "0"))
    trouble: str = ""
    executions: int = 0

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def run_shell_command(self, command: object, *_: Any, **given: Any) -> Any:
        self.executions += 1
        text = str(command)
        if "xargs" in text:
            return self._together(given["_stdin"])
        if set_ := re.fullmatch(r"set ([a-z]) (\S+)", text):
            self.things[set_[1]] = set_[2]
            return True, CommandOutput([])
        return self._said(self._lines(text))

    def put_file(self, source: Any, name: str, *_: Any, **__: Any) -> bool:
        self.executions += 1
        self.things[name] = source.read().decode()
        return True

    def _lines(self, script: str) -> list[str]:
        return ["== value", *(self.things[name] for name in _READS.findall(script)), "", END]

    def _together(self, stdin: Sequence[str]) -> Any:
        if self.trouble == "lost":
            raise TimeoutError
        archive = io.BytesIO(gzip.decompress(base64.b64decode("".join(stdin))))
        sizes = answers = b""
        with tarfile.open(fileobj=archive) as tar:
            for at, member in enumerate(tar):
                script = tar.extractfile(member)
                assert script is not None
                lines = self._lines(script.read().decode())
                said = "".join(f"{line}\n" for line in lines).encode()
                if not (self.trouble == "half" and at % 2):
                    sizes, answers = sizes + b"%d %d\n" % (at, len(said)), answers + said
        framed = b"%s\n%s" % (sizes, answers)
        if self.trouble == "cut":
            framed = framed[:-9]
        if self.trouble == "odd":
            return self._said(["nothing that is known"])
        return self._said([base64.b64encode(gzip.compress(framed)).decode()], self.trouble != "bad")

    @staticmethod
    def _said(lines: Sequence[str], done: bool = True) -> Any:
        return done, CommandOutput([OutputLine("stdout", line) for line in lines])


@dataclass
class Clock:
    now: float = 1000.0


Step = tuple[str, ...]


def run(machine: Machine, steps: Sequence[Step], file: Path, clock: Clock) -> list[str]:
    """What operations get to know in one run of these steps."""
    state = State(Inventory((["gpu1"], {})), Config())
    [host] = state.inventory
    connector: Any = machine
    host.connector, host.connected = connector, True
    found = []
    ahead.begin(file, "deploy.py")
    with ctx_state.use(state), ctx_host.use(host):
        for kind, *words in steps:
            if kind in ("look", "passing"):
                fact = Thing if kind == "look" else Passing
                try:
                    found.append(look(fact, thing=words[0]))
                except HostError as error:
                    found.append(str(error))
            elif kind == "command":
                StringCommand(f"set {words[0]} {words[1]}").execute(state, host, {})
            elif kind == "file":
                content = io.BytesIO(words[1].encode())
                FileUploadCommand(content, words[0]).execute(state, host, {})
            elif kind == "function":
                # Over a connection of its own, which nobody sees.
                change = machine.things.update
                FunctionCommand(
                    lambda state, host, change=change, words=words: change({words[0]: words[1]}),
                    (),
                    {},
                ).execute(state, host, {})
            elif kind == "wait":
                clock.now += ahead.FRESH + 1
                machine.things[words[0]] = words[1]
            elif kind == "executes":
                state.is_executing = True
                # Somebody was asked, and took his time.
                machine.things[words[0]] = words[1]
        state.is_executing = True
        state.current_stage = StateStage.Disconnect
        ahead.end(state)
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    yield clock
    ahead.end()


LOOKS: list[Step] = [("executes", "a", "0"), *(("look", name) for name in NAMES)]
_name = st.sampled_from(NAMES)
_value = st.sampled_from(["1", "2", "3", "bad"])
_step: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("look"), _name),
    st.tuples(st.just("look"), _name),
    st.tuples(st.just("look"), _name),
    st.tuples(st.just("passing"), _name),
    st.tuples(st.sampled_from(["command", "file", "function", "wait"]), _name, _value),
)
#: Prepared, and executed after somebody was asked.
_run = st.tuples(
    st.lists(_step, max_size=6),
    st.tuples(st.just("executes"), _name, _value),
    st.lists(_step, min_size=1, max_size=14),
).map(lambda parts: [*parts[0], parts[1], *parts[2]])
_TROUBLES = st.sampled_from(["", "", "", "half", "cut", "odd", "bad", "lost"])


@given(
    runs=st.lists(_run, min_size=1, max_size=4),
    between=st.lists(st.tuples(_name, _value), max_size=3),
    trouble=_TROUBLES,
)
@settings(
    deadline=None,
    max_examples=examples(20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_looks_and_changes_in_any_order_come_to_the_same(
    runs: list[list[Step]],
    between: list[tuple[str, str]],
    trouble: str,
    clock: Clock,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Runs one after the other, with changes of others between them; with and without it."""
    folder = tmp_path_factory.mktemp("runs")
    plain, looking = Machine(), Machine(trouble=trouble)
    # The first one has nothing to go by.
    for number, steps in enumerate([LOOKS * 2, *runs]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ahead.SWITCH, "0")
            expected = run(plain, steps, folder / "off.json", clock)
        assert run(looking, steps, folder / "on.json", clock) == expected
        for name, value in between[number:]:
            plain.things[name] = looking.things[name] = value
    assert not (folder / "off.json").exists()


def test_the_second_run_is_one_execution(tmp_path: Path, clock: Clock) -> None:
    machine, file = Machine(), tmp_path / "asked.json"
    assert run(machine, LOOKS, file, clock) == ["0"] * 4
    assert machine.executions == 4
    assert run(machine, LOOKS * 3, file, clock) == ["0"] * 12
    assert machine.executions == 5


def test_an_answer_does_not_count_for_long(tmp_path: Path, clock: Clock) -> None:
    """Whatever a run waited for, others had time to change something."""
    machine, file = Machine(), tmp_path / "asked.json"
    steps = [*LOOKS, ("wait", "d", "1"), *LOOKS[1:]]
    for _ in range(2):
        assert run(machine, steps, file, clock)[4:] == ["0", "0", "0", "1"]
        machine.things["d"] = "0"


def test_each_change_makes_it_ask_again_and_less_often(tmp_path: Path, clock: Clock) -> None:
    """Four looks after each of four changes: 4 + 4 x 4 of them without looking ahead."""
    machine, file = Machine(), tmp_path / "asked.json"
    steps = [*LOOKS, *[one for _ in range(4) for one in (("command", "a", "1"), *LOOKS[1:])]]
    run(machine, steps, file, clock)
    machine.executions = 0
    run(machine, steps, file, clock)
    # The first two are worth it, and then the host is seen to be one that changes.
    assert machine.executions - 4 == 1 + 1 + 2 + 4 + 4


def test_the_last_look_is_not_worth_it(tmp_path: Path, clock: Clock) -> None:
    machine, file = Machine(), tmp_path / "asked.json"
    run(machine, LOOKS[:2], file, clock)
    machine.trouble = "lost"
    assert run(machine, LOOKS[:2], file, clock) == ["0"]
    assert machine.executions == 2


def test_a_host_that_does_not_answer_many_at_once_is_asked_one_by_one(
    tmp_path: Path, clock: Clock
) -> None:
    machine, file = Machine(), tmp_path / "asked.json"
    run(machine, LOOKS, file, clock)
    machine.trouble, machine.executions = "bad", 0
    run(machine, LOOKS, file, clock)
    assert machine.executions == 1 + 4


def test_somebody_who_wants_to_see_each_command_sees_it(tmp_path: Path, clock: Clock) -> None:
    machine, file = Machine(), tmp_path / "asked.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "print_fact_input", True)
        for _ in range(2):
            run(machine, LOOKS, file, clock)
    assert machine.executions == 8
    run(machine, LOOKS, file, clock)
    assert machine.executions == 9


def test_hosts_that_left_are_forgotten(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "asked.json"
    one = asked.Question("OsRelease")
    asked.write(file, {"deploy.py": {"gone": (one,)}, "keys.py": {"gone": (one,)}})
    run(Machine(), LOOKS, file, clock)
    kept = asked.read(file)
    assert list(kept["deploy.py"]) == ["gpu1"] and list(kept["keys.py"]) == ["gone"]


#: Facts that say another thing a moment later without anybody changing anything, and why.
PASSING = {
    "AgentLog": "a program writes it",
    "AgentLogs": "a program writes it",
    "AgentStates": "waited for: health, restarts",
    "AgentsInspected": "health, times",
    "AgentsServed": "waited for: health",
    "AptVersions": "asked after the lists are read",
    "ComposeProject": "health",
    "DoctorLook": "asked once, by the doctor",
    "Doing": "what a host does now",
    "EdgeRuns": "asked while agents change",
    "FileTexts": "asked by drift, of what differs",
    "AnsweredInside": "waited for: an agent's answer",
    "BalancerSeen": "changes with each request",
    "BalancerState": "changes with each request",
    "HealthChecks": "Docker makes one every few seconds",
    "HostHistory": "asked by vllm-hosts history",
    "ImageRoom": "asked before and after an image is removed",
    "LockState": "who holds a host now",
    "RehearsalGrounds": "asked only about agents that change",
    "Rehearsals": "runs vLLM",
    "HostRemains": "asked by remove.py, each of whose steps changes it",
    "Released": "ends a run",
    "TokenUsage": "nginx writes the log",
    "VirtualState": "keepalived moves the address by itself",
    "Versions": "asked by remove.py, once",
}


def test_every_fact_is_known_to_stay_or_to_pass() -> None:
    for module, path in modules().items():
        if "(HostFact[" in path.read_text():
            import_module(module)
    facts = {
        fact.__name__: fact
        for fact in ahead._below(HostFact)
        if fact.__module__.startswith("vllm_hosts") and not fact.__name__.startswith("_")
    }
    passing = {name for name, fact in facts.items() if not fact.steady}
    assert passing == set(PASSING)
    names = [fact.__name__ for fact in ahead._below(HostFact) if fact.steady]
    assert len(names) == len(set(names))
