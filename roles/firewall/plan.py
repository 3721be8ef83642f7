"""A host's firewall as text, from its settings and the SSH ports in use. Touches no host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network

from vllm_hosts.host.files import Entry, File, Folder
from vllm_hosts.host.firewall import Surroundings
from vllm_hosts.host.paths import FIREWALL_RULES, FIREWALL_UNIT
from vllm_hosts.host.render import render
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.settings.cells import BRIDGE_PREFIX, CONTAINER_PORT, FETCHING
from vllm_hosts.settings.mirrored import asking_networks

RULES, UNIT = FIREWALL_RULES, FIREWALL_UNIT


def firewall_entries(
    settings: HostSettings, ssh_ports: Iterable[int], around: Surroundings
) -> list[Entry]:
    """The table and the unit that loads it before the network comes up.

    :param ssh_ports: where sshd really listens; at least one.
    :param around: properties of the host that the rules depend on.
    """
    return [
        Folder("/etc/vllm-hosts"),
        File(RULES, rules(settings, ssh_ports, around).encode()),
        File(
            f"/etc/systemd/system/{UNIT}",
            render("firewall/vllm-hosts-firewall.service.j2", rules=RULES).encode(),
        ),
    ]


def rules(settings: HostSettings, ssh_ports: Iterable[int], around: Surroundings) -> str:
    """The nftables file. Whatever no rule accepts is dropped.

    :raises ValueError: there is no SSH port, which would lock everybody out.
    """
    ports = sorted(set(ssh_ports))
    if not ports:
        raise ValueError("no SSH port is known, and a firewall without one locks everybody out")
    edge = settings.edge
    accepted = [
        *_accept(ports, settings.firewall.ssh_from, "SSH"),
        *_accept([edge.http_port, edge.https_port], edge.allow_from, "the edge"),
    ]
    if settings.behind_gateways:
        sources = [network for one in settings.gateways for network in one.networks]
        # Not counted by source: a gateway's connections are those of many clients.
        accepted += _accept([settings.gateway.port], sources, "gateways")
    if settings.is_mirror:
        accepted += _accept([settings.mirror.port], asking_networks(settings), "the mirror")
    accepted += _virtual(settings)
    further = settings.firewall
    if further.extra_tcp_ports:
        accepted += _accept(further.extra_tcp_ports, (), "firewall.extra_tcp_ports")
    if further.extra_udp_ports:
        accepted += _accept(further.extra_udp_ports, (), "firewall.extra_udp_ports", "udp dport")
    exposed = []
    for agent in settings.own_agents:
        if agent.expose is not None:
            comment = f"agent {agent.name} is exposed"
            # Published ports are forwarded; what Docker's own proxy accepts is input to the host.
            accepted += _accept([agent.port], agent.expose.networks, comment)
            exposed += _published(settings, agent, comment)
    return render(
        "firewall/firewall.nft.j2",
        virtual=settings.virtual is not None,
        accepted=accepted,
        exposed=exposed,
        egress=list(_egress(settings)),
        uplinks=around.uplinks,
        forward_from=further.forward_from,
        bridges=f"{BRIDGE_PREFIX}*",
        fetching=FETCHING,
        cells=settings.vllm.network,
        users=", ".join(map(str, sorted({0, around.edge_user}))),
        edge_ports=", ".join(map(str, sorted({edge.http_port, edge.https_port}))),
        agent_ports=", ".join(str(port) for port in sorted(a.port for a in settings.own_agents)),
        per_source=edge.connections_per_source,
        # Whoever has an IPv6 network has many subnets: an IPv6 /48 counts as four sources.
        per_site=4 * edge.connections_per_source,
    )


def _virtual(settings: HostSettings) -> list[str]:
    """VRRP, from the gateways that share an address with this one."""
    if settings.virtual is None:
        return []
    family = "ip" if settings.virtual.address.version == 4 else "ip6"
    sources = ", ".join(sorted(map(str, settings.virtual.peers)))
    return [f'{family} saddr {{ {sources} }} meta l4proto 112 accept comment "other gateways"']


def _published(settings: HostSettings, agent: Agent, comment: str) -> list[str]:
    """Packets that Docker has rewritten to an agent, and no others with the same port.

    An agent has no IPv6 address: connections over IPv6 go through Docker's proxy.
    """
    assert agent.expose is not None
    cell = settings.cell(agent.name)
    networks = [one for one in agent.expose.networks if isinstance(one, IPv4Network)]
    there = f'iifname != "{BRIDGE_PREFIX}*" oifname "{cell.bridge}" ip daddr {cell.address}'
    match = f"tcp dport {CONTAINER_PORT} ct original proto-dst"
    rules = _accept([agent.port], networks, comment, match) if networks else []
    return [f"{there} {rule}" for rule in rules]


def _egress(settings: HostSettings) -> Iterator[str]:
    """What agents may connect to."""
    for agent in settings.own_agents:
        if agent.egress is not None:
            bridge = settings.cell(agent.name).bridge
            comment = f"egress of agent {agent.name}"
            for rule in _accept(
                agent.egress.tcp_ports,
                agent.egress.networks,
                comment,
                match="tcp dport",
                to="daddr",
            ):
                yield f'iifname "{bridge}" {rule}'


def _accept(
    ports: Sequence[int],
    sources: Sequence[IPv4Network | IPv6Network],
    comment: str,
    match: str = "tcp dport",
    to: str = "saddr",
) -> list[str]:
    numbers = ", ".join(map(str, sorted(set(ports))))
    rule = f'{match} {{ {numbers} }} accept comment "{comment}"'
    if not sources:
        return [rule]
    lines = []
    for family, kind in (("ip", IPv4Network), ("ip6", IPv6Network)):
        chosen = sorted({str(source) for source in sources if isinstance(source, kind)})
        if chosen:
            lines.append(f"{family} {to} {{ {', '.join(chosen)} }} {rule}")
    return lines
