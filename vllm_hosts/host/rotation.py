"""Which agents gateways send requests to, as HAProxy says it and is told it. Touches no host."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

#: On a gateway: HAProxy's runtime socket, the unit that it runs in, and a file for each server that
#: somebody drained by hand, which no deploy puts back.
SOCKET: Final = "/run/vllm-hosts-balancer/admin.sock"
UNIT: Final = "vllm-hosts-balancer.service"
BY_HAND: Final = "/var/lib/vllm-hosts/drained"

#: What HAProxy's names consist of here.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
#: Bits of ``srv_admin_state`` (HAProxy's management guide, "show servers state"): of maintenance,
#: and of a drain, each its own or inherited.
_MAINTENANCE: Final = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
_DRAIN: Final = 0x08 | 0x10
#: ``srv_op_state``: starting, which is slowstart, and running.
_UP: Final = (1, 2)


@dataclass(frozen=True)
class Server:
    """One agent, as one gateway sees it. ``running``: requests that are at it or wait for it.

    ``by_hand``: somebody drained it with ``vllm-hosts agents drain``.
    """

    pool: str
    name: str
    up: bool
    drained: bool
    running: int
    by_hand: bool = False

    @property
    def agent(self) -> str:
        """The agent's name, which another host may have too."""
        return agent_of(self.name)

    @property
    def takes(self) -> bool:
        """Whether it gets new requests."""
        return self.up and not self.drained


@dataclass(frozen=True)
class Balancer:
    """All agents, as one gateway sees them."""

    servers: tuple[Server, ...]

    def of(self, names: Collection[str]) -> list[Server]:
        """The servers with these names, in whichever pools they are."""
        return [server for server in self.servers if server.name in names]

    def others_take(self, server: Server, going: Collection[str]) -> bool:
        """Whether somebody else gets the requests of a server, if these go as well."""
        return any(
            other.pool == server.pool and other.takes and other.name not in {server.name, *going}
            for other in self.servers
        )


def agent_of(server: str) -> str:
    """The agent that a server's name begins with; no agent's name has a dot."""
    return server.partition(".")[0]


def balancer(stat: Sequence[str], states: Sequence[str], by_hand: Collection[str]) -> Balancer:
    """From the answers to ``show stat`` and ``show servers state``.

    :raises ValueError: these are not HAProxy's.
    """
    admin: dict[tuple[str, str], tuple[int, int]] = {}
    for row in _rows(states):
        admin[(row["be_name"], row["srv_name"])] = (
            int(row["srv_op_state"]),
            int(row["srv_admin_state"]),
        )
    servers = []
    for row in csv.DictReader(_headed(stat)):
        pool, name = row["pxname"], row["svname"]
        if name in ("FRONTEND", "BACKEND"):
            continue
        if not (_NAME.fullmatch(pool) and _NAME.fullmatch(name)):
            raise ValueError(f"{pool[:60]!r}, {name[:60]!r}")
        running, flags = admin[(pool, name)]
        drained = bool(flags & _DRAIN)
        servers.append(
            Server(
                pool,
                name,
                up=running in _UP and not flags & _MAINTENANCE,
                drained=drained,
                running=int(row["scur"] or 0) + int(row["qcur"] or 0),
                by_hand=drained and name in by_hand,
            )
        )
    return Balancer(tuple(servers))


def _headed(lines: Sequence[str]) -> list[str]:
    """A table without the sign in front of its heading."""
    rows = [line for line in lines if line.strip()]
    if not rows or not rows[0].startswith("# "):
        raise ValueError(f"no table: {rows[:1]!r}")
    return [rows[0].removeprefix("# "), *rows[1:]]


def _rows(lines: Sequence[str]) -> Iterable[dict[str, str]]:
    """Of ``show servers state``, whose first line is the version of its form."""
    rows = [line for line in lines if line.strip()]
    if rows[:1] != ["1"]:
        raise ValueError(f"an unknown form: {rows[:1]!r}")
    heading, *rest = _headed(rows[1:])
    names = heading.split()
    for row in rest:
        yield dict(zip(names, row.split(" "), strict=True))


def telling(servers: Iterable[Server], state: Literal["drain", "ready"], *, by_hand: bool) -> str:
    """Shell: drain servers, or put them back. HAProxy says nothing where it has done that.

    :param by_hand: keep that somebody drained them, for deploys. Whoever puts one back takes that
        away.
    """
    wanted = list(servers)
    words = "; ".join(f"set server {one.pool}/{one.name} state {state}" for one in wanted)
    kept = " ".join(sorted({f"{BY_HAND}/{one.name}" for one in wanted}))
    note = f"rm -f {kept}"
    if state == "drain":
        note = f"mkdir -p {BY_HAND}; touch {kept}" if by_hand else ":"
    # The mark is first: without it, the next deploy would undo what is cut off between the two.
    return f"""
        set -eu; umask 077
        {note}
        said=$(printf '%s\\n' '{words}' | timeout 20 socat -t 10 - UNIX-CONNECT:{SOCKET})
        [ -z "$said" ] || {{ printf '%s\\n' "$said" >&2; exit 1; }}
    """.strip()
