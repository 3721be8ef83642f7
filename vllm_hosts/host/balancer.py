"""HAProxy of a gateway: what its runtime socket says, and is told. Touches no host."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from vllm_hosts.host.paths import BALANCER_RUN, BALANCER_UNIT
from vllm_hosts.text import clean

#: Keeps what HAProxy knows of its servers, for the process that comes after it.
SAVE_SCRIPT = "/usr/local/lib/vllm-hosts/save-balancer-state"
#: What a client gets where nobody has the response that it asks for, in OpenAI's format.
RESPONSE_GONE = json.dumps(
    {
        "error": {
            "message": "No agent that serves now has this response: agents keep responses in"
            " memory, if at all, until they end. Send the whole conversation instead of its"
            " identifier.",
            "type": "invalid_request_error",
            "param": None,
            "code": "response_not_found",
        }
    }
)
#: Lets the running HAProxy end what it has, while another one may start.
HAND_OVER_SCRIPT = "/usr/local/lib/vllm-hosts/hand-over-balancer"
#: Bytes of one answer, and rows of it: a thousand hosts with eight agents each have half.
_ANSWER, _ROWS = 32 << 20, 50_000
#: Processes that a reload or a restart has replaced, and that finish what they have.
_OLD = 50
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,127}")
_STATUS = re.compile(r"(UP|DOWN|DRAIN|NOLB|MAINT|no check)( -?[0-9]{1,4}/[0-9]{1,4}| ?\([^)]*\))?")
#: Bits of an administrative state: maintenance and draining, whoever asked for them. Without 0x20:
#: nobody asks for that, the host's name was not found.
_MAINTENANCE, _DRAINED = 0x01 | 0x02 | 0x04, 0x08 | 0x10
_UNRESOLVED = "(resolution)"
_NO_ADDRESS = (
    "no address was found for the host's name; once there is one, systemctl reload"
    f" {BALANCER_UNIT} on the gateway"
)


class Does(StrEnum):
    """What a server does for new requests."""

    SERVES = "serves"
    DRAINS = "drains"
    DOWN = "down"


class ServerState(StrEnum):
    """What the runtime socket can be told of a server."""

    DRAIN = "drain"
    READY = "ready"


@dataclass(frozen=True)
class Server:
    """A replica, as a gateway's HAProxy sees it.

    :param alive: whether its last checks found an engine that works.
    :param drained: whether somebody has asked that it gets no new requests.
    :param running: requests that it has now, those of processes before the last one included.
    :param check: the last check's result, for people.
    """

    pool: str
    name: str
    alive: bool
    drained: bool
    running: int
    check: str

    @property
    def does(self) -> Does:
        """Whether new requests go there, and if not, why."""
        if not self.alive:
            return Does.DOWN
        return Does.DRAINS if self.drained else Does.SERVES


Servers = dict[tuple[str, str], Server]


def asking(run: str = BALANCER_RUN) -> str:
    """Shell: the function ``ask SOCKET COMMAND``, which prints what HAProxy answers."""
    return f"""ask() {{
            printf '%s\\n' "$2" | timeout 20 socat -t 20 - UNIX-CONNECT:{run}/$1.sock |
                head -c {_ANSWER}
        }}"""


def query(run: str = BALANCER_RUN) -> str:
    """Shell: sections for ``servers``."""
    return rf"""
        {asking(run)}
        echo '== admin'; ask admin 'show servers state'
        echo '== now'; ask admin 'show stat -1 4 -1'
        before() {{
            for pid in $(ask $1 'show proc' 2>/dev/null | awk -v all=$2 '
                /^# /{{ old = $2 == "old" || all && $2 == "workers" }}
                old && $1 ~ /^[0-9]+$/ {{ print $1 }}' | head -n {_OLD})
            do echo "== before $pid"; ask $1 "@!$pid show stat -1 4 -1"; done
        }}
        before master ''
        for path in $(ls -1 {run} 2>/dev/null | grep '^master[.][0-9]*[.]sock$' | head -n {_OLD})
        do before ${{path%.sock}} 1; done
    """


def told(pool: str, server: str, state: ServerState, run: str = BALANCER_RUN) -> str:
    """Shell: let a server drain or get requests again, and remember it for the next process.

    Fails, with HAProxy's words, where it does not do so. Can be run again.
    """
    # Once it has done so it says an empty line; one that hangs or is gone says nothing.
    for name in (pool, server):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a pool or a server")
    return f"""
        {asking(run)}
        said=$(ask admin 'set server {pool}/{server} state {state}'; echo .)
        [ "$said" != . ] || {{ echo "HAProxy does not answer on its runtime socket" >&2; exit 1; }}
        said=$(printf %s "${{said%.}}")
        [ -z "$said" ] || {{ echo "HAProxy: $said" >&2; exit 1; }}
        {SAVE_SCRIPT}
    """


def servers(parts: Mapping[str, Sequence[str]]) -> Servers:
    """From the sections of ``query``.

    :raises ValueError: HAProxy does not answer, or answers as no HAProxy does.
    :raises KeyError: the same, of parts of an answer.
    """
    drained = dict(_drained(parts["admin"]))
    found: Servers = {}
    again: list[tuple[tuple[str, str], int]] = []
    for row in _rows(parts["now"]):
        key = _key(row)
        if (base := _base(key)) != key:
            again.append((base, _count(row["scur"])))
            continue
        status = _STATUS.fullmatch(row["status"])
        if status is None:
            raise ValueError(f"a server's status is {row['status'][:80]!r}")
        if key in found:
            raise ValueError(f"{key} is there twice")
        alive = status[1] in ("UP", "DRAIN", "NOLB", "no check")
        check = clean(f"{row['check_status']} {row['check_desc']}".strip(), 120)
        check = _NO_ADDRESS if row["status"].endswith(_UNRESOLVED) else check
        found[key] = Server(*key, alive, drained[key], _count(row["scur"]), check)
    for heading, lines in parts.items():
        if heading.startswith("before "):
            again += _before(lines)
    for key, running in again:
        # A server that the configuration no longer has may still answer what it was asked.
        one = found.get(key) or Server(*key, False, True, 0, "no longer configured")
        found[key] = replace(one, running=one.running + running)
    return found


def _base(key: tuple[str, str]) -> tuple[str, str]:
    """What is sent once more, or to one agent alone, is in backends of its own, to the same
    servers; no pool's name has a dot."""
    return key[0].partition(".")[0], key[1]


def _drained(lines: Iterable[str]) -> Iterator[tuple[tuple[str, str], bool]]:
    """Of ``show servers state``: its format's version, names of columns, and a server a line."""
    rows = [line.split(" ") for line in lines if line]
    if len(rows) < 2 or rows[0] != ["1"] or rows[1][0] != "#":
        raise ValueError("HAProxy does not list its servers")
    if len(rows) > _ROWS:
        raise ValueError(f"more than {_ROWS} servers")
    columns = rows[1][1:]
    for row in rows[2:]:
        one = dict(zip(columns, row, strict=True))
        state = _count(one["srv_admin_state"])
        yield (
            (_name(one["be_name"]), _name(one["srv_name"])),
            bool(state & (_DRAINED | _MAINTENANCE)),
        )


def _rows(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    """Of ``show stat``: CSV with names of columns, which begin with a number sign."""
    there = [line for line in lines if line]
    if not there or not there[0].startswith("# pxname,svname,"):
        raise ValueError("HAProxy does not show its servers")
    if len(there) > _ROWS:
        raise ValueError(f"more than {_ROWS} servers")
    columns = there[0][2:].split(",")
    try:
        rows = list(csv.reader(there[1:], strict=True))
    except csv.Error as error:
        raise ValueError(f"HAProxy does not show its servers: {error}") from error
    for row in rows:
        yield dict(zip(columns, row, strict=True))


def _before(lines: Sequence[str]) -> Iterator[tuple[tuple[str, str], int]]:
    """Of a process that was replaced; it may have ended since it was listed."""
    if lines and lines[0].startswith("# pxname,"):
        for row in _rows(lines):
            if running := _count(row["scur"]):
                yield _base(_key(row)), running


def _key(row: Mapping[str, str]) -> tuple[str, str]:
    return _name(row["pxname"]), _name(row["svname"])


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no name of a pool or a server")
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text[:80]!r} is no count")
    return int(text)
