"""An inventory with a mirror: who asks it, and what contradicts. Nobody writes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from vllm_hosts.settings.exposure import port_problems
from vllm_hosts.settings.gateway_reach import is_local
from vllm_hosts.settings.host import HostSettings
from vllm_hosts.settings.mirror import MirrorAt
from vllm_hosts.settings.virtual import parsed


def with_mirror(
    hosts: Mapping[str, HostSettings], mirrors: Collection[str]
) -> dict[str, HostSettings]:
    """Settings by host name, where each host with agents knows the mirror, and the mirror them.

    Without a mirror nothing changes.

    :param mirrors: names of the hosts of the group; one, if nothing contradicts.
    """
    if not mirrors:
        return dict(hosts)
    [name] = mirrors
    mirror, asking = hosts[name], _asking(hosts)
    at = MirrorAt(name, mirror.address, mirror.mirror.port)
    found = dict(hosts)
    for one in asking:
        found[one.name] = one.model_copy(update={"mirror_at": at})
    own = {"mirror_at": MirrorAt(at.host, at.address, at.port, itself=True)}
    found[name] = mirror.model_copy(update=own | {"mirror_for": tuple(asking)})
    return found


def mirror_contradictions(
    hosts: Mapping[str, HostSettings], mirrors: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Why an inventory cannot have this mirror: a sentence, and whom it is about."""
    if not mirrors:
        return
    if len(mirrors) > 1:
        yield (
            f"the inventory: the group mirror has {len(mirrors)} hosts ({', '.join(mirrors[:3])}),"
            " and one fetches for all others; leave one of them in it",
            (),
        )
        return
    mirror = hosts[mirrors[0]]
    if not mirror.agents:
        yield (
            f"the inventory: the mirror {mirror.name!r} runs no agents, and it fetches models with"
            " their image; take a host of the group gpu_hosts as the mirror",
            (),
        )
        return
    yield from _address(mirror)
    yield from _port(mirror)
    for host in _asking(hosts):
        if host is not mirror and not asks_from(host):
            shown = '{"mirror": {"networks": ["192.0.2.7/32"]}}'
            yield (
                f"the inventory: the mirror {mirror.name!r} accepts {host.name!r} by its address"
                f" only, which {host.address!r} is not; say where its connections come from, in its"
                f" data: {shown}",
                (),
            )


def asks_from(host: HostSettings) -> tuple[IPv4Network | IPv6Network, ...]:
    """Where a host's connections to the mirror come from; empty: nobody has said so."""
    if host.mirror.networks:
        return host.mirror.networks
    try:
        return (ip_network(host.address),)
    except ValueError:
        return ()


def asking_networks(mirror: HostSettings) -> list[IPv4Network | IPv6Network]:
    """Where connections to a mirror may come from; its own go by its loopback interface."""
    others = (one for one in mirror.mirror_for if one.name != mirror.name)
    return [network for one in others for network in asks_from(one)]


def _asking(hosts: Mapping[str, HostSettings]) -> list[HostSettings]:
    """Hosts that need image and models."""
    return [host for host in hosts.values() if host.runs_agents and host.agents]


def _address(mirror: HostSettings) -> Iterator[tuple[str, tuple[str, ...]]]:
    if is_local(mirror.address):
        yield (
            f"the inventory: hosts are to reach the mirror {mirror.name!r} at {mirror.address!r},"
            " which is each of them itself; give its address in their network, as ssh_hostname",
            (),
        )
    address = parsed(mirror.address)
    if address is not None and address.version != 4:
        yield (
            f"the inventory: the mirror {mirror.name!r} has the address {mirror.address}, and"
            " Docker takes an image from a name or an IPv4 address; give one of these as"
            " ssh_hostname",
            (),
        )


def _port(mirror: HostSettings) -> Iterator[tuple[str, tuple[str, ...]]]:
    inner = {mirror.gateway.port: "gateway.port"} if mirror.behind_gateways else {}
    who = "hosts of the inventory"
    for problem in port_problems(mirror, "mirror.port", mirror.mirror.port, who, inner):
        yield problem, (mirror.name,)
