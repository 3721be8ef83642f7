"""Which agents gateways send requests to, as HAProxy says it and is told it. Touches no host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vllm_hosts.host import balancer as haproxy
from vllm_hosts.host.balancer import ServerState
from vllm_hosts.host.paths import DRAINED


@dataclass(frozen=True)
class Member:
    """One agent, as one gateway sees it. ``running``: requests that it has, those of processes of
    before a reload included.

    ``by_hand``: somebody drained it with ``vllm-hosts agents drain``; ``gone``: the configuration
    no longer has it, and what runs there began before.
    """

    pool: str
    name: str
    up: bool
    drained: bool
    running: int
    by_hand: bool = False
    gone: bool = False

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

    servers: tuple[Member, ...]

    def of(self, names: Collection[str]) -> list[Member]:
        """The servers with these names, in whichever pools they are."""
        return [server for server in self.servers if server.name in names]

    def others_take(self, server: Member, going: Collection[str]) -> bool:
        """Whether somebody else gets the requests of a server, if these go as well."""
        return any(
            other.pool == server.pool and other.takes and other.name not in {server.name, *going}
            for other in self.servers
        )


def agent_of(server: str) -> str:
    """The agent that a server's name begins with; no agent's name has a dot."""
    return server.partition(".")[0]


def balancer(parts: Mapping[str, Sequence[str]], by_hand: Collection[str]) -> Balancer:
    """From the sections of ``balancer.query``.

    :param by_hand: names of servers that somebody drained. A mark of one that is not drained any
        more, such as after HAProxy's state was lost, says nothing.
    :raises ValueError: these are not HAProxy's.
    :raises KeyError: the same.
    """
    configured = haproxy.servers({name: parts[name] for name in ("admin", "now")})
    return Balancer(
        tuple(
            Member(
                one.pool,
                one.name,
                up=one.alive,
                # HAProxy takes no word about one that is gone.
                drained=one.drained and key in configured,
                running=one.running,
                by_hand=one.drained and one.name in by_hand,
                gone=key not in configured,
            )
            for key, one in haproxy.servers(parts).items()
        )
    )


def telling(servers: Iterable[Member], state: ServerState, *, by_hand: bool) -> str:
    """Shell: drain servers, or put them back. Fails with HAProxy's words if it does not do so.

    :param by_hand: keep that somebody drained them, for deploys. Whoever puts one back takes that
        away.
    """
    wanted = list(servers)
    kept = " ".join(sorted({f"{DRAINED}/{one.name}" for one in wanted}))
    note = f"rm -f {kept}"
    if state is ServerState.DRAIN:
        note = f"mkdir -p {DRAINED}; touch {kept}" if by_hand else ":"
    # The mark is first: without it, the next deploy would undo what is cut off between the two.
    told = "".join(haproxy.told(one.pool, one.name, state) for one in wanted)
    return f"set -eu; umask 077; {note}\n{told}"
