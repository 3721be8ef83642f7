"""One deploy at a time on a host, and a line of what it changed.

A shell on the host holds a lock of the kernel's, and lives as long as the connection that it came
over: whatever ends the deploy or the connection frees the host, and so does a reboot. The same
shell keeps what the deploy says of its changes, and writes it down when it ends, also for a deploy
that was cut off. It costs one execution for each host.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from getpass import getuser
from math import inf
from shlex import quote
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import gevent
from gevent.subprocess import PIPE, Popen
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts import __version__
from vllm_hosts.connect import sudo
from vllm_hosts.connect.reach import require_root, saying
from vllm_hosts.data import DATA
from vllm_hosts.errors import HostError
from vllm_hosts.host.marks import DEPLOY_SINCE, deploy_mark, functions, left_of, owner_of
from vllm_hosts.host.paths import UNCONFIRMED
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.text import clean

#: Seconds for which somebody else's deploy is waited for.
PATIENCE = 300
#: Seconds in which the shell on the host writes its line and ends.
_ENDING = 10.0
#: Characters of a line of the history; the host cuts at 2000.
_LINE = 1800
#: Bytes of a line of the lock's shell, and of what a host says where it does not run.
_MOST = 4000
#: Seconds between two words about somebody who is waited for; between words about two. A host that
#: lies says what it likes, and as often.
_SAY_EVERY, _SAY_NEXT = 60, 5


@dataclass(frozen=True)
class Purpose:
    """What a host is held for: a command with its inventory, and the commit of the site."""

    what: str
    commit: str = ""


class Channel(Protocol):
    """Standard input and output of a shell on a host."""

    def send(self, text: str) -> None: ...
    def line(self) -> str: ...
    def errors(self) -> str: ...
    def ended(self) -> bool:
        """Whether the shell is gone, and the way to the host is not."""

    def close(self) -> None: ...


@dataclass(eq=False)
class Held:
    """A host that is held, and what was changed there meanwhile."""

    channel: Channel
    purpose: Purpose
    since: str
    steps: list[str] = field(default_factory=list)

    def line(self, ended: str) -> str:
        """For the history: JSON of ASCII, below a bound."""
        shown = list(self.steps)
        while True:
            more = len(self.steps) - len(shown)
            said = {
                "who": _who(),
                "what": self.purpose.what,
                "since": self.since,
                "commit": self.purpose.commit,
                "version": __version__,
                "ended": ended[:200],
                "changed": [*shown, *([f"and {more} more"] if more else [])],
            }
            if len(text := json.dumps(said)) <= _LINE or not shown:
                return text
            shown.pop()


_held: WeakKeyDictionary[Host, Held] = WeakKeyDictionary()


def take(purpose: Purpose, *, patience: int = PATIENCE) -> None:
    """Hold the current host until ``release``, or until this process or its connection ends.

    :raises HostError: somebody else holds it, or what a deploy has left there has not ended.
    """
    host, state = ctx_host.get(), ctx_state.get()
    if host in _held:
        return
    os.environ.setdefault(DEPLOY_SINCE, deploy_mark(utc_now()))
    config = state.config
    if DEPLOY_SINCE not in config.INHERIT_ENV:
        # Of a command of ours; a deploy's own config has it by now.
        config.INHERIT_ENV = (*config.INHERIT_ENV, DEPLOY_SINCE)
    since = os.environ[DEPLOY_SINCE]
    with saying(host), gevent.Timeout(patience + 60, HostError(_NO_ANSWER)):
        channel = opened(state, host, _script(purpose, since, patience))
        try:
            _wait(host, channel, patience)
        except BaseException:
            with gevent.Timeout(2, False), suppress(Exception):
                channel.close()
            raise
    _held[host] = Held(channel, purpose, since)


_NO_ANSWER = "the host was not locked in time; run the command again"


def _wait(host: Host, channel: Channel, patience: int) -> None:
    said, words = -inf, ""
    while line := channel.line():
        if not line.startswith("lock "):
            # What a login shell prints.
            continue
        kind, _, rest = line[5:].strip().partition(" ")
        if kind == "taken":
            return
        if kind == "user":
            require_root(rest, "")
        if kind in ("without", "unwritable"):
            raise HostError(_CANNOT[kind])
        if kind == "refused":
            raise HostError(_refusal(rest, patience))
        now = time.monotonic()
        if kind == "waits" and now - said >= _SAY_NEXT:
            whom = _whom(rest)
            if whom != words or now - said >= _SAY_EVERY:
                said, words = now, whom
                host.log(f"    waits for {words}")
    if errors := channel.errors():
        # Not even the shell ran.
        require_root("", errors)
    raise HostError(
        "the host could not be locked, so nothing was changed; check that its sshd allows two"
        " sessions over one connection (MaxSessions), and run the command again"
    )


_CANNOT = {
    "without": "there is no flock, which util-linux has; install util-linux",
    "unwritable": "/run cannot be written; see df /run and mount there, and make room",
}


def _whom(rest: str) -> str:
    """Who holds a host, or what is left there, as the shell on it prints that."""
    kind, _, words = rest.partition(" ")
    if kind == "held":
        owner = owner_of(words)
        return owner.sentence if owner else "a deploy that has just begun"
    return left_of(words.split(";")).sentence or "what a deploy has left there"


def _refusal(rest: str, patience: int) -> str:
    if rest.startswith("held "):
        return (
            f"another run has this host: {_whom(rest)}; nothing was changed here, after waiting"
            f" {patience} s. Run the command again when that one has ended; if nobody is behind it:"
            " vllm-hosts lock INVENTORY release"
        )
    if rest.startswith("unconfirmed "):
        name, _, why = rest.partition(" ")[2].partition(" ")
        name = clean(name, 32)
        folder = f"{UNCONFIRMED}/{name}"
        return (
            f"a change of {name} that nobody confirmed could not be rolled back on this host:"
            f" {clean(why, 300) or 'no error was shown'}; nothing else was changed here. What was"
            f" there before is in {folder}, and a boot would restore it. Mend what keeps it from"
            f" that, and run the command again; to keep the change as it is: rm -r {folder}"
        )
    pids = " ".join(str(pid) for pid, _, _ in left_of(rest.partition(" ")[2].split(";")).programs)
    end = f", or end it there: kill {pids}" if pids else ""
    return (
        f"still at work on this host: {_whom(rest)}; nothing was changed here, after waiting"
        f" {patience} s. Run the command again when that has ended{end}"
    )


def changing(step: str) -> None:
    """The current host is about to be changed by this step: kept there from now on.

    :raises HostError: it is not held any more, so others may be at work there.
    """
    held = _held.get(ctx_host.get())
    if held is None or step in held.steps[-1:]:
        return
    if held.channel.ended():
        raise HostError(_NOT_HELD)
    held.steps.append(clean(step, 120))
    with suppress(Exception):
        # A connection that is lost says so to the step itself.
        held.channel.send(f"{held.line('cut off')}\n")


_NOT_HELD = (
    "the shell that held this host for this run has ended there, so others may work on it by now;"
    " nothing more was changed here. Run the command again"
)


def release(host: Host, ended: str) -> None:
    """Let a host go, if it is held. What was changed there is written down before.

    :param ended: how, for its history.
    """
    held = _held.pop(host, None)
    if held is None:
        return
    with gevent.Timeout(_ENDING, False), suppress(Exception):
        if held.steps:
            held.channel.send(f"{held.line(ended)}\n")
        held.channel.close()


def again(host: Host) -> None:
    """A host has rebooted, and is reached anew: hold it as before.

    :raises HostError: as ``take``.
    """
    if held := _held.pop(host, None):
        take(held.purpose)


@contextmanager
def holding(purpose: Purpose, *steps: str) -> Iterator[None]:
    """Hold the current host for one command, which does these things there.

    :raises HostError: as ``take``.
    """
    take(purpose)
    host, ended = ctx_host.get(), "failed"
    try:
        for step in steps:
            changing(step)
        yield
        ended = "done"
    finally:
        release(host, ended)


def _who() -> str:
    return clean(f"{getuser()}@{socket.gethostname()}", 80)


def _script(purpose: Purpose, since: str, patience: int) -> str:
    owner = json.dumps({"who": _who(), "what": purpose.what, "since": since})
    return (
        f"{functions()}\nunconfirmed={UNCONFIRMED}\npatience={patience}\nowner={quote(owner)}\n"
        f"{(DATA / 'hold.sh').read_text()}"
    )


class _OverSsh:
    """A channel of the connection that the deploy has."""

    def __init__(self, connector: SSHConnector, command: str, given: list[str]) -> None:
        assert connector.client is not None
        self._in, out, errors = connector.client.exec_command(command)
        # Bytes: what is no UTF-8 would otherwise end the reader.
        self._out = out.channel.makefile("rb")
        self._errors = errors.channel.makefile_stderr("rb")
        for line in given:
            self.send(f"{line}\n")

    def send(self, text: str) -> None:
        self._in.write(text)
        self._in.flush()

    def line(self) -> str:
        return str(self._out.readline(_MOST).decode(errors="replace"))

    def errors(self) -> str:
        return str(self._errors.read(_MOST).decode(errors="replace"))

    def ended(self) -> bool:
        channel = self._in.channel
        return bool(channel.closed and channel.get_transport().is_active())

    def close(self) -> None:
        self._in.channel.shutdown_write()
        self._in.channel.recv_exit_status()
        self._in.channel.close()


class _Here:
    """A shell on this machine, away from the signals of the terminal."""

    def __init__(self, command: str, given: list[str]) -> None:
        words = ["/bin/sh", "-c", command]
        self._process = Popen(words, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True)
        for line in given:
            self.send(f"{line}\n")

    def send(self, text: str) -> None:
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def line(self) -> str:
        return str(self._process.stdout.readline(_MOST).decode(errors="replace"))

    def errors(self) -> str:
        return str(self._process.stderr.read(_MOST).decode(errors="replace"))

    def ended(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def opened(state: State, host: Host, script: str) -> Channel:
    """A shell on a host that runs a script as deploys do, and is spoken with."""
    given, _ = pop_global_arguments(state, host, {})
    options: dict[str, Any] = {key: given.get(key) for key in CONNECTOR_ARGUMENT_KEYS}
    command, before = sudo.whole(state, host, StringCommand(script), options)
    if isinstance(host.connector, SSHConnector):
        return _OverSsh(host.connector, command, before)
    if isinstance(host.connector, LocalConnector):
        return _Here(command, before)
    raise HostError(
        "only hosts over SSH and @local can be held for one deploy at a time; correct its name"
    )
