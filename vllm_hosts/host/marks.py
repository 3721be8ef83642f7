"""How others on a host can tell that a deploy is running there, and whose it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote

from vllm_hosts.bounded import parse_json
from vllm_hosts.data import DATA
from vllm_hosts.host.paths import DEPLOYED, HISTORY, LOCK, UNDO
from vllm_hosts.text import clean

#: Every command of a deploy has it in its environment, and so do its child processes. It ends with
#: them: nothing is written that could be left behind.
DEPLOY_SINCE = "VLLM_HOSTS_DEPLOY"


def deploy_mark(now: datetime) -> str:
    """The mark of a deploy that begins now."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


#: A process, in ASCII digits: others are numbers to Python and not to int().
_PID = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Owner:
    """Who holds a host: ``who`` is a user at a machine, ``what`` a command with its inventory,
    ``since`` a time in UTC, ``address`` where sshd saw it come from."""

    who: str
    what: str
    since: str
    pid: int = 0
    boot: str = ""
    address: str = ""

    @property
    def sentence(self) -> str:
        """For people."""
        at = f" ({self.address})" if self.address not in ("", "-") else ""
        return f"{self.what} of {self.who}{at}, since {readable(self.since)}"


@dataclass(frozen=True)
class Left:
    """What a deploy that is gone has left on a host: programs that still run, each with its process
    and since when, and changes that the host is about to roll back."""

    programs: tuple[tuple[int, str, str], ...] = ()
    changes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.programs or self.changes)

    @property
    def sentence(self) -> str:
        """For people."""
        said = []
        if self.programs:
            names = ", ".join(f"{name} (pid {pid})" for pid, _, name in self.programs[:3])
            since = readable(min(since for _, since, _ in self.programs))
            said.append(f"{names}, left by a run of {since} that was cut off")
        if self.changes:
            names = " and ".join(self.changes)
            said.append(f"a change of {names} that nobody confirmed, which is being rolled back")
        return "; ".join(said)


def readable(since: str) -> str:
    """A mark's time for people."""
    return f"{since.replace('T', ' ').removesuffix('Z')} UTC"


_RECORD = re.compile(r"([0-9]{1,10}) ([0-9a-f-]{1,40}) ([0-9a-fA-F.:%\w-]{1,64}) (\{.*\})")


def owner_of(line: str) -> Owner | None:
    """Who holds a host, by what stands in its lock; None: it is not ours, or not whole."""
    found = _RECORD.fullmatch(line.strip())
    if found is None:
        return None
    pid, boot, address, text = found.groups()
    try:
        said = parse_json(text, size=4000)
        who, what, since = (clean(said[name], 200) for name in ("who", "what", "since"))
    except (KeyError, TypeError, ValueError):
        return None
    return Owner(who, what, since, int(pid), boot, clean(address, 64))


def left_of(lines: Sequence[str]) -> Left:
    """What ``look_at_left`` of deploys.sh prints."""
    programs, changes = [], []
    for line in lines:
        words = line.split()
        if len(words) == 4 and words[0] == "process" and _PID.fullmatch(words[1]):
            programs.append((int(words[1]), clean(words[2], 32), clean(words[3], 32)))
        elif len(words) == 2 and words[0] == "undo":
            changes.append(clean(words[1], 32))
    return Left(tuple(programs), tuple(changes))


def functions() -> str:
    """Shell: the variables and functions that see deploys on a host."""
    variables = {
        "lock": LOCK,
        "history": HISTORY,
        "deployed": DEPLOYED,
        "mark": DEPLOY_SINCE,
        "undo": UNDO,
    }
    assigned = "\n".join(f"{name}={quote(value)}" for name, value in variables.items())
    return f"{assigned}\n{(DATA / 'deploys.sh').read_text()}"
