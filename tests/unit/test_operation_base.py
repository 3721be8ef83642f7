"""What all operations share: a host's failure is its own, and work that takes long is seen."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra import logger
from pyinfra.api.command import StringCommand
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.connect import lock
from vllm_hosts.errors import HostError, LostError
from vllm_hosts.operations import base
from vllm_hosts.operations.base import Shown, Tried, fail, failure, host_operation, note, watched

OUTPUT = CommandOutput([OutputLine("stdout", "no disk")])


class Host:
    """One that a run is at; ``said`` has what was printed of it."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.executing_op_hash: str | None = "hash"
        self.done = True
        self.ran: list[dict[str, Any]] = []

    def log(self, text: str, **_: object) -> None:
        self.said.append(text)

    def log_styled(self, text: str, fg: str, log_func: Any) -> None:
        self.said.append((text, fg, log_func))

    def run_shell_command(self, command: object, **given: Any) -> Any:
        self.ran.append({"command": command, **given})
        return self.done, OUTPUT


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def state() -> Any:
    meta = SimpleNamespace(names={"Something is made"})
    return SimpleNamespace(
        is_executing=True,
        print_input="as asked",
        get_op_meta=lambda op_hash: {"hash": meta}[op_hash],
    )


class Yields:
    """An operation that yields ``a``, then raises or yields ``b``."""

    def __init__(self, patch: pytest.MonkeyPatch, host: Host, state: Any) -> None:
        self.host, self.state = host, state
        self.error: Exception | None = None
        self.history: list[str] = []
        self.foreseen: list[Any] = []
        self.refused, self.prepared, self.closed = False, False, 0
        patch.setattr(lock, "changing", self.history.append)
        patch.setattr(base, "refused", lambda: self.refused)
        patch.setattr(base, "would_fail", self.would_fail)

        def making(word: str) -> Any:
            """What it makes."""
            try:
                yield f"{word}1"
                if self.error:
                    raise self.error
                yield f"{word}2"
            finally:
                self.closed += 1

        self.operation: Any = host_operation(making)

    def would_fail(self, sentence: str, *, lost: bool) -> bool:
        self.foreseen.append((sentence, lost))
        return self.prepared

    def commands(self) -> Iterator[Any]:
        with ctx_state.use(self.state), ctx_host.use(self.host):
            yield from self.operation._inner("a")

    def run(self) -> list[Any]:
        found = list(self.commands())
        return [one if isinstance(one, str) else one.args for one in found]


@pytest.fixture
def yields(monkeypatch: pytest.MonkeyPatch, host: Host, state: Any) -> Yields:
    return Yields(monkeypatch, host, state)


class TestGuarded:
    def test_each_change_stands_in_the_history_before_it_is_made(self, yields: Yields) -> None:
        commands = yields.commands()
        assert next(commands) == "a1"
        assert yields.history == ["Something is made"]
        assert list(commands) == ["a2"]
        assert yields.history == ["Something is made"] * 2
        assert yields.operation._inner.__doc__ == "What it makes."

    def test_what_is_only_prepared_does_not(self, yields: Yields) -> None:
        yields.state.is_executing = False
        assert yields.run() == ["a1", "a2"]
        yields.state.is_executing, yields.host.executing_op_hash = True, None
        yields.run()
        assert yields.history == []

    def test_a_host_that_was_refused_is_asked_nothing(self, yields: Yields) -> None:
        yields.refused = True
        assert yields.run() == []
        assert yields.closed == 0

    @pytest.mark.parametrize(("error", "lost"), [(HostError, False), (LostError, True)])
    def test_a_sentence_fails_this_host_alone(
        self, yields: Yields, error: type[HostError], lost: bool
    ) -> None:
        yields.error = error("no disk")
        assert yields.run() == ["a1", ("no disk",)]
        assert yields.foreseen == [("no disk", lost)]
        # While a run is prepared it is refused.
        yields.prepared = True
        assert yields.run() == ["a1"]

    def test_a_fault_of_ours_does_not_end_the_run_for_others(self, yields: Yields) -> None:
        yields.error = KeyError("odd")
        assert yields.run() == ["a1", ("internal error in making: KeyError('odd')",)]
        assert yields.foreseen == []

    def test_what_holds_something_is_closed_with_it(self, yields: Yields) -> None:
        """pyinfra closes an operation whose command failed."""
        commands: Any = yields.commands()
        next(commands)
        commands.close()
        assert yields.closed == 1


class TestSentences:
    def test_a_host_fails_with_one_that_is_safe_to_print(self, host: Host, state: Any) -> None:
        command = failure("no\x1b[2J disk")
        assert command.function is fail
        assert fail(state, host, *command.args) is False  # type: ignore[arg-type]
        assert host.said == [("no disk", "red", logger.error)]

    def test_a_note_fails_nobody(self, host: Host, state: Any) -> None:
        command: Any = note("going\x1b[2J on")
        assert command.function(state, host, *command.args) is True
        assert host.said == ["    going on"]
        assert command.kwargs == failure("x").kwargs == {}


class TestShown:
    def execute(self, command: Any, host: Host, state: Any) -> Any:
        return command.execute(state, host, {"_sudo": True, "_env": {"A": "b"}})

    def test_its_output_is_seen_as_it_comes_and_not_again(self, host: Host, state: Any) -> None:
        command = Shown("apt-get", _env={"C": "d"})
        assert self.execute(command, host, state) == (True, OUTPUT)
        assert host.ran == [
            {
                "command": command,
                "print_output": True,
                "print_input": "as asked",
                "_sudo": True,
                "_env": {"C": "d"},
            }
        ]
        host.done = False
        done, output = self.execute(command, host, state)
        assert (done, list(output)) == (False, [])

    def test_what_is_done_where_it_fails(self, host: Host, state: Any) -> None:
        asked: list[str] = []

        def otherwise() -> str | None:
            asked.append("x")
            return self.sentence

        self.sentence: str | None = "those of before are back"
        command = Tried(Shown("up", "now", _env={"C": "d"}), otherwise)
        assert (str(command), command.connector_arguments) == ("up now", {"_env": {"C": "d"}})
        assert self.execute(command, host, state)[0] is True
        assert (asked, host.said) == ([], [])
        host.done = False
        assert self.execute(command, host, state)[0] is False
        assert host.said == [(self.sentence, "red", logger.error)]
        self.sentence = None
        assert self.execute(command, host, state)[0] is False
        assert (len(asked), len(host.said)) == (2, 1)

    def test_what_a_command_printed_is_heard_once_it_is_done(self, host: Host, state: Any) -> None:
        heard: list[str] = []
        assert type(watched("x", "up")) is Shown
        command = watched("x", "up", heard=heard.append)
        assert str(command) == str(watched("x", "up"))
        host.done = False
        assert self.execute(command, host, state)[0] is False
        assert heard == []
        host.done = True
        assert self.execute(command, host, state) == (True, OUTPUT)
        assert heard == ["no disk"]


class TestWatched:
    """The script itself, run here; its seconds are shorter."""

    def run(
        self, folder: Path, script: str, *, before: str = "", **words: Any
    ) -> subprocess.CompletedProcess[str]:
        command = watched("fetching", script, **words)
        text = command.get_raw_value().replace("/run/", f"{folder}/")
        text = text.replace("sleep 1; waited", "sleep 0.02; waited")
        return subprocess.run(
            ["sh", "-c", f"umask 022\n{before}{text}"], capture_output=True, text=True, check=False,
            input="mine\n", timeout=20,
        )  # fmt: skip

    def test_what_goes_well_says_nothing_and_leaves_nothing(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "  echo one; cat; stat -c %a " + f"{tmp_path}/vllm-hosts.*\n  ")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert list(tmp_path.iterdir()) == []

    def test_its_log_is_nobody_s_business(self, tmp_path: Path) -> None:
        self.run(
            tmp_path,
            f"stat -c %a {tmp_path}/vllm-hosts.* >{tmp_path}/seen; umask >>{tmp_path}/seen",
        )
        assert (tmp_path / "seen").read_text() == "600\n0077\n"

    def test_what_fails_shows_its_last_lines(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "seq 30; echo odd >&2; exit 7")
        assert done.returncode == 1
        assert done.stderr.splitlines() == [*map(str, range(12, 31)), "odd"]
        assert done.stdout == ""
        done = self.run(tmp_path, "seq 30; false", tail=2)
        assert done.stderr == "29\n30\n"
        assert list(tmp_path.iterdir()) == []

    def test_people_who_wait_see_how_far_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base, "OFTEN", 5)
        script = (
            f"printf 'a\\n%s\\r' {'x' * 120}; until [ -e {tmp_path}/enough ]; do sleep 0.01; done"
        )
        # After so many reports it ends.
        before = f'echo() {{ printf "%s\\n" "$*" | tee -a {tmp_path}/said;' + (
            f" [ $(wc -l <{tmp_path}/said) -lt 3 ] || : >{tmp_path}/enough; }}\n"
        )
        done = self.run(tmp_path, script, before=before, seconds=2)
        assert done.returncode == 0
        first, second, third = done.stdout.splitlines()[:3]
        assert first == f"    fetching: 2 s, {'x' * 100}"
        assert second == f"    fetching: 7 s, {'x' * 100}"
        assert third.startswith("    fetching: 12 s, ")

    def test_a_line_for_people_may_come_from_another_program(self, tmp_path: Path) -> None:
        script = f"echo a b c; until [ -e {tmp_path}/enough ]; do sleep 0.01; done"
        before = f'echo() {{ printf "%s\\n" "$*"; [ "$1" = a ] || : >{tmp_path}/enough; }}\n'
        done = self.run(tmp_path, script, before=before, seconds=2, summary="wc -w")
        assert done.stdout.splitlines()[0] == "    fetching: 2 s, 3"

    def test_when_it_is_said_where_nobody_says_otherwise(self) -> None:
        text = watched("fetching", "true").get_raw_value()
        assert "due=10\n" in text and "due=$((waited + 30))" in text
        assert "$(tail -n 1 <" in text and "tail -n 20 " in text
        assert isinstance(watched("fetching", "true"), StringCommand)

    def test_a_run_that_is_cut_off_leaves_no_log(self, tmp_path: Path) -> None:
        text = watched("x", "exec sleep 5").get_raw_value().replace("/run/", f"{tmp_path}/")
        text = text.replace("sleep 1; waited", "sleep 0.02; waited")
        one = subprocess.Popen(["sh", "-c", text])
        until = time.monotonic() + 10
        while not list(tmp_path.iterdir()) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        one.terminate()
        assert one.wait(timeout=10) == 1
        assert list(tmp_path.iterdir()) == []
