"""What a run and the shell that holds its host say to each other, line by line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.subprocess import PIPE
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts import __version__
from vllm_hosts.connect import lock
from vllm_hosts.connect.lock import Held, Purpose
from vllm_hosts.data import DATA
from vllm_hosts.errors import HostError
from vllm_hosts.host.marks import DEPLOY_SINCE, functions
from vllm_hosts.host.paths import UNCONFIRMED

SINCE = "2026-11-26T08:00:00Z"
PURPOSE = Purpose("deploy.py of prod.py", "abc123")
RECORD = (
    '4711 962bd73d-5bb1 192.0.2.7 {"who": "ada@laptop", "what": "deploy.py of prod.py",'
    ' "since": "2026-11-26T08:00:00Z"}'
)
ADA = "deploy.py of prod.py of ada@laptop (192.0.2.7), since 2026-11-26 08:00:00 UTC"
LEFT = "process 12 2026-11-26T08:00:00Z apt-get;process 13 2026-11-26T08:00:00Z dpkg;"
NAMES = "apt-get (pid 12), dpkg (pid 13), left by a run of 2026-11-26 08:00:00 UTC"


class Shell:
    """A shell on a host that says these lines."""

    def __init__(self, *lines: str, errors: str = "") -> None:
        self.lines, self.wrong = [f"{line}\n" for line in lines], errors
        self.heard: list[str] = []
        self.closed = 0
        self.broken = self.gone = False

    def send(self, text: str) -> None:
        if self.broken:
            raise OSError("lost")
        self.heard.append(text)

    def line(self) -> str:
        return self.lines.pop(0) if self.lines else ""

    def errors(self) -> str:
        return self.wrong

    def ended(self) -> bool:
        return self.gone

    def close(self) -> None:
        self.closed += 1
        if self.broken:
            raise OSError("lost")


class Host:
    """A host that can be held, with what its run prints."""

    connected = True

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(lock, "_who", lambda: "ada@laptop")
    monkeypatch.setenv(DEPLOY_SINCE, SINCE)
    made: Any = Host()
    config = SimpleNamespace(INHERIT_ENV=("HOME",))
    state: Any = SimpleNamespace(config=config)
    made.config = config
    with ctx_host.use(made), ctx_state.use(state):
        yield made


def opened(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> list[str]:
    scripts: list[str] = []

    def open_(state: object, host: object, script: str) -> Any:
        assert (state, host) == (ctx_state.get(), ctx_host.get())
        scripts.append(script)
        return shell

    monkeypatch.setattr(lock, "opened", open_)
    return scripts


def waited(host: Any, *lines: str, errors: str = "", patience: int = 300) -> str | None:
    try:
        lock._wait(host, Shell(*lines, errors=errors), patience)
    except HostError as error:
        return str(error)
    return None


def test_the_shell_may_say_other_things_first(host: Any) -> None:
    """What a login shell prints is none of it, and what comes after is not read."""
    assert waited(host, "Welcome!", "lock x", "taken", "lock taken", "lock refused held") is None
    assert host.said == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("without", "there is no flock, which util-linux has; install util-linux"),
        ("unwritable", "/run cannot be written; see df /run and mount there, and make room"),
        (
            f"refused held {RECORD}",
            f"another run has this host: {ADA}; nothing was changed here, after waiting 7 s. Run"
            " the command again when that one has ended; if nobody is behind it:"
            " vllm-hosts lock INVENTORY release",
        ),
        (
            f"refused left {LEFT}",
            f"still at work on this host: {NAMES} that was cut off; nothing was changed here, after"
            " waiting 7 s. Run the command again when that has ended, or end it there: kill 12 13",
        ),
        (
            "refused left undo firewall;",
            "still at work on this host: a change of firewall that nobody confirmed, which is being"
            " rolled back; nothing was changed here, after waiting 7 s. Run the command again when"
            " that has ended",
        ),
        *(
            (
                f"refused unconfirmed firewall{said}",
                "a change of firewall that nobody confirmed could not be rolled back on this host:"
                f" {why}; nothing else was changed here. What was there before is in"
                " /var/lib/vllm-hosts/unconfirmed/firewall, and a boot would restore it. Mend what"
                " keeps it from that, and run the command again; to keep the change as it is:"
                " rm -r /var/lib/vllm-hosts/unconfirmed/firewall",
            )
            for said, why in ((" mv: no room", "mv: no room"), ("", "no error was shown"))
        ),
    ],
)
def test_why_a_host_cannot_be_held(host: Any, line: str, words: str) -> None:
    assert waited(host, f"lock {line}", patience=7) == words


def test_a_user_who_is_not_root(host: Any) -> None:
    assert "user 1000 is not root" in (waited(host, "lock user 1000") or "")
    assert waited(host, "lock user 0", "lock taken") is None


def test_a_shell_that_says_nothing(host: Any) -> None:
    assert waited(host, "Welcome!") == (
        "the host could not be locked, so nothing was changed; check that its sshd allows two"
        " sessions over one connection (MaxSessions), and run the command again"
    )
    assert "commands do not run as root: sudo: no" in (waited(host, errors="sudo: no") or "")


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between a host's answers."""
    seconds, now = [5.0], [100.0]

    def monotonic() -> float:
        now[0] += seconds[0]
        return now[0]

    monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=monotonic))
    return seconds


def test_who_is_waited_for_is_said_once_and_again_after_a_minute(
    host: Any, pace: list[float]
) -> None:
    """The shell says it every five seconds."""
    held, left = f"lock waits held {RECORD}", f"lock waits left {LEFT}"
    assert waited(host, *[held] * 12, "lock taken") is None
    ada = f"    waits for {ADA}"
    assert host.said == [ada]
    host.said.clear()
    assert waited(host, *[held] * 13, left, left, held, "lock taken") is None
    others = f"    waits for {NAMES} that was cut off"
    assert host.said == [ada, ada, others, ada]


def test_a_host_that_lies_prints_no_line_for_each_of_its_answers(
    host: Any, pace: list[float]
) -> None:
    """Somebody else at each time, as fast as it can, for five minutes."""
    pace[0] = 0.03
    lies = [f"lock waits left process {number} {SINCE} x;" for number in range(10_000)]
    assert waited(host, *lies) is not None
    assert len(host.said) == 60
    # The same two over and over.
    host.said.clear()
    assert waited(host, *[lies[0], lies[1]] * 5000) is not None
    assert 5 < len(host.said) <= 60


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (f"held {RECORD}", ADA),
        ("held ", "a deploy that has just begun"),
        ("left ", "what a deploy has left there"),
        ("left undo ssh;", "a change of ssh that nobody confirmed, which is being rolled back"),
    ],
)
def test_whom(rest: str, words: str) -> None:
    assert lock._whom(rest) == words


def test_the_line_of_a_run_is_whole_or_says_how_much_more(host: Any) -> None:
    held = Held(Shell(), PURPOSE, SINCE, ["one", "two"])
    assert json.loads(held.line("x" * 300)) == {
        "who": "ada@laptop",
        "what": "deploy.py of prod.py",
        "since": SINCE,
        "commit": "abc123",
        "version": __version__,
        "ended": "x" * 200,
        "changed": ["one", "two"],
    }
    held.steps = [f"{number:03} {'a' * 96}" for number in range(40)]
    line = held.line("done")
    assert 1700 <= len(line) <= 1800
    *shown, more = json.loads(line)["changed"]
    assert shown == held.steps[: len(shown)]
    assert more == f"and {40 - len(shown)} more"
    # Even one that is too long ends.
    held.steps = ["é" * 2000]
    assert json.loads(held.line("done"))["changed"] == ["and 1 more"]


def test_a_host_is_held_until_it_is_let_go(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell("lock taken")
    scripts = opened(monkeypatch, shell)
    lock.take(PURPOSE)
    # It is held by now.
    lock.take(Purpose("another"))
    assert len(scripts) == 1
    assert host.config.INHERIT_ENV == ("HOME", DEPLOY_SINCE)
    lock.changing("one")
    lock.changing("one")
    lock.changing("t\x07wo" + "x" * 200)
    assert [json.loads(text)["changed"] for text in shell.heard] == [
        ["one"],
        ["one", "two" + "x" * 117 + " ..."],
    ]
    assert {json.loads(text)["ended"] for text in shell.heard} == {"cut off"}
    assert all(text.endswith("}\n") for text in shell.heard)
    lock.release(host, "done")
    assert json.loads(shell.heard[-1])["ended"] == "done"
    assert (len(shell.heard), shell.closed) == (3, 1)
    lock.release(host, "done")
    lock.changing("more")
    assert (len(shell.heard), shell.closed) == (3, 1)


def test_a_run_that_changes_nothing_leaves_no_line(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell("lock taken")
    opened(monkeypatch, shell)
    lock.take(PURPOSE)
    lock.release(host, "done")
    assert (shell.heard, shell.closed) == ([], 1)


def test_a_lost_connection_stops_nobody_here(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step itself says so."""
    shell = Shell("lock taken")
    opened(monkeypatch, shell)
    lock.take(PURPOSE)
    shell.broken = True
    lock.changing("one")
    lock.release(host, "done")
    assert shell.closed == 0


def test_a_host_that_is_held_no_more_is_not_changed(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shell was killed there; the connection is well, so that the step would be done."""
    shell = Shell("lock taken")
    opened(monkeypatch, shell)
    lock.take(PURPOSE)
    lock.changing("one")
    shell.gone = True
    with pytest.raises(HostError, match="others may work on it by now"):
        lock.changing("two")
    assert len(shell.heard) == 1
    lock.release(host, "failed")


def test_what_is_not_held_is_closed(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell("lock without")
    opened(monkeypatch, shell)
    with pytest.raises(HostError, match="no flock"):
        lock.take(PURPOSE)
    assert shell.closed == 1
    lock.release(host, "done")
    assert shell.closed == 1


def test_who_holds_it_is_in_the_script(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = opened(monkeypatch, Shell("lock taken"))
    host.config.INHERIT_ENV = (DEPLOY_SINCE,)
    lock.take(Purpose("it's"), patience=7)
    lock.release(host, "done")
    assert host.config.INHERIT_ENV == (DEPLOY_SINCE,)
    [script] = scripts
    assert f"\nunconfirmed={UNCONFIRMED}\npatience=7\nowner='" in script
    owner = re.search(r"^owner=(.*)$", script, re.MULTILINE)
    assert owner is not None
    assert json.loads(owner[1].replace("'\"'\"'", "'")[1:-1]) == {
        "who": "ada@laptop",
        "what": "it's",
        "since": SINCE,
    }
    assert script.startswith(functions())
    assert script.endswith((DATA / "hold.sh").read_text())


def test_a_command_that_is_no_deploy_says_when_it_began(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(monkeypatch, Shell("lock taken"))
    monkeypatch.delenv(DEPLOY_SINCE)
    lock.take(PURPOSE)
    lock.release(host, "done")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", os.environ[DEPLOY_SINCE])


def test_a_host_that_was_rebooted_is_held_again(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = opened(monkeypatch, Shell("lock taken", "lock taken"))
    lock.again(host)
    assert scripts == []
    lock.take(PURPOSE)
    lock.again(host)
    assert len(scripts) == 2
    lock.release(host, "done")


@pytest.mark.parametrize("fails", [True, False])
def test_a_command_holds_a_host_while_it_lasts(
    host: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    shell = Shell("lock taken")
    opened(monkeypatch, shell)
    holding = lock.holding(PURPOSE, "one", "two")
    holding.__enter__()
    assert json.loads(shell.heard[-1])["changed"] == ["one", "two"]
    assert not holding.__exit__(*((KeyError, KeyError(), None) if fails else (None, None, None)))
    assert json.loads(shell.heard[-1])["ended"] == ("failed" if fails else "done")
    assert shell.closed == 1


class Streams:
    """paramiko's three streams of a command."""

    def __init__(self) -> None:
        self.story: list[object] = []
        ended = self.story.append
        channel = SimpleNamespace(
            shutdown_write=lambda: ended("no more"),
            recv_exit_status=lambda: ended("waited"),
            close=lambda: ended("closed"),
        )
        self.stdin = SimpleNamespace(write=ended, flush=lambda: ended("flushed"), channel=channel)
        self.said = b"word\n"
        said = SimpleNamespace(
            readline=lambda most: self.said * (most == 4000),
            read=lambda most: self.said * (most == 4000),
        )
        # As bytes: what is no UTF-8 would end paramiko's own.
        files = SimpleNamespace(
            makefile=lambda mode: said if mode == "rb" else None,
            makefile_stderr=lambda mode: said if mode == "rb" else None,
        )
        self.stdout = self.stderr = SimpleNamespace(channel=files)

    def exec_command(self, command: str) -> Any:
        self.story.append(("runs", command))
        return self.stdin, self.stdout, self.stderr


def test_a_channel_of_the_deploy_s_own_connection() -> None:
    streams = Streams()
    connector: Any = SimpleNamespace(client=streams)
    channel = lock._OverSsh(connector, "command", ["password", "gate"])
    channel.close()
    assert streams.story == [
        ("runs", "command"), "password\n", "flushed", "gate\n", "flushed",
        "no more", "waited", "closed",
    ]  # fmt: skip
    for said, line in ((b"word\n", "word\n"), (b"w\xff\n", "w\ufffd\n")):
        streams.said = said
        assert (channel.line(), channel.errors()) == (line, line)


@pytest.mark.parametrize(
    ("closed", "connected", "ended"),
    [(True, True, True), (False, True, False), (True, False, False)],
)
def test_a_shell_that_has_ended_is_not_a_lost_connection(
    closed: bool, connected: bool, ended: bool
) -> None:
    streams = Streams()
    streams.stdin.channel.closed = closed
    transport = SimpleNamespace(is_active=lambda: connected)
    streams.stdin.channel.get_transport = lambda: transport
    connector: Any = SimpleNamespace(client=streams)
    assert lock._OverSsh(connector, "command", []).ended() is ended


def test_a_channel_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    story: list[object] = []

    class Process:
        stdin = SimpleNamespace(
            write=story.append,
            flush=lambda: story.append("flushed"),
            close=lambda: story.append("no more"),
        )
        stdout = SimpleNamespace(readline=lambda most: b"w\xff\n" * (most == 4000))
        stderr = SimpleNamespace(read=lambda most: b"e\xff" * (most == 4000))

        code: int | None = None

        def poll(self) -> int | None:
            return self.code

        def wait(self) -> None:
            story.append("waited")

    def popen(words: list[str], **how: object) -> Any:
        story.append((words, how))
        return Process()

    monkeypatch.setattr(lock, "Popen", popen)
    channel = lock._Here("command", ["password"])
    assert (channel.line(), channel.errors()) == ("w\ufffd\n", "e\ufffd")
    ended = []
    for Process.code in (None, 0, 1):
        ended.append(channel.ended())
    assert ended == [False, True, True]
    channel.close()
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), PIPE)
    assert story == [
        (["/bin/sh", "-c", "command"], {**pipes, "start_new_session": True}),
        b"password\n", "flushed", "no more", "waited",
    ]  # fmt: skip


def test_how_long_each_thing_may_take(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[object, ...]] = []
    said: list[object] = []

    @contextmanager
    def limit(seconds: float, what: object) -> Iterator[None]:
        limits.append((seconds, str(what)))
        yield

    @contextmanager
    def saying(which: object) -> Iterator[None]:
        said.append(which)
        yield

    monkeypatch.setattr(lock, "gevent", SimpleNamespace(Timeout=limit))
    monkeypatch.setattr(lock, "saying", saying)
    late = "the host was not locked in time; run the command again"
    opened(monkeypatch, Shell("lock without"))
    with pytest.raises(HostError):
        lock.take(PURPOSE)
    assert (limits, said) == ([(360, late), (2, "False")], [host])
    opened(monkeypatch, Shell("lock taken"))
    lock.take(PURPOSE, patience=5)
    lock.release(host, "done")
    assert limits[2:] == [(65, late), (10.0, "False")]


def test_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "getuser", lambda: "ada")
    monkeypatch.setattr(lock, "socket", SimpleNamespace(gethostname=lambda: "laptop"))
    assert lock._who() == "ada@laptop"
    monkeypatch.setattr(lock, "getuser", lambda: "a" * 200)
    assert lock._who() == "a" * 80 + " ..."


def test_a_shell_is_opened_as_the_host_s_commands_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def whole(*all_: Any) -> tuple[str, list[str]]:
        given.append(all_)
        return "whole", ["before"]

    def arguments(*all_: object) -> tuple[dict[str, object], list[str]]:
        assert all_ == (state, here, {})
        return {"_sudo": True, "name": "x"}, []

    monkeypatch.setattr(lock, "sudo", SimpleNamespace(whole=whole))
    monkeypatch.setattr(lock, "pop_global_arguments", arguments)
    monkeypatch.setattr(lock, "_OverSsh", lambda *all_: ("ssh", *all_))
    monkeypatch.setattr(lock, "_Here", lambda *all_: ("here", *all_))
    state: Any = object()
    ssh, local = SSHConnector.__new__(SSHConnector), LocalConnector.__new__(LocalConnector)
    here: Any = SimpleNamespace(connector=ssh)
    made: Any = lock.opened(state, here, "script")
    assert made == ("ssh", ssh, "whole", ["before"])
    here.connector = local
    made = lock.opened(state, here, "script")
    assert made == ("here", "whole", ["before"])
    for of_state, of_host, script, options in given:
        assert (of_state, of_host, str(script)) == (state, here, "script")
        assert options["_sudo"] is True and "name" not in options
    here.connector = object()
    with pytest.raises(HostError) as refused:
        lock.opened(state, here, "script")
    assert str(refused.value) == (
        "only hosts over SSH and @local can be held for one deploy at a time; correct its name"
    )
