"""Which packets a host's firewall has to let through, and which not: from its settings alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.packets import Packet, Table

#: Strangers, one of which is in no network that settings name.
_STRANGERS = ("203.0.113.9", "198.51.100.9", "192.0.2.9", "9.9.9.9")
_STRANGERS_V6 = ("2001:db8:ffff::9", "2a00::9", "fd00::9")
#: Bridges as Docker, Podman, Kubernetes, libvirt and LXD call theirs.
_BRIDGES = ("docker0", "br-0123456789ab", "docker_gwbridge", "podman0", "cni0", "virbr0", "lxdbr0")
_NOBODY = (65534, "nobody")
#: Ports that are tried besides those that rules and settings name.
_PORTS = frozenset({1, 21, 22, 53, 80, 111, 443, 2375, 5000, 8000, 8080, 9100, 65535})
_INSIDE = 8000
#: Where agents would go: anywhere, a cloud's metadata, the network around, a name server.
_OUTSIDE = (
    ("203.0.113.9", 443, "tcp"),
    ("169.254.169.254", 80, "tcp"),
    ("10.0.0.1", 22, "tcp"),
    ("192.168.1.1", 53, "udp"),
)

Networks = Iterable[IPv4Network | IPv6Network]


def wrong(
    table: Table, settings: HostSettings, ssh_ports: set[int], edge_user: tuple[int, str]
) -> list[str]:
    """What a table lets through or keeps out against the settings, as sentences.

    :param ssh_ports: where sshd listens.
    :param edge_user: id and name of the user that nginx asks agents as.
    :raises HostError: the table has rules that are not understood.
    """
    found: dict[str, None] = {}
    named = sorted(table.addresses())
    for packet, passes, what in _expected(table.ports(), named, settings, ssh_ports, edge_user):
        if table.accepts(packet) != passes:
            found[f"{what} {'is kept out' if passes else 'passes'}"] = None
    return list(found)


def _expected(
    ports: set[int],
    named: list[str],
    settings: HostSettings,
    ssh_ports: set[int],
    edge_user: tuple[int, str],
) -> Iterator[tuple[Packet, bool, str]]:
    tried = ports | _PORTS | ssh_ports | {agent.port for agent in settings.agents}
    tried |= {settings.edge.http_port, settings.edge.https_port, settings.gateway.port}
    tried |= {settings.mirror.port}
    tried |= {near for port in tried for near in (port - 1, port + 1) if 0 < near < 65536}
    # A rule for a single network is met by nobody else.
    sources = sorted({*_sources(settings), *named})
    yield from _from_outside(tried, sources, settings, ssh_ports)
    yield from _to_containers(sources, settings)
    if settings.runs_agents:
        yield from _from_agents(tried, [one for one in named if ":" not in one], settings)
        yield from _from_users(settings, edge_user)


def _from_outside(
    tried: set[int], sources: list[str], settings: HostSettings, ssh_ports: set[int]
) -> Iterator[tuple[Packet, bool, str]]:
    edge = {settings.edge.http_port, settings.edge.https_port}
    firewall = settings.firewall
    for source in sources:
        to = "192.0.2.1" if ":" not in source else "2001:db8::1"
        for port in sorted(tried):
            passes = port in firewall.extra_tcp_ports
            passes |= port in ssh_ports and _among(source, firewall.ssh_from, everybody=True)
            passes |= port in edge and _among(source, settings.edge.allow_from, everybody=True)
            passes |= port == settings.gateway.port and _among(source, gateways_of(settings))
            passes |= port == settings.mirror.port and _among(source, askers_of(settings))
            passes |= any(
                port == agent.port and _among(source, agent.expose.networks)
                for agent in settings.own_agents
                if agent.expose is not None
            )
            what = f"what comes from {source} to port {port}"
            yield Packet("input", source, to, port), passes, what
            udp = port in firewall.extra_udp_ports
            yield Packet("input", source, to, port, "udp"), udp, f"{what} over UDP"
        inside = "127.0.0.1" if ":" not in source else "::1"
        packet = Packet("prerouting", source, inside, settings.agents[0].port)
        # Here, since later on Docker may have rewritten it.
        yield packet, False, f"what comes from {source} to {inside}"
    for port in sorted(edge | ssh_ports):
        goes_on = Packet("input", "203.0.113.9", "192.0.2.1", port, state="established")
        yield goes_on, True, f"a connection to port {port} that is there already"


def _to_containers(
    sources: list[str], settings: HostSettings
) -> Iterator[tuple[Packet, bool, str]]:
    cells = {agent.port: settings.cell(agent.name) for agent in settings.own_agents}
    bridges = [*_BRIDGES, *(cell.bridge for cell in cells.values())]
    for source in sources:
        to = "172.17.0.2" if ":" not in source else "fd00:17::2"
        for bridge in bridges:
            for port, protocol in ((80, "tcp"), (_INSIDE, "tcp"), (53, "udp")):
                packet = Packet("forward", source, to, port, protocol, leaves_by=bridge)
                yield packet, False, f"what comes from {source} to a container on {bridge}"
        for agent in settings.own_agents:
            cell = cells[agent.port]
            passes = agent.expose is not None and _among(source, agent.expose.networks)
            if ":" in source:
                continue  # an agent has no IPv6 address
            # What has the number of the port that is published, and goes to somebody else.
            for to, bridge in [
                *((str(cells[p].address), cells[p].bridge) for p in cells if p != agent.port),
                ("172.17.0.2", "docker0"),
                ("192.0.2.77", "eth0"),
            ]:
                elsewhere = Packet(
                    *("forward", source, to, _INSIDE, "tcp", "eth0", bridge),
                    asked_port=agent.port,
                )
                yield elsewhere, False, f"what comes from {source} to {to} by port {agent.port}"
            published = Packet(
                *("forward", source, str(cell.address), _INSIDE, "tcp", "eth0", cell.bridge),
                asked_port=agent.port,
            )
            yield published, passes, f"what comes from {source} to agent {agent.name}"
    # Containers of others may open connections, but none to an agent.
    outward = Packet("forward", "172.17.0.2", "203.0.113.9", 443, "tcp", "docker0", "eth0")
    yield outward, True, "what another container sends outside"
    for port, cell in cells.items():
        inward = Packet(
            *("forward", "172.17.0.2", str(cell.address), _INSIDE, "tcp", "docker0", cell.bridge)
        )
        yield inward, False, f"what another container sends to the agent of port {port}"


def _from_agents(
    tried: set[int], named: list[str], settings: HostSettings
) -> Iterator[tuple[Packet, bool, str]]:
    outside = [*_OUTSIDE, *((to, port, "tcp") for to in named for port in sorted(tried))]
    for agent in settings.agents:
        cell = settings.cell(agent.name)
        own, name = str(cell.address), f"agent {agent.name}"
        for to in (str(cell.gateway), "192.0.2.1"):
            for port in sorted(tried):
                packet = Packet("input", own, to, port, comes_by=cell.bridge)
                yield packet, False, f"what {name} sends to port {port} of its host"
        for to, port, protocol in outside:
            packet = Packet("forward", own, to, port, protocol, cell.bridge, "eth0")
            egress = agent.egress
            passes = (
                egress is not None
                and protocol == "tcp"
                and port in egress.tcp_ports
                and _among(to, egress.networks)
            )
            # Whether names pass here depends on the Docker that resolves them.
            if protocol == "tcp" or egress is None or not egress.names:
                yield packet, passes, f"what {name} sends to {to}"
        if agent.egress is not None:
            for network in agent.egress.networks:
                if network.version == 4:
                    to, port = str(network[0]), agent.egress.tcp_ports[0]
                    packet = Packet("forward", own, to, port, "tcp", cell.bridge, "eth0")
                    yield packet, True, f"what {name} sends to {to}, as its egress says,"
        for port in sorted({port for one in settings.agents for port in (one.port, _INSIDE)}):
            packet = Packet(
                *("forward", own, "192.0.2.77", port, "tcp", cell.bridge, "eth0"), asked_port=port
            )
            yield (
                packet,
                agent.egress is not None
                and port in agent.egress.tcp_ports
                and _among("192.0.2.77", agent.egress.networks),
                f"what {name} sends to port {port} outside",
            )
        for other in settings.agents:
            if other.name != agent.name:
                there = settings.cell(other.name)
                packet = Packet(
                    *("forward", own, str(there.address), _INSIDE, "tcp"),
                    *(cell.bridge, there.bridge),
                )
                yield packet, False, f"what {name} sends to agent {other.name}"


def _from_users(
    settings: HostSettings, edge_user: tuple[int, str]
) -> Iterator[tuple[Packet, bool, str]]:
    for agent in settings.agents:
        cell = settings.cell(agent.name)
        places = [(str(cell.address), _INSIDE, cell.bridge), ("127.0.0.1", agent.port, "lo")]
        for to, port, leaves in places:
            for user, passes in (((0, "root"), True), (edge_user, True), (_NOBODY, False)):
                if user == edge_user and leaves == "lo":
                    continue  # the edge asks the agent itself
                packet = Packet("output", to, to, port, "tcp", "", leaves, user=user)
                yield packet, passes, f"what user {user[1]} sends to agent {agent.name} at {to}"


def gateways_of(settings: HostSettings) -> list[IPv4Network | IPv6Network]:
    """Where a host's gateways come from; none where it is behind none."""
    return [network for gateway in settings.gateways for network in gateway.networks]


def askers_of(settings: HostSettings) -> list[IPv4Network | IPv6Network]:
    """Where hosts come from that ask this one, if it is the mirror."""
    others = (one for one in settings.mirror_for if one.name != settings.name)
    return [
        network for one in others for network in (one.mirror.networks or (ip_network(one.address),))
    ]


def _sources(settings: HostSettings) -> list[str]:
    """One address of every network that settings name, and a stranger of each family."""
    named: list[IPv4Network | IPv6Network] = [
        *settings.firewall.ssh_from,
        *settings.edge.allow_from,
        *gateways_of(settings),
        *askers_of(settings),
        *(net for agent in settings.own_agents if agent.expose for net in agent.expose.networks),
    ]
    strangers = []
    for some in (_STRANGERS, _STRANGERS_V6):
        strangers += [one for one in some if not _among(one, named)][:1]
    return [*strangers, *sorted({str(network[-1]) for network in named})]


def _among(address: str, networks: Networks, *, everybody: bool = False) -> bool:
    """Whether an address is in one of some networks.

    :param everybody: what no network stands for.
    """
    some = list(networks)
    return (everybody and not some) or any(ip_address(address) in network for network in some)
