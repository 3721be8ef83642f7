"""One long command on a host that goes on while its run does other things there.

It has a session of its own over the run's connection. Where the run is cut off, it goes on to its
end, as any command of a run does, and the next run waits for that. A run that fails ends it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import gevent
from gevent import Greenlet
from pyinfra.api.host import Host
from pyinfra.api.state import State

from vllm_hosts.connect.lock import Channel, opened
from vllm_hosts.text import clean

#: Seconds for a session to open, and for a command to end once it is told to.
_OPENING, _ENDING = 60.0, 10.0
#: Stands before the exit code, at the beginning of a line.
_ENDED = "vllm-hosts-ended "
#: Characters of a line that is shown.
_SHOWN = 300


@dataclass(eq=False)
class Alongside:
    """A command that has begun. ``code``: its exit code; None: it has not ended, or was cut off."""

    host: Host
    channel: Channel
    code: int | None = None
    reader: Greenlet | None = None

    def read(self) -> None:
        """Show what it prints, until it ends."""
        with suppress(Exception):
            while line := self.channel.line():
                if line.startswith(_ENDED):
                    self.code = int(line.removeprefix(_ENDED))
                    return
                if shown := clean(line.strip(), _SHOWN):
                    self.host.log(f"    {shown}")


_begun: WeakKeyDictionary[Host, Alongside] = WeakKeyDictionary()


def _script(command: str) -> str:
    """The command, in a session where a line on standard input ends all that belongs to it."""
    return f"""
exec 3<&0
( IFS= read -r word <&3; [ "$word" != end ] || kill 0 ) >/dev/null 2>&1 &
( {command.strip()}
) </dev/null 3<&-
echo "{_ENDED}$?"
"""


def begin(state: State, host: Host, command: str) -> bool:
    """Start a command, one on each host; whether there is a session for it."""
    try:
        with gevent.Timeout(_OPENING):
            channel = opened(state, host, _script(command))
    except (Exception, gevent.Timeout):
        # Such as an sshd that allows fewer sessions: then it is done where it is waited for.
        return False
    found = _begun[host] = Alongside(host, channel)
    found.reader = gevent.spawn(found.read)
    return True


def has_begun(host: Host) -> bool:
    """Whether a command goes on there, or has ended and nobody has asked how."""
    return host in _begun


def ended(host: Host) -> tuple[int | None, str]:
    """Wait for it: its exit code, None if it was cut off, and what it printed as errors."""
    found = _begun.pop(host)
    assert found.reader is not None
    found.reader.join()
    errors = ""
    with gevent.Timeout(_ENDING, False), suppress(Exception):
        errors = found.channel.errors()
        found.channel.close()
    return found.code, errors


def end(host: Host) -> None:
    """Have it end now, if one goes on."""
    found = _begun.pop(host, None)
    if found is None:
        return
    with gevent.Timeout(_ENDING, False), suppress(Exception):
        found.channel.send("end\n")
        found.channel.close()
