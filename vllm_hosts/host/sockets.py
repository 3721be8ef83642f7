"""What ``ss`` shows of a host's sockets, and which of them should not be there. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from vllm_hosts.settings import HostSettings
from vllm_hosts.text import LIMIT, clean

#: Asks root's ``ss`` for all that listens, TCP and UDP, with its programs and its owner.
LISTENING = "ss -Hltunpe"
#: Shell: the users whose sockets those are, as ``NAME:NUMBER``. No name of a program is in it.
OWNERS = r"""
ss -Hltune | sed -n 's/.* uid:\([0-9]*\) .*/\1/p' | sort -u | head -n 100 |
    xargs -r getent passwd | cut -d : -f 1,3
""".strip()

#: A program as ss shows it: its name is whatever it calls itself, in 15 bytes. They are too few for
#: all that stands between two programs, but with a quote among them only the last number is ss's.
_HOLDER = re.compile(r'\("([^"]*)",pid=([0-9]+),fd=[0-9]+\)')
_HOLDERS = re.compile(rf"users:\({_HOLDER.pattern}(,{_HOLDER.pattern})*\)(?!\S)")
_LAST = re.compile(r'\("(.*)",pid=([0-9]+),fd=[0-9]+\)')
_UID = re.compile(r" uid:([0-9]{1,10})(?!\S)")
#: Who may hold an agent's port: Docker, whichever way it publishes.
DOCKER = {"docker-proxy", "dockerd"}
#: UDP ports that clients of a network service hold open for its answers.
_CLIENT_UDP = {
    68: {"dhclient", "systemd-network", "dhcpcd", "NetworkManager", "udhcpc"},
    546: {"dhclient", "systemd-network", "dhcpcd", "NetworkManager"},
}


@dataclass(frozen=True)
class Program:
    """One that holds a socket, by the name that it gives itself."""

    name: str
    pid: str


@dataclass(frozen=True)
class Socket:
    """A listening socket as ``ss`` shows it. ``holders`` is empty where it shows none.

    ``uid``: whose it is; None: that cannot be told. ``user`` is the name for that, where names were
    asked for.
    """

    protocol: str
    address: str
    port: int
    holders: tuple[Program, ...] = ()
    uid: int | None = None
    user: str = ""

    @property
    def loopback(self) -> bool:
        """Whether only this host itself can reach it."""
        if self.address == "*":
            return False
        return ip_address(self.address).is_loopback

    @property
    def programs(self) -> frozenset[str]:
        """The names of those that hold it."""
        return frozenset(holder.name for holder in self.holders)

    @property
    def pids(self) -> list[str]:
        """The numbers of those that hold it."""
        return list(dict.fromkeys(holder.pid for holder in self.holders))

    @property
    def who(self) -> str:
        """Who holds it, for people: ``python3 (pid 4711, user alice)``; empty: ss shows nobody."""
        found = dict.fromkeys((holder.name, holder.pid) for holder in self.holders)
        of = f", user {clean(self.user, 40)}" if self.user else ""
        named = [f"{clean(name, 40)} (pid {pid}{of})" for name, pid in found]
        return " and ".join(named[:2]) + (f" and {len(named) - 2} more" if len(named) > 2 else "")

    def held_by(self, *programs: str) -> bool:
        """Whether these hold it, and nobody else."""
        return bool(self.programs) and self.programs <= set(programs)

    def shared_by(self, *programs: str) -> bool:
        """Whether one of these holds it, maybe beside others."""
        return not self.programs.isdisjoint(programs)

    def __str__(self) -> str:
        held = ", ".join(sorted(self.programs)) or "an unknown program"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {host}:{self.port} ({held})"


def read(lines: Iterable[str], users: Iterable[str] | None = None) -> Iterator[Socket]:
    """What ``LISTENING`` printed.

    :param users: what ``OWNERS`` printed; None: names do not matter.
    :raises ValueError: a line is not one of ss.
    """
    names = None
    if users is not None:
        names = {uid: name for name, _, uid in (user.rpartition(":") for user in users)}
    for line in lines:
        yield _socket(line, names)


def _socket(line: str, names: Mapping[str, str] | None) -> Socket:
    fields = line.split(None, 6)
    if len(fields) < 6 or fields[0] not in ("tcp", "udp"):
        raise ValueError(f"not a line of ss: {clean(line, 200)!r}")
    address, _, port = fields[4].rpartition(":")
    # An address may carry its interface, and IPv6 has brackets: 127.0.0.53%lo, [fe80::1]%eth0.
    address = plain(address.replace("[", "").replace("]", "").partition("%")[0])
    rest = fields[6][:LIMIT] if len(fields) > 6 else ""
    if whole := _HOLDERS.match(rest):
        held, rest = _HOLDER.findall(whole[0]), rest[whole.end() :]
    else:
        # A group's name stands behind the programs, and is whatever a user called it.
        held = _LAST.findall(rest.partition(" cgroup:")[0])
    # ss says whose a socket is only where it is not root's.
    found = set(_UID.findall(f" {rest}"))
    uid = None if len(found) > 1 or "ino:" not in rest else int(found.pop()) if found else 0
    user = "" if uid is None or names is None else names.get(str(uid), str(uid) if uid else "root")
    return Socket(fields[0], address, int(port), tuple(Program(*one) for one in held), uid, user)


def plain(address: str) -> str:
    """The address that clients reach: Java and others listen on IPv4 through an IPv6 socket, which
    ss shows as ``::ffff:127.0.0.1``.

    :raises ValueError: it is not an address.
    """
    if address == "*":
        return address
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


def unexpected_sockets(
    sockets: Iterable[Socket], settings: HostSettings, ssh_ports: Iterable[int]
) -> Iterator[str]:
    """Sentences about sockets that should not exist, and agents that listen too widely.

    Programs may listen on loopback, which cannot be reached from outside. But an agent's port must
    be Docker's, since local tools assume that whatever listens there is the agent.

    :param sockets: as root sees them.
    :param ssh_ports: where sshd really listens.
    """
    ssh = set(ssh_ports)
    agents = {agent.port: agent for agent in settings.own_agents}
    for socket in sockets:
        if socket.protocol == "tcp" and socket.port in agents:
            agent = agents[socket.port]
            if socket.address not in agent.listen_addresses:
                only = " and ".join(agent.listen_addresses)
                yield f"agent {agent.name!r} listens on {socket}, not only on {only}"
            elif not socket.held_by(*DOCKER):
                yield f"the port of agent {agent.name!r} is taken: {socket}"
        elif not _expected(socket, settings, ssh):
            yield _unexpected(socket)


def strangers(
    sockets: Iterable[Socket],
    settings: HostSettings,
    *,
    own: Set[int],
    of_sites: Set[int],
) -> Iterator[str]:
    """Sockets for which a deploy would fail at its end, before it begins: it will not close them.

    Which ports sshd may listen on is left to the firewall's role, which has to find them.

    :param own: ports that our containers publish, which the deploy may close.
    :param of_sites: TCP ports where nginx listens for other people's sites; its remaining ports
        may be those of the present edge.
    """
    # A port that is taken has a sentence of its own.
    wanted = {*(agent.port for agent in settings.own_agents), *edge_ports(settings)}
    for socket in sockets:
        ssh = {socket.port}
        if socket.port in wanted or _expected(socket, settings, ssh):
            continue
        if socket.held_by("nginx") and socket.port not in of_sites:
            continue
        if not (socket.held_by(*DOCKER) and socket.port in own):
            yield _unexpected(socket)


def edge_ports(settings: HostSettings) -> dict[int, str]:
    """Where nginx listens, with the settings that say so."""
    edge = settings.edge
    found = {edge.https_port: "edge.https_port", edge.http_port: "edge.http_port"}
    found |= {settings.gateway.port: "gateway.port"} if settings.behind_gateways else {}
    return found | ({settings.mirror.port: "mirror.port"} if settings.is_mirror else {})


def _unexpected(socket: Socket) -> str:
    narrower = "publish it on 127.0.0.1, " if socket.held_by(*DOCKER) else ""
    return (
        f"something listens on {socket}; {narrower}stop it, or name its port in"
        f" firewall.extra_{socket.protocol}_ports"
    )


def _expected(socket: Socket, settings: HostSettings, ssh: set[int]) -> bool:
    if socket.protocol == "udp":
        return (
            socket.loopback
            or socket.port in settings.firewall.extra_udp_ports
            or socket.held_by(*_CLIENT_UDP.get(socket.port, ()))
        )
    if socket.port in edge_ports(settings):
        return socket.held_by("nginx")
    if socket.loopback or socket.port in settings.firewall.extra_tcp_ports:
        return True
    return socket.port in ssh and socket.held_by("sshd", "systemd")
