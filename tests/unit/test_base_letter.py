"""How facts are asked and read, to the letter: what is not whole is never an answer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.facts import FactBase

from tests.unit.fakes import docker as program_folder
from vllm_hosts.errors import HostError, LostError
from vllm_hosts.facts import ahead, base, touched
from vllm_hosts.facts.base import END, HostFact, as_user, ending, has_ended, look, sections


class Word(HostFact[str]):
    what = "a word"
    seconds = 7

    def command(self) -> str:
        return ending("echo word")

    def parse(self, lines: list[str]) -> str:
        if lines[0] == "odd":
            raise ValueError("odd")
        return " ".join(lines)


class TestProcess:
    @pytest.mark.parametrize("after", [[], [""], ["", ""]])
    def test_a_whole_answer(self, after: list[str]) -> None:
        assert Word().process(["a", "", END, *after]) == "a "

    @pytest.mark.parametrize("lines", [[], [""], ["a"], [END, "a"], [f"{END}x"], ["a", f" {END}"]])
    def test_one_that_was_cut_short(self, lines: list[str]) -> None:
        with pytest.raises(HostError) as refused:
            Word().process(lines)
        assert str(refused.value) == "a word could not be read: the answer was cut short"

    def test_one_that_is_odd(self) -> None:
        with pytest.raises(HostError) as refused:
            Word().process(["odd", END])
        assert str(refused.value) == "a word could not be understood: ValueError('odd')"
        with pytest.raises(HostError, match="a word could not be understood: IndexError"):
            Word().process([END])

    @pytest.mark.parametrize("kind", [ArithmeticError, AttributeError, TypeError, LookupError])
    def test_whatever_a_reader_stumbles_over(self, kind: type[Exception]) -> None:
        class Stumbles(Word):
            def parse(self, lines: list[str]) -> str:
                raise kind("x")

        with pytest.raises(HostError, match="could not be understood"):
            Stumbles().process([END])

    def test_a_fault_of_our_own_is_none_of_the_host_s(self) -> None:
        class Faulty(Word):
            def parse(self, lines: list[str]) -> str:
                raise RuntimeError("x")

        with pytest.raises(RuntimeError):
            Faulty().process([END])

    def test_what_is_not_said_of_a_fact(self) -> None:
        assert HostFact.abstract
        assert (HostFact.what, HostFact.seconds, HostFact.steady) == (
            "the host's state",
            300,
            False,
        )
        with pytest.raises(NotImplementedError):
            HostFact[str]().parse([])


def test_a_script_ends_with_its_mark_on_a_line_of_its_own() -> None:
    assert ending("\n  printf '%s' \"$LC_ALL\"\n ") == (
        f"export LC_ALL=C\nprintf '%s' \"$LC_ALL\"\necho\necho {END}"
    )
    said = subprocess.run(["sh", "-c", ending("printf a")], capture_output=True, text=True)
    assert said.stdout == f"a\n{END}\n"


def test_sections() -> None:
    lines = ["before", "== a", "1", "", "2", "==b", "== c d", "== a", "== e", " x"]
    assert sections(lines) == {"a": [], "c d": [], "e": [" x"]}
    assert sections(lines[:6]) == {"a": ["1", "2", "==b"]}
    assert sections(["x"]) == {}


class TestAsUser:
    """Programs are stand-ins, which say what they are given."""

    def run(self, folder: Any, script: str, *, root: bool = True) -> Any:
        environment = program_folder(folder, "exit 1")
        for name, text in (
            ("id", f"[ $1 = -u ] && echo {0 if root else 1000}"),
            ("setpriv", 'while [ "$1" != sh ]; do echo "$1"; shift; done; exec "$@"'),
            ("timeout", 'echo "$1 $2 $3"; shift 3; exec "$@"'),
        ):
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / "bin" / name).chmod(0o755)
        return subprocess.run(
            ["sh", "-c", script], env=environment, capture_output=True, text=True,
            check=False, input="by the pipe\n",
        )  # fmt: skip

    def test_it_looks_with_that_user_s_rights(self, tmp_path: Any) -> None:
        done = self.run(tmp_path, as_user("7:8", 'echo "it\'s" $1; cat', arguments="'a b'"))
        assert done.stdout.splitlines() == [
            *("-k 5 60", "--reuid", "7", "--regid", "8", "--clear-groups", "--no-new-privs"),
            *("--inh-caps=-all", "it's a b"),
        ]
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_login_that_is_not_root_looks_with_its_own(self, tmp_path: Any) -> None:
        script = as_user("7:8", "cat", given="", seconds=3)
        done = self.run(tmp_path, script, root=False)
        assert done.stdout.splitlines() == ["-k 5 3", "by the pipe"]

    def test_one_that_failed_is_no_answer(self, tmp_path: Any) -> None:
        done = self.run(tmp_path, f"{as_user('7:8', 'exit 3', seconds=9)}; echo on")
        assert done.returncode == 1
        assert done.stderr == "looking as user 7 took 9 s, or failed\n"
        assert "on" not in done.stdout.splitlines()


class Host:
    """A host, of which what pyinfra says is made up."""

    name = "gpu1"
    state = "the run's"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connector: Any = SimpleNamespace()
        self.foreseen: Callable[[], Any] | None = None
        self.answer: Any = "word"
        self.asked: list[Any] = []
        self.looking = 0
        self.now = 0.0
        self.takes = 0.0
        self.noted: list[str] = []
        monkeypatch.setattr(base, "ctx_host", SimpleNamespace(get=lambda: self))
        monkeypatch.setattr(base, "get_fact", self.get_fact)
        monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(base, "logger", SimpleNamespace(debug=self.noted.append))
        monkeypatch.setattr(touched, "asking", self.asking)
        monkeypatch.setattr(ahead, "foreseen", lambda *about: self.ahead(*about))

    def ahead(self, host: object, fact: object, arguments: object) -> Any:
        assert (host, fact, arguments) == (self, Word, {"a": 1})
        return self.foreseen

    @contextmanager
    def asking(self, host: object) -> Iterator[None]:
        assert host is self
        self.looking += 1
        yield
        self.looking -= 1

    def get_fact(self, state: object, host: object, fact: type, **how: Any) -> Any:
        assert (state, host, fact, self.looking) == (self.state, self, Word, 1)
        self.asked.append(how)
        self.now += self.takes
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def ended(self) -> None:
        self.connector.client = SimpleNamespace(get_transport=lambda: None)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


class TestLook:
    def test_it_is_asked_in_time(self, host: Host) -> None:
        assert look(Word, a=1) == "word"
        assert host.asked == [{"kwargs": {"_timeout": 7, "a": 1}, "apply_failed_hosts": False}]

    def test_what_was_asked_ahead_is_not_asked_again(self, host: Host) -> None:
        host.foreseen = lambda: "before"
        assert (look(Word, a=1), host.asked) == ("before", [])

    def test_what_was_not_understood_ahead_is(self, host: Host) -> None:
        host.foreseen = lambda: Word().process([])
        assert look(Word, a=1) == "word"
        assert host.noted == [
            "gpu1: Word was not understood ahead:"
            " HostError('a word could not be read: the answer was cut short')"
        ]

    def test_no_answer(self, host: Host) -> None:
        host.answer, host.takes = Word.default(), 6.9
        with pytest.raises(HostError) as refused:
            look(Word, a=1)
        assert str(refused.value) == "a word could not be read; see the host's output above"

    def test_no_answer_in_time(self, host: Host) -> None:
        host.answer, host.takes, host.now = Word.default(), 7, 100
        with pytest.raises(HostError, match="a word could not be read within 7 s: something on"):
            look(Word, a=1)

    @pytest.mark.parametrize("how", ["in the middle", "before"])
    def test_a_connection_that_ended(self, host: Host, how: str) -> None:
        host.answer, host.takes = Word.default(), 9
        if how == "before":
            host.answer = EOFError()
        else:
            host.ended()
        with pytest.raises(LostError) as lost:
            look(Word, a=1)
        assert str(lost.value) == (
            "the connection was lost midway; run the command again, and check sshd's journal there"
            " if it happens again"
        )


def test_which_connection_has_ended(host: Host) -> None:
    assert not has_ended(host)  # type: ignore[arg-type]
    for client, ended in (
        (None, False),
        (SimpleNamespace(get_transport=lambda: None), True),
        (SimpleNamespace(get_transport=lambda: SimpleNamespace(is_active=lambda: False)), True),
        (SimpleNamespace(get_transport=lambda: SimpleNamespace(is_active=lambda: True)), False),
    ):
        host.connector.client = client
        assert has_ended(host) is ended  # type: ignore[arg-type]


def test_types_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And pyinfra is left alone where it has no such function, or does so itself."""
    made = SimpleNamespace(all_global_arguments=lambda: object())
    monkeypatch.setitem(base.sys.modules, FactBase.__module__, made)  # type: ignore[attr-defined]
    base._types_once()
    once = made.all_global_arguments
    assert once() is once()
    base._types_once()
    assert made.all_global_arguments is once
    del made.all_global_arguments
    base._types_once()
    assert not vars(made)
