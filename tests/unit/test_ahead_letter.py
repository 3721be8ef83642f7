"""What is asked ahead, and for how long an answer counts, to the letter."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
from pyinfra import logger
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.api.state import StateStage

from vllm_hosts.facts import ahead, asked, touched
from vllm_hosts.facts.ahead import Query
from vllm_hosts.facts.asked import Question
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.host import frames


class Word(HostFact[str]):
    """A word that stays until somebody changes something."""

    steady = True

    def command(self, word: str) -> str:
        # Needed to read the answer, as some facts do.
        self.word = word
        return f"say {word}"

    def parse(self, lines: list[str]) -> str:
        return f"{self.word}: {' '.join(lines)}"


class Passing(Word):
    steady = False


class Another(FactBase[str]):
    """A fact of somebody's, which says nothing of that."""

    def command(self, word: str) -> str:
        return f"say {word}"


def question(word: str) -> Question:
    found = Question.of("Word", {"word": word})
    assert found is not None
    return found


def query(word: str) -> Query:
    return Query.of(Word, {"word": word})


class Host:
    """A host that is asked together what is to be known, and answers all of it."""

    def __init__(self, state: Any, name: str = "gpu1") -> None:
        self.state, self.name, self.connected = state, name, True
        self.current_op_global_arguments: Mapping[str, Any] | None = None
        self.together: list[list[str]] = []
        self.lacks: set[str] = set()

    def answered(self, looks: Sequence[Query], options: Mapping[str, Any]) -> dict[Query, Any]:
        self.together.append([one.command.removeprefix("say ") for one in looks])
        self.options = options
        return {one: lambda one=one: one.command for one in looks if one.command not in self.lacks}


class World:
    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.file, self.now, self.times = folder / "asked.json", 1000.0, 0
        self.lists: Any = {}
        self.written: list[Any] = []
        self.warned: list[str] = []
        self.asking = 0
        self.state: Any = SimpleNamespace(
            is_executing=True, print_fact_output=False, print_fact_input=False,
            current_stage=StateStage.Disconnect, failed_hosts=set(), inventory=[],
        )  # fmt: skip
        self.host = self.another("gpu1")
        patch.setattr(ahead, "_run", None)
        self.counts = 0
        patch.setattr(touched, "install", self._counting)
        patch.setattr(touched, "times", lambda host: self.times)
        patch.setattr(touched, "asking", self._asking)
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(asked, "read", self._read)
        patch.setattr(asked, "write", lambda *given: self.written.append(given))
        patch.setattr(logger, "warning", self.warned.append)
        patch.setattr(ahead, "asked_together", lambda host, *given: host.answered(*given))
        patch.setattr(ahead, "pop_global_arguments", lambda state, host, given: (given, []))
        patch.delenv(ahead.SWITCH, raising=False)

    @contextmanager
    def _asking(self, host: Any) -> Iterator[None]:
        self.asking += 1
        yield

    def _counting(self) -> None:
        self.counts += 1

    def _read(self, path: Path) -> Any:
        if isinstance(self.lists, Exception):
            raise self.lists
        return self.lists

    def another(self, name: str) -> Any:
        host = Host(self.state, name)
        self.state.inventory.append(host)
        return host

    def last(self, *words: str) -> None:
        self.lists = {"deploy.py": {"gpu1": tuple(map(question, words))}}
        ahead.begin(self.file, "deploy.py")

    def look(self, word: str, host: Any = None, fact: type[Any] = Word) -> Any:
        value = ahead.foreseen(host or self.host, fact, {"word": word})
        return value() if value else None


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


class TestQuery:
    def test_two_of_the_same_command_are_the_same(self) -> None:
        assert query("a") == query("a") != query("b")
        assert len({query("a"), query("a")}) == 1
        assert Query(Word, "x", {"word": "a"}) == Query(Word, "x", {"word": "b"})

    def test_its_answer_is_read_as_ever(self) -> None:
        assert query("a").read(["b", "c", END]) == "a: b c"


class TestRun:
    def test_what_the_last_run_asked_is_asked_at_once(self, world: World) -> None:
        world.last("a", "b", "c")
        assert [world.look(word) for word in "abc"] == ["say a", "say b", "say c"]
        assert world.host.together == [["a", "b", "c"]]
        assert (world.asking, world.counts) == (1, 1)
        # As pyinfra would run them.
        assert set(world.host.options) == set(CONNECTOR_ARGUMENT_KEYS)

    def test_what_it_did_not_ask_is_asked_alone(self, world: World) -> None:
        world.last("a", "b")
        assert world.look("x") is None
        assert world.look("a") == "say a"
        assert world.host.together == [["a", "b"]]

    def test_without_a_run_nothing_is_known(self, world: World) -> None:
        assert world.look("a") is None
        with ahead.strictly(world.host):
            pass
        ahead.end(world.state)
        assert world.written == []

    def test_what_passes_is_never_asked_ahead(self, world: World) -> None:
        world.last("a", "b")
        assert world.look("a", fact=Passing) is None
        assert world.look("a", fact=Another) is None
        assert world.host.together == []

    def test_what_is_no_plain_word_is_not_kept(self, world: World) -> None:
        world.last("a", "b")
        assert world.look("a b") is None
        world.look("a")
        ahead.end(world.state)
        assert world.written == [(world.file, {"deploy.py": {"gpu1": (question("a"),)}})]

    @pytest.mark.parametrize("value", ["0", "1"])
    def test_it_can_be_switched_off(
        self, world: World, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("VLLM_HOSTS_LOOKAHEAD", value)
        world.last("a", "b")
        assert world.look("a") == (None if value == "0" else "say a")
        ahead.end(world.state)
        assert bool(world.written) == (value == "1")

    def test_a_file_that_others_could_have_written_is_not_used(self, world: World) -> None:
        world.lists = PermissionError("x")
        ahead.begin(world.file, "deploy.py")
        assert world.warned == [
            f"{world.file} is not used, since others could have written it; remove it, and the next"
            " run makes another"
        ]
        assert world.look("a") is None

    def test_another_thing_that_is_run_has_its_own_list(self, world: World) -> None:
        world.last("a", "b")
        ahead.begin(world.file, "keys.py")
        assert world.look("a") is None


class TestFresh:
    def test_an_answer_counts_for_half_a_minute(self, world: World) -> None:
        world.last("a", "b", "c")
        world.look("a")
        world.now += 30.0
        assert world.look("b") == "say b" and len(world.host.together) == 1
        world.now += 0.1
        assert world.look("c") is None
        # One alone is asked as ever.
        assert world.host.together == [["a", "b", "c"]]

    def test_late_answers_were_not_wasted(self, world: World) -> None:
        world.last("a", "b", "c", "d")
        for word in "abc":
            world.look(word)
            world.now += 31
        assert world.host.together == [["a", "b", "c", "d"], ["b", "c", "d"], ["c", "d"]]

    def test_a_change_ends_it_and_each_makes_it_ask_less_often(self, world: World) -> None:
        world.last(*"abcdefghijklmnop")
        answers = []
        for word in "abcdefghijklm":
            answers.append(world.look(word) is not None)
            world.times += 1
        # First at once again, then after one look more, and after three.
        asked_at = [one[0] for one in world.host.together]
        assert asked_at == ["a", "b", "d", "h"]
        assert answers == [word in "abdh" for word in "abcdefghijklm"]

    def test_another_user_is_another_answer(self, world: World) -> None:
        world.last("a", "b", "c", "d")
        world.look("a")
        world.host.current_op_global_arguments = {"_sudo": True, "_env": {"A": "b"}, "name": "x"}
        world.look("b")
        assert [one[0] for one in world.host.together] == ["a", "b"]
        assert world.host.options["_sudo"] is True
        assert "name" not in world.host.options
        # The same options in another operation.
        world.host.current_op_global_arguments = dict(world.host.current_op_global_arguments)
        world.look("c")
        assert len(world.host.together) == 2

    def test_what_was_not_answered_is_not_tried_for_each_fact(self, world: World) -> None:
        world.last("a", "b", "c")
        world.host.lacks = {"say a", "say b", "say c"}
        assert [world.look(word) for word in "abc"] == [None] * 3
        assert len(world.host.together) == 1

    def test_each_stage_begins_anew(self, world: World) -> None:
        world.last("a", "b")
        world.state.is_executing = False
        world.look("a")
        world.look("b")
        world.state.is_executing = True
        assert world.look("a") == "say a"
        assert world.host.together == [["a", "b"], ["a", "b"]]
        ahead.end(world.state)
        # What was asked while the run executed, and no more.
        assert world.written == [(world.file, {"deploy.py": {"gpu1": (question("a"),)}})]


class TestMoment:
    """For what is asked alone, such as what containers do."""

    @pytest.fixture(autouse=True)
    def current(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ahead, "ctx_host", SimpleNamespace(get=lambda: world.host))

    def test_it_lasts_as_long_as_an_answer(self, world: World) -> None:
        world.last("a", "b")
        world.times = 5
        moment = ahead.Moment.now()
        assert moment == ahead.Moment(5, 1030.0)
        world.now += 30.0
        assert moment.lasts is True
        world.now += 0.1
        assert moment.lasts is False

    def test_a_change_ends_it(self, world: World) -> None:
        world.last("a", "b")
        moment = ahead.Moment.now()
        world.times += 1
        assert moment.lasts is False
        assert ahead.Moment.now().lasts is True
        with pytest.raises(FrozenInstanceError):
            moment.done = 1  # type: ignore[misc]

    def test_without_look_ahead_it_never_does(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert ahead.Moment.now() == ahead.Moment(0, 1030.0)
        assert ahead.Moment.now().lasts is False
        monkeypatch.setenv(ahead.SWITCH, "0")
        world.last("a", "b")
        assert ahead.Moment.now().lasts is False


class TestFollow:
    def test_where_a_run_leaves_something_out(self, world: World) -> None:
        world.last(*"abcdef")
        world.look("c")
        world.times += 1
        world.look("e")
        assert world.host.together == [["c", "d", "e", "f"], ["e", "f"]]

    def test_it_does_not_go_far_for_one_that_comes_again(self, world: World) -> None:
        words = [*"abcdefghijkl", "a"]
        world.last(*words)
        world.look("b")
        # The next "a" stands eleven looks further: this one is asked by itself, and not passed.
        world.look("a")
        world.times += 1
        world.look("c")
        assert world.host.together[1][0] == "c"
        assert set(world.host.together[1]) == {*words} - {"b"}

    def test_one_that_stands_there_once_is_gone_to_however_far(self, world: World) -> None:
        words = [f"w{number}" for number in range(30)]
        world.last(*words)
        world.look("w25")
        assert world.host.together == [words[25:]]
        # And never back.
        world.times += 1
        world.look("w3")
        assert world.host.together[1] == ["w3", *words[26:]]

    def test_one_that_comes_again_soon_is_the_next_one(self, world: World) -> None:
        world.last("a", "b", "a", "c")
        world.look("a")
        world.times += 1
        world.look("a")
        assert world.host.together == [["a", "b", "c"], ["a", "c"]]

    def test_ten_looks_are_near(self, world: World) -> None:
        world.last("x", "x", *"abcdefgh", "x", "y", "x", "z")
        world.look("x")
        world.look("x")
        world.look("x")
        world.times += 1
        world.look("y")
        assert world.host.together[1] == ["y", "x", "z"]


class TestShown:
    @pytest.mark.parametrize("name", ["print_fact_output", "print_fact_input"])
    def test_who_wants_to_see_each_command_sees_it(self, world: World, name: str) -> None:
        world.last("a", "b")
        setattr(world.state, name, True)
        assert world.look("a") is None
        assert world.host.together == []

    def test_a_host_that_is_not_connected_is_asked_as_ever(self, world: World) -> None:
        world.last("a", "b")
        world.host.connected = False
        assert world.look("a") is None

    def test_what_a_run_checks_at_its_end_is_asked_now(self, world: World) -> None:
        world.last(*"abcde")
        world.look("a")
        with ahead.strictly(world.host):
            assert world.look("b") == "say b"
        world.times += 1
        with ahead.strictly(world.host):
            assert world.look("c") is None
        with pytest.raises(ValueError), ahead.strictly(world.host):
            raise ValueError
        assert len(world.host.together) == 1
        # Whatever comes of it, the rest goes on as ever.
        assert world.look("c") == "say c"


class TestEnd:
    def kept(self, world: World, state: Any = None) -> Any:
        ahead.end(state or world.state)
        return world.written.pop()[1]["deploy.py"] if world.written else None

    def test_what_was_asked_is_kept_for_the_next_run(self, world: World) -> None:
        world.last("a", "b")
        world.lists["keys.py"] = {"gpu1": (question("k"),)}
        ahead.begin(world.file, "deploy.py")
        for word in ("b", "x"):
            world.look(word)
        ahead.end(world.state)
        assert world.written == [
            (
                world.file,
                {
                    "keys.py": {"gpu1": (question("k"),)},
                    "deploy.py": {"gpu1": (question("b"), question("x"))},
                },
            )
        ]
        # Once.
        ahead.end(world.state)
        assert len(world.written) == 1

    def test_the_same_is_not_written_again(self, world: World) -> None:
        world.last("a", "b")
        for word in "ab":
            world.look(word)
        assert self.kept(world) is None

    def test_of_a_run_that_was_cut_off_the_rest_is_what_it_was(self, world: World) -> None:
        for failed, stage in ((True, StateStage.Disconnect), (False, StateStage.Execute)):
            world.last("a", "b", "c")
            world.look("a")
            world.look("x")
            world.state.failed_hosts = {world.host} if failed else set()
            world.state.current_stage = stage
            assert self.kept(world) == {"gpu1": tuple(map(question, "axbc"))}

    def test_hosts_that_left_are_forgotten_and_others_stay(self, world: World) -> None:
        other = world.another("gpu2")
        world.last("a", "b")
        world.lists["deploy.py"] |= {"gpu2": (question("k"),), "gone": (question("k"),)}
        world.look("a")
        assert self.kept(world) == {"gpu1": (question("a"),), "gpu2": (question("k"),)}
        # One that was connected to and asked nothing.
        world.last("a", "b")
        world.lists["deploy.py"] |= {"gpu2": (question("k"),)}
        world.look("a b", other)
        world.look("x")
        assert self.kept(world)["gpu2"] == (question("k"),)

    def test_a_run_that_was_only_prepared_changes_nothing(self, world: World) -> None:
        world.last("a", "b")
        world.look("x")
        world.state.is_executing = False
        assert self.kept(world) is None
        world.last("a", "b")
        world.look("x")
        ahead.end(None)
        assert world.written == []
        # Of one of two hosts.
        world.last("a", "b")
        world.look("x")
        world.state.is_executing = True
        assert self.kept(world) is None


class TestTogether:
    """One execution, with the answers of frames.py."""

    class Machine:
        name = "gpu1"

        def __init__(self, lines: Sequence[str], done: bool = True) -> None:
            self.lines, self.done = lines, done
            self.given: dict[str, Any] = {}

        def run_shell_command(self, command: Any, **given: Any) -> Any:
            self.command, self.given = command.get_raw_value(), given
            if isinstance(self.lines, Exception):
                raise self.lines
            return self.done, SimpleNamespace(stdout_lines=self.lines)

    @pytest.fixture(autouse=True)
    def framed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames, "program", lambda shell: f"program of {shell}")
        monkeypatch.setattr(frames, "given", lambda scripts: list(scripts))
        said = lambda lines, count: [line.split() if line else None for line in lines]  # noqa: E731
        monkeypatch.setattr(frames, "answers", said)

    def asked(self, machine: Any, **options: Any) -> dict[str, Any]:
        found = ahead.asked_together(machine, [query("a"), query("b")], options)
        return {one.command: value() for one, value in found.items()}

    def test_each_answer_is_its_query_s(self) -> None:
        machine = self.Machine([f"1 {END}", f"2 3 {END}"])
        assert self.asked(machine, _sudo=True, _stdin="x", _shell_executable="bash") == {
            "say a": "a: 1",
            "say b": "b: 2 3",
        }
        assert machine.command == "program of bash"
        assert machine.given == {
            "print_output": False, "print_input": False, "_sudo": True, "_shell_executable": "bash",
            "_stdin": ["say a", "say b"], "_timeout": frames.PATIENCE + 20,
        }  # fmt: skip

    def test_a_limit_that_is_given_stays(self) -> None:
        machine = self.Machine([f"1 {END}", f"2 {END}"])
        self.asked(machine, _timeout=5)
        assert machine.given["_timeout"] == 5

    def test_one_that_has_none_is_asked_again(self) -> None:
        machine = self.Machine(["", f"2 {END}"])
        assert self.asked(machine) == {"say b": "b: 2"}
        assert machine.command == "program of sh"

    def test_an_execution_that_fails_has_none(self) -> None:
        assert self.asked(self.Machine([f"1 {END}", f"2 {END}"], done=False)) == {}
        for error in (OSError(), EOFError(), ValueError(), SSHException(), PyinfraError()):
            assert self.asked(self.Machine(error)) == {}  # type: ignore[arg-type]
        with pytest.raises(RuntimeError):
            self.asked(self.Machine(RuntimeError()))  # type: ignore[arg-type]


class TestKnown:
    def test_the_present_code_s_commands_alone(self) -> None:
        assert ahead._known(question("a")) == query("a")
        assert ahead._known(Question("Passing", '{"word":"a"}')) is None
        assert ahead._known(Question("Another", '{"word":"a"}')) is None
        assert ahead._known(Question("Nothing", '{"word":"a"}')) is None
        assert ahead._known(Question("Word", '{"other":"a"}')) is None

    def test_what_another_version_asked_is_left_out(self, world: World) -> None:
        world.lists = {"deploy.py": {"gpu1": (question("a"), Question("Nothing"), question("b"))}}
        ahead.begin(world.file, "deploy.py")
        world.look("a")
        assert world.host.together == [["a", "b"]]

    def test_the_last_look_is_not_worth_an_execution_of_its_own(self, world: World) -> None:
        world.last("a")
        assert world.look("a") is None
        assert world.host.together == [] and world.asking == 0


def test_it_is_on_where_nobody_says_otherwise() -> None:
    assert (ahead.SWITCH, ahead.FRESH) == ("VLLM_HOSTS_LOOKAHEAD", 30.0)
    assert asked.FILE == "asked.json" and os.sep not in asked.FILE
