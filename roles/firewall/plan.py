"""The firewall of a host as text, from its settings and the SSH ports in use. Touches no host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network

from vllm_hosts.render import render
from vllm_hosts.settings import HostSettings
from vllm_hosts.tree import Entry, File, Folder

RULES = "/etc/vllm-hosts/firewall.nft"
UNIT = "vllm-hosts-firewall.service"


def firewall_entries(settings: HostSettings, ssh_ports: Iterable[int]) -> list[Entry]:
    """The table and the unit that loads it before the network comes up.

    :param ssh_ports: where sshd really listens; at least one.
    """
    return [
        Folder("/etc/vllm-hosts"),
        File(RULES, rules(settings, ssh_ports).encode()),
        File(
            f"/etc/systemd/system/{UNIT}",
            render("firewall/vllm-hosts-firewall.service.j2", rules=RULES).encode(),
        ),
    ]


def rules(settings: HostSettings, ssh_ports: Iterable[int]) -> str:
    """The nftables file. Everything that no rule accepts is dropped.

    :raises ValueError: no SSH port, which would lock everybody out.
    """
    ports = sorted(set(ssh_ports))
    if not ports:
        raise ValueError("no SSH port is known, and a firewall without one locks everybody out")
    edge = settings.edge
    accepted = [
        *_accept(ports, settings.firewall.ssh_from, "SSH"),
        *_accept([edge.http_port, edge.https_port], edge.allow_from, "the edge"),
    ]
    further = settings.firewall
    if further.extra_tcp_ports:
        accepted += _accept(further.extra_tcp_ports, (), "firewall.extra_tcp_ports")
    if further.extra_udp_ports:
        accepted += _accept(further.extra_udp_ports, (), "firewall.extra_udp_ports", "udp dport")
    exposed = []
    for agent in settings.agents:
        if agent.expose is not None:
            comment = f"agent {agent.name} is exposed"
            # Published ports are forwarded; what Docker's own proxy takes comes to the host itself.
            accepted += _accept([agent.port], agent.expose.networks, comment)
            exposed += _accept(
                [agent.port],
                agent.expose.networks,
                comment,
                "meta l4proto tcp ct original proto-dst",
            )
    return render("firewall/firewall.nft.j2", accepted=accepted, exposed=exposed)


def _accept(
    ports: Sequence[int],
    sources: Sequence[IPv4Network | IPv6Network],
    comment: str,
    match: str = "tcp dport",
) -> list[str]:
    numbers = ", ".join(map(str, sorted(set(ports))))
    rule = f'{match} {{ {numbers} }} accept comment "{comment}"'
    if not sources:
        return [rule]
    lines = []
    for family, kind in (("ip", IPv4Network), ("ip6", IPv6Network)):
        chosen = sorted(str(source) for source in sources if isinstance(source, kind))
        if chosen:
            lines.append(f"{family} saddr {{ {', '.join(chosen)} }} {rule}")
    return lines
