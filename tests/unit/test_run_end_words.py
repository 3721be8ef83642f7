"""How a run ends, within this process: exit codes of signals, who is left, and what to type."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_host

from vllm_hosts.operations.foreseen import refuse_for_good
from vllm_hosts.project import ending

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def listening() -> Iterator[None]:
    """Signals as they were, whatever a test makes of them."""
    # These tests themselves may run under nohup.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    ending.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def nobody_reads() -> Iterator[None]:
    """Both outputs are a pipe that nobody reads any more."""
    outputs = {number: os.dup(number) for number in (1, 2)}
    reading, writing = os.pipe()
    for number in outputs:
        os.dup2(writing, number)
    os.close(writing)
    os.close(reading)
    try:
        yield
    finally:
        for number, copy in outputs.items():
            os.dup2(copy, number)
            os.close(copy)


@pytest.mark.usefixtures("listening")
class TestSignals:
    @pytest.mark.parametrize(
        ("number", "code", "words"),
        [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")],
    )
    def test_the_first_one_stops_the_run_and_says_what_goes_on(
        self, number: signal.Signals, code: int, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(ending.StoppedError) as stopped:
            signal.raise_signal(number)
        assert stopped.value.code == code
        # A terminal shows ^C in a line that is not ended.
        assert capsys.readouterr() == (
            "",
            f"\n--> The run is stopped: {words}\n"
            "    What is being done on hosts at this moment continues there to its end, and the"
            " next run waits for it.\n",
        )

    def test_a_terminal_that_is_closed_stops_it_though_nothing_can_be_written(self) -> None:
        with nobody_reads():
            with pytest.raises(ending.StoppedError) as stopped:
                signal.raise_signal(signal.SIGHUP)
            # What is said afterwards stops it no other way.
            written = [os.write(number, b"more") for number in (1, 2)]
        assert written == [4, 4]
        assert stopped.value.code == 129

    def test_it_stops_though_the_same_key_ended_who_reads_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`pyinfra ... 2>&1 | tee log`, and Ctrl-C."""

        def gone(*_: object, **__: object) -> None:
            raise BrokenPipeError

        monkeypatch.setattr(click, "echo", gone)
        with nobody_reads():
            with pytest.raises(ending.StoppedError) as stopped:
                signal.raise_signal(signal.SIGINT)
            written = [os.write(number, b"more") for number in (1, 2)]
        assert written == [4, 4]
        assert stopped.value.code == 130

    def test_whatever_it_said_the_second_one_ends_it_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ending.StoppedError):
            signal.raise_signal(signal.SIGINT)

        def ended(code: int) -> None:
            raise InterruptedError(code)

        monkeypatch.setattr(os, "_exit", ended)
        with pytest.raises(InterruptedError, match="143"):
            signal.raise_signal(signal.SIGTERM)

    def test_another_run_of_this_process_begins_anew(self) -> None:
        for _ in range(2):
            with pytest.raises(ending.StoppedError):
                signal.raise_signal(signal.SIGINT)
            ending.listen()

    def test_what_nohup_ignores_stays_ignored(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        ending.listen()
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert callable(signal.getsignal(signal.SIGINT))


def test_a_run_that_nobody_confirms_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ending.declined()
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "--> Not confirmed; nothing more was changed\n")


def run(stage: StateStage, *, failed: str = "", reached: str = "abc") -> State:
    """A run over hosts a, b and c that has come to this stage."""
    state = State(Inventory((["a", "b", "c"], {})), Config())
    state.current_stage = stage
    for host in state.inventory:
        if host.name in failed:
            state.failed_hosts.add(host)
        if host.name in reached:
            state.activated_hosts.add(host)
    return state


@pytest.mark.parametrize(
    ("state", "left"),
    [
        # Interrupted in the middle: nobody knows how far each is.
        (run(StateStage.Execute), "abc"),
        (run(StateStage.Execute, failed="b"), "abc"),
        # All operations are done.
        (run(StateStage.Disconnect), ""),
        (run(StateStage.Disconnect, failed="b"), "b"),
        (run(StateStage.Disconnect, failed="b", reached="ab"), "bc"),
        # Stopped before anything was done: a question that was answered with no.
        (run(StateStage.Prepare), ""),
        (run(StateStage.Prepare, failed="c", reached="bc"), "ac"),
        (run(StateStage.Connect, reached=""), ""),
    ],
)
def test_who_is_not_finished(state: State, left: str) -> None:
    assert ending.unfinished([*state.inventory], state) == [*left]


def test_a_run_that_was_refused_has_left_nobody_behind() -> None:
    assert ending.unfinished([], run(StateStage.Execute, failed="a")) == []


def said(
    state: State, capsys: pytest.CaptureFixture[str], *names: str, further: str = ""
) -> list[str]:
    chosen = [host for host in state.inventory if not names or host.name in names]
    file = Path("inventory/prod.py")
    ending.say_how_to_retry(lambda: chosen, state, file, "deploy.py", further)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_the_last_words_are_what_to_type_for_those_that_are_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said(run(StateStage.Disconnect, failed="bc"), capsys) == [
        "--> Not finished: b, c",
        "    Finished work is not repeated. To try again, run:",
        "    pyinfra --limit b --limit c inventory/prod.py deploy.py",
    ]
    # Everybody: no list of a thousand names.
    assert said(run(StateStage.Execute), capsys)[2] == "    pyinfra inventory/prod.py deploy.py"
    assert said(run(StateStage.Disconnect), capsys) == []


def test_a_run_for_some_hosts_is_not_repeated_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    words = said(run(StateStage.Execute), capsys, "a", "b")
    assert words[2] == "    pyinfra --limit a --limit b inventory/prod.py deploy.py"


def test_what_is_refused_for_good_is_not_to_be_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = run(StateStage.Disconnect, failed="bc")

    def refuse(name: str) -> None:
        with ctx_host.use(state.inventory.get_host(name)):
            refuse_for_good()

    refuse("b")
    assert said(state, capsys) == [
        "--> Not finished: b, c",
        "    b: the same command would be refused again; above is why, and what to do",
        "    Finished work is not repeated. To try again, run:",
        "    pyinfra --limit c inventory/prod.py deploy.py",
    ]
    refuse("c")
    assert said(state, capsys) == [
        "--> Not finished: b, c",
        "    The same command would be refused again; above is why, and what to do",
    ]
    # Another run of this process has hosts of its own.
    assert said(run(StateStage.Disconnect, failed="b"), capsys)[2].endswith("deploy.py")


def test_what_the_run_was_told_is_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    state = run(StateStage.Disconnect, failed="b")
    more = "--data remove_models=true "
    line = said(state, capsys, further=more)[2]
    assert line == "    pyinfra --data remove_models=true --limit b inventory/prod.py deploy.py"
    line = said(run(StateStage.Execute), capsys, further=more)[2]
    assert line == "    pyinfra --data remove_models=true inventory/prod.py deploy.py"


def test_a_name_is_one_word_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    state = State(Inventory((["a b", "c"], {})), Config())
    state.current_stage = StateStage.Disconnect
    state.activated_hosts.update(state.inventory)
    state.failed_hosts.add(state.inventory.get_host("a b"))
    assert "--limit 'a b' inventory" in said(state, capsys)[2]
