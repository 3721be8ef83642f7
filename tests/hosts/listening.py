"""Sockets as `ss` shows them, and what of it the settings leave room for.

Read here once more, and not with the functions by which a deploy judges them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.settings import HostSettings

#: UDP ports on which programs wait for their own answers, with those programs.
_CLIENTS = {
    68: {"dhclient", "systemd-network", "dhcpcd", "NetworkManager", "udhcpc"},
    546: {"dhclient", "systemd-network", "dhcpcd", "NetworkManager"},
}


@dataclass(frozen=True)
class Listener:
    """One socket that waits for others. ``programs`` is empty where nobody is seen to hold it."""

    protocol: str
    address: str
    port: int
    programs: tuple[str, ...]

    @property
    def loopback(self) -> bool:
        return self.address != "*" and ip_address(self.address).is_loopback

    def held_by(self, *names: str) -> bool:
        return bool(self.programs) and set(self.programs) <= set(names)

    def __str__(self) -> str:
        return (
            f"{self.protocol} {self.address} port {self.port} ({', '.join(self.programs) or '?'})"
        )


def read(text: str) -> Iterator[Listener]:
    """What ``ss -Hltunp`` printed.

    :raises HostError: a line cannot be read.
    """
    for line in text.splitlines():
        # Netid State Recv-Q Send-Q Local Peer users:(("name",pid=1,fd=2),...)
        match = re.fullmatch(
            r"(tcp|udp)\s+\S+\s+\d+\s+\d+\s+(\S+):(\d+)\s+\S+(?:\s+users:\((.*)\))?\s*.*", line
        )
        if match is None:
            raise HostError(f"ss printed a line that cannot be parsed: {line!r}")
        # An IPv4 address of an IPv6 socket, such as Java's, is that IPv4 address.
        address = re.sub(r"%[^\]]*", "", match[2]).strip("[]")
        address = re.sub(r"(?i)^::ffff:(?=[0-9.]+$)", "", address)
        programs = tuple(sorted(set(re.findall(r'\("((?:[^"\\]|\\.)*)"', match[4] or ""))))
        yield Listener(match[1], address, int(match[3]), programs)


def listeners(host: Host) -> list[Listener]:
    """Everything that waits for connections or packets on a host."""
    found = list(read(host.check_output("ss -Hltunp")))
    if not found:
        raise HostError("ss shows no socket at all, not even SSH's")
    return found


def expected(one: Listener, settings: HostSettings, ssh_ports: set[int]) -> bool:
    """Whether the settings leave room for a socket that is no agent's."""
    tcp = one.protocol == "tcp"
    if tcp and one.port in {settings.edge.https_port, settings.edge.http_port}:
        return one.held_by("nginx")
    if tcp and settings.behind_gateways and one.port == settings.gateway.port:
        return one.held_by("nginx")
    if tcp and settings.is_mirror and one.port == settings.mirror.port:
        return one.held_by("nginx")
    if one.loopback:
        return True  # closed from outside, and distributions put resolvers and time servers there
    firewall = settings.firewall
    if one.port in set(firewall.extra_tcp_ports if tcp else firewall.extra_udp_ports):
        return True
    if tcp:
        return one.port in ssh_ports and one.held_by("sshd", "systemd")
    return one.held_by(*_CLIENTS.get(one.port, ()))
