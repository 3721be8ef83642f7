"""A command that goes on beside others, in shells of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from pyinfra.api.command import FunctionCommand
from pyinfra.context import ctx_host

from vllm_hosts.connect import alongside, lock
from vllm_hosts.facts.base import LOST
from vllm_hosts.operations import locked
from vllm_hosts.operations import meanwhile as operations
from vllm_hosts.operations.base import Shown


class Host:
    """As much of one as is asked for; ``active``: its connection is there."""

    name = "gpu1"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.active = True
        self.transport = SimpleNamespace(is_active=lambda: self.active)
        client = SimpleNamespace(get_transport=lambda: self.transport)
        self.connector = SimpleNamespace(client=client)

    def log(self, line: str) -> None:
        self.said.append(line)

    def log_styled(self, line: str, **_: object) -> None:
        self.said.append(line)


STATE: Any = None


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(alongside, "opened", lambda _, __, script: lock._Here(script, []))
    found = Host()
    yield found
    alongside.end(found)  # type: ignore[arg-type]


def soon(true: Callable[[], object]) -> None:
    for _ in range(200):
        if true():
            return
        gevent.sleep(0.05)
    raise AssertionError("that does not happen")


def test_it_goes_on_while_others_are_at_work(host: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"echo '    one'; until [ -e {go} ]; do sleep 0.05; done; printf 't\\033[2Jwo\\n'"
    assert alongside.begin(STATE, host, waits)
    soon(lambda: host.said == ["    one"])
    assert alongside.has_begun(host)
    assert alongside._begun[host].code is None
    go.touch()
    assert operations._await(STATE, host, "pulling it")
    assert host.said == ["    one", "    two"]
    assert not alongside.has_begun(host)


def test_it_reads_nothing_and_leaves_nothing(host: Any, tmp_path: Path) -> None:
    asked = f"cat >{tmp_path}/given; echo $$ >{tmp_path}/pid"
    assert operations._begin(STATE, host, asked)
    assert operations._await(STATE, host, "pulling it")
    assert (tmp_path / "given").read_text() == ""
    assert host.said == []


def test_how_it_failed_is_said(host: Any) -> None:
    alongside.begin(STATE, host, "echo 'no room' >&2; echo 'at all' >&2; exit 3")
    assert not operations._await(STATE, host, "pulling it")
    assert host.said == ["no room", "at all"]


def test_where_it_says_nothing_its_name_stands_for_it(host: Any) -> None:
    alongside.begin(STATE, host, "exit 1")
    assert not operations._await(STATE, host, "pulling it")
    assert host.said == ["pulling it was ended on the host"]


@pytest.mark.parametrize("active", [True, False])
def test_it_was_cut_off(host: Any, active: bool) -> None:
    host.active = active
    alongside.begin(STATE, host, "kill -9 $$")
    assert not operations._await(STATE, host, "pulling it")
    assert host.said == ["pulling it was ended on the host" if active else LOST]


def test_a_run_that_fails_ends_it_with_all_that_it_started(host: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        f"trap 'rm -f {tmp_path}/work' EXIT; trap 'exit 1' TERM; touch {tmp_path}/work;"
        f" sleep 60 & echo $! >{pids}.new; mv {pids}.new {pids}; wait"
    )
    alongside.begin(STATE, host, script)
    soon(pids.exists)
    pid = int(pids.read_text())
    state: Any = SimpleNamespace(get_op_meta=lambda _: SimpleNamespace(names={"nginx"}))
    locked.Releasing.operation_host_error(state, host, "hash")
    assert not alongside.has_begun(host)
    soon(lambda: not Path(f"/proc/{pid}").exists() or _dead(pid))
    soon(lambda: not (tmp_path / "work").exists())


def _dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_that_is_cut_off_goes_on(host: Any, tmp_path: Path) -> None:
    """As any command of a run does, whose connection ends."""
    go, done = tmp_path / "go", tmp_path / "done"
    alongside.begin(STATE, host, f"until [ -e {go} ]; do sleep 0.05; done; touch {done}")
    found = alongside._begun.pop(host)
    found.channel._process.stdin.close()  # type: ignore[attr-defined]
    time.sleep(0.2)
    go.touch()
    soon(done.exists)


def test_one_without_a_session_is_not_begun(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError("administratively prohibited")

    monkeypatch.setattr(alongside, "opened", refuses)
    assert operations._begin(STATE, host, "true")
    assert not alongside.has_begun(host)
    monkeypatch.setattr(alongside, "opened", lambda *_: gevent.sleep(60))
    monkeypatch.setattr(alongside, "_OPENING", 0.01)
    assert not alongside.begin(STATE, host, "true")
    alongside.end(host)


def test_nobody_is_asked_twice(host: Any) -> None:
    alongside.begin(STATE, host, "true")
    assert alongside.ended(host) == (0, "")
    assert not alongside.has_begun(host)


class Spoken:
    """A session whose shell is not there."""

    def __init__(self, *lines: str, errors: str = "") -> None:
        self.lines, self.said = list(lines), errors
        self.heard: list[str] = []
        self.closed = False

    def send(self, text: str) -> None:
        self.heard.append(text)

    def line(self) -> str:
        if not self.lines:
            raise OSError("the connection is gone")
        return self.lines.pop(0)

    def errors(self) -> str:
        return self.said

    def close(self) -> None:
        self.closed = True


def spoken(host: Any, monkeypatch: pytest.MonkeyPatch, session: Spoken) -> Spoken:
    monkeypatch.setattr(alongside, "opened", lambda *_: session)
    assert alongside.begin(STATE, host, "true")
    return session


def test_what_it_prints_is_bounded_and_a_lost_connection_ends_it(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = spoken(host, monkeypatch, Spoken("x" * 301 + "\n", "\n", errors="gone"))
    assert alongside.ended(host) == (None, "gone")
    assert host.said == [f"    {'x' * 300} ..."]
    assert session.closed


def test_its_end_is_waited_for_as_long_as_it_takes(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alongside, "_ENDING", 0.01)
    alongside.begin(STATE, host, "sleep 0.3; exit 4")
    assert alongside.ended(host)[0] == 4


@pytest.mark.parametrize("asked", [alongside.ended, alongside.end])
def test_a_session_that_does_not_end_keeps_nobody(
    host: Any, monkeypatch: pytest.MonkeyPatch, asked: Callable[[Any], object]
) -> None:
    """Or fails as it is closed."""
    assert alongside._ENDING == 10
    assert alongside._OPENING == 60
    session = spoken(host, monkeypatch, Spoken("vllm-hosts-ended 0\n"))
    monkeypatch.setattr(alongside, "_ENDING", 0.01)
    monkeypatch.setattr(session, "close", lambda: gevent.sleep(60))
    begun = time.monotonic()
    assert asked(host) in ((0, ""), None)
    assert time.monotonic() - begun < 30
    session = spoken(host, monkeypatch, Spoken("vllm-hosts-ended 0\n"))

    def fails() -> None:
        raise OSError("the connection is gone")

    monkeypatch.setattr(session, "close", fails)
    assert asked(host) in ((0, ""), None)


def test_it_is_closed_once_it_is_told_to_end(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = spoken(host, monkeypatch, Spoken("one\n"))
    alongside.end(host)
    assert session.closed and session.heard == ["end\n"]


def test_the_commands_for_it(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with ctx_host.use(host):
        [begin] = operations.begun_here(Shown("echo one"))
        assert isinstance(begin, FunctionCommand)
        assert (begin.function, begin.args) == (operations._begin, ("echo one",))
        assert operations.awaited_here("pulling it") is None
        assert operations._begin(STATE, host, *begin.args)
        waiting = operations.awaited_here("pulling it")
    assert waiting is not None
    assert (waiting.function, waiting.args) == (operations._await, ("pulling it",))
    assert operations._await(STATE, host, *waiting.args)
    assert host.said == ["    one"]
