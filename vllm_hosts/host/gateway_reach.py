"""Whether a gateway has a way to the hosts behind it. Touches no host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from vllm_hosts.bounded import parse_json
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Replica
from vllm_hosts.settings.gateway_reach import networks_of
from vllm_hosts.settings.types import Address
from vllm_hosts.settings.virtual import parsed

#: Has a route on every machine: where it is missing, nothing was read.
CONTROL = ip_address("127.0.0.1")
_SHOWN = 3


@dataclass(frozen=True)
class IpRoute:
    """How the kernel sends packets to an address.

    :param source: the machine's own address that they come from; None: not said.
    :param direct: whether they go there without a router.
    """

    source: Address | None = None
    direct: bool = False


@dataclass(frozen=True)
class Ways:
    """What a gateway knows of where hosts are.

    :param named: addresses by name, in the order in which they are tried.
    :param routes: by address; those without a route are not there.
    """

    named: Mapping[str, tuple[Address, ...]]
    routes: Mapping[Address, IpRoute]


def ways(named: Sequence[str], routes: Sequence[str]) -> Ways:
    """From lines ``NAME ADDRESS``, and what ``ip -j -batch`` printed for each address.

    :raises ValueError: it is not what these programs print.
    """
    by_name: dict[str, dict[Address, None]] = {}
    for line in named:
        name, address = line.split()
        by_name.setdefault(name, {})[ip_address(address)] = None
    found: dict[Address, IpRoute] = {}
    for line in routes:
        for one in parse_json(line):
            source = one.get("prefsrc")
            found[ip_address(one["dst"])] = IpRoute(
                source=ip_address(source) if source else None,
                direct="gateway" not in one and "via" not in one and one.get("type") != "local",
            )
    if CONTROL not in found:
        raise ValueError(f"no route to {CONTROL}")
    return Ways({name: tuple(addresses) for name, addresses in by_name.items()}, found)


def replicas_elsewhere(settings: HostSettings) -> list[Replica]:
    """What a gateway reaches on other machines."""
    front = settings.as_gateway
    pools = front.pools if front else ()
    return [one for pool in pools for one in pool.replicas if one.host != settings.name]


def reach_problems(settings: HostSettings, there: Ways) -> Iterator[str]:
    """Why a gateway does not get to hosts behind it, one sentence for each cause."""
    networks = networks_of(settings)
    hosts = {one.host: one.address for one in replicas_elsewhere(settings)}
    problems: dict[Callable[[str], str], list[str]] = {}
    sources: dict[Address, list[str]] = {}
    for host, address in hosts.items():
        shown = host if host == address else f"{host} ({address})"
        literal = parsed(address)
        found = (literal,) if literal else there.named.get(address, ())
        elsewhere = [one for one in found if not (one.is_loopback or one.is_unspecified)]
        routed = [there.routes[one] for one in elsewhere if one in there.routes]
        if not found:
            problems.setdefault(_unknown, []).append(shown)
        elif not elsewhere:
            problems.setdefault(_itself, []).append(shown)
        elif not routed:
            problems.setdefault(_unrouted, []).append(shown)
        elif (own := _refused(routed[0], networks)) is not None:
            sources.setdefault(own, []).append(host)
    for sentence, shown_hosts in problems.items():
        yield sentence(_listed(shown_hosts))
    for own, reached in sources.items():
        yield (
            f"this gateway would reach {_listed(reached)} from {own}, and hosts accept it from"
            f" {', '.join(map(str, networks))} only; say where its connections come from, in its"
            f' data: {{"gateway": {{"networks": ["{own}/{own.max_prefixlen}"]}}}}'
        )


def _refused(route: IpRoute, networks: Sequence[IPv4Network | IPv6Network]) -> Address | None:
    """The address that a host would not accept; None: it would, or a router may change it."""
    own = route.source
    if own is None or not route.direct or any(own in network for network in networks):
        return None
    return own


def _unknown(hosts: str) -> str:
    return (
        f"this gateway finds no address for {hosts}; add the name to DNS, or to /etc/hosts here, or"
        " give the host's address as ssh_hostname"
    )


def _itself(hosts: str) -> str:
    return (
        f"this gateway takes {hosts} for itself; correct that name in /etc/hosts here, or give the"
        " host's address as ssh_hostname"
    )


def _unrouted(hosts: str) -> str:
    return (
        f"this gateway has no route to {hosts}; connect it to that network, or give an address that"
        " gateways and the controller reach as ssh_hostname"
    )


def _listed(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - _SHOWN} more" if len(hosts) > _SHOWN else ""
    return ", ".join(hosts[:_SHOWN]) + more
