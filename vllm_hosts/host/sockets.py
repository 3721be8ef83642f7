"""Which sockets a host may listen on, and which of its sockets are others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from vllm_hosts.settings import HostSettings
from vllm_hosts.text import LIMIT, clean

_PROGRAM = re.compile(r'\("([^"]+)"')
#: A program as ss shows it. The name is whatever the program calls itself, in at most 15 bytes: too
#: few to imitate what separates two programs; after a quote in it, only the last number is ss's.
_HOLDER = re.compile(r'\("([^"]*)",pid=([0-9]+),fd=[0-9]+\)')
_HOLDERS = re.compile(rf"users:\({_HOLDER.pattern}(,{_HOLDER.pattern})*\)")
_LAST = re.compile(r'\("(.*)",pid=([0-9]+),fd=[0-9]+\)')
#: Programs that may hold an agent's port: Docker's, whichever way it publishes ports.
_DOCKER = {"docker-proxy", "dockerd"}
#: UDP ports that clients of a network service hold open for its answers.
_CLIENT_UDP = {
    68: {"dhclient", "systemd-network", "dhcpcd", "NetworkManager", "udhcpc"},
    546: {"dhclient", "systemd-network", "dhcpcd", "NetworkManager"},
}


@dataclass(frozen=True)
class Socket:
    """A listening socket as ``ss -Hltunp`` shows it. ``programs`` is empty if it shows none."""

    protocol: str
    address: str
    port: int
    programs: frozenset[str]

    @property
    def loopback(self) -> bool:
        """Whether only this host itself can reach it."""
        if self.address == "*":
            return False
        return ip_address(self.address).is_loopback

    def __str__(self) -> str:
        held = ", ".join(sorted(self.programs)) or "an unknown program"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {host}:{self.port} ({held})"


def holder(programs: str, user: str = "") -> str:
    """Who holds a socket, for people: ``python3 (pid 4711, user alice)``; empty if ss shows nobody.

    :param programs: what ``ss -p`` prints of them.
    """
    found = dict.fromkeys(_held(programs))
    of = f", user {clean(user, 40)}" if user else ""
    named = [f"{clean(name, 40)} (pid {pid}{of})" for name, pid in found]
    return " and ".join(named[:2]) + (f" and {len(named) - 2} more" if len(named) > 2 else "")


def pids(programs: str) -> list[str]:
    """The numbers of the programs that hold a socket."""
    return list(dict.fromkeys(pid for _, pid in _held(programs)))


def _held(programs: str) -> list[tuple[str, str]]:
    """Names and numbers."""
    programs = programs.strip()[:LIMIT]
    whole = _HOLDERS.fullmatch(programs)
    return (_HOLDER if whole else _LAST).findall(programs)


def parse(line: str) -> Socket:
    """One line of ``ss -Hltunp``.

    :raises ValueError: it is not one.
    """
    fields = line.split(None, 6)
    if len(fields) < 6:
        raise ValueError(f"not a line of ss: {line!r}")
    address, _, port = fields[4].rpartition(":")
    # An address may carry its interface, and IPv6 has brackets: 127.0.0.53%lo, [fe80::1]%eth0.
    address = plain(address.replace("[", "").replace("]", "").partition("%")[0])
    programs = frozenset(_PROGRAM.findall(fields[6])) if len(fields) > 6 else frozenset[str]()
    return Socket(fields[0], address, int(port), programs)


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
    lines: Iterable[str], settings: HostSettings, ssh_ports: Iterable[int]
) -> Iterator[str]:
    """Sentences about sockets that should not exist, and agents that listen too widely.

    Programs may listen on loopback, which cannot be reached from outside. But an agent's port must
    be Docker's, since local tools assume that whatever listens there is the agent.

    :param lines: what ``ss -Hltunp`` printed, as root.
    :param ssh_ports: where sshd really listens.
    :raises ValueError: a line cannot be parsed.
    """
    ssh = set(ssh_ports)
    agents = {agent.port: agent for agent in settings.agents}
    for socket in map(parse, lines):
        if socket.protocol == "tcp" and socket.port in agents:
            agent = agents[socket.port]
            if socket.address not in agent.listen_addresses:
                only = " and ".join(agent.listen_addresses)
                yield f"agent {agent.name!r} listens on {socket}, not only on {only}"
            elif not _held_by(socket, _DOCKER):
                yield f"the port of agent {agent.name!r} is taken: {socket}"
        elif not _expected(socket, settings, ssh):
            yield _unexpected(socket)


def strangers(
    lines: Iterable[str],
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
    wanted = {agent.port for agent in settings.agents}
    wanted |= {settings.edge.https_port, settings.edge.http_port}
    for socket in map(parse, lines):
        ssh = {socket.port}
        if socket.port in wanted or _expected(socket, settings, ssh):
            continue
        if _held_by(socket, {"nginx"}) and socket.port not in of_sites:
            continue
        if not (_held_by(socket, _DOCKER) and socket.port in own):
            yield _unexpected(socket)


def _unexpected(socket: Socket) -> str:
    narrower = "publish it on 127.0.0.1, " if _held_by(socket, _DOCKER) else ""
    return (
        f"something listens on {socket}; {narrower}stop it, or name its port in"
        f" firewall.extra_{socket.protocol}_ports"
    )


def _held_by(socket: Socket, programs: Set[str]) -> bool:
    return bool(socket.programs) and socket.programs <= programs


def _expected(socket: Socket, settings: HostSettings, ssh: set[int]) -> bool:
    if socket.protocol == "udp":
        return (
            socket.loopback
            or socket.port in settings.firewall.extra_udp_ports
            or _held_by(socket, _CLIENT_UDP.get(socket.port, set()))
        )
    if socket.port in (settings.edge.https_port, settings.edge.http_port):
        return _held_by(socket, {"nginx"})
    if socket.loopback or socket.port in settings.firewall.extra_tcp_ports:
        return True
    return socket.port in ssh and _held_by(socket, {"sshd", "systemd"})
