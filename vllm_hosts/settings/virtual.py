"""One address for all gateways of an inventory: who has a part in it, and what contradicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from vllm_hosts.settings.fleet import VirtualAddress
from vllm_hosts.settings.host import HostSettings
from vllm_hosts.settings.types import Address

#: Hosts that a sentence is about, where it does not name them.
_ALL: tuple[str, ...] = ()


def virtual_of(gateway: HostSettings, front: Sequence[HostSettings]) -> VirtualAddress | None:
    """What a gateway knows of the virtual address; None: there is none.

    :param front: all gateways, of which nothing contradicts.
    """
    address = gateway.gateway.virtual_ip
    own = _own(gateway)
    if address is None or own is None:
        return None
    others = [found for one in front if one is not gateway and (found := _own(one)) is not None]
    place = [one is gateway for one in front].index(True)
    return VirtualAddress(address, own, tuple(others), place)


def virtual_contradictions(
    front: Sequence[HostSettings], behind: Sequence[HostSettings]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Why the gateways cannot share an address: a sentence, and whom it is about."""
    said = {one.name: one.gateway.virtual_ip for one in front}
    [first, *others] = dict.fromkeys(said.values())
    if others:
        shown = ", ".join(f"{address or 'none'} for {name}" for name, address in said.items())
        yield (
            f"gateway.virtual_ip is {shown}, and all gateways of an inventory share one; set it in"
            " group_data/gateways.py",
            _ALL,
        )
        return
    if first is None:
        return
    if len(front) == 1:
        yield (
            f"gateway.virtual_ip {first} is for two gateways or more, and {front[0].name} is the"
            " only one; add another to the group gateways, or remove the setting and let clients"
            " use this one's own address",
            _ALL,
        )
    for host in (*front, *behind):
        if parsed(host.address) == first or (host in front and _own(host) == first):
            yield (
                f"gateway.virtual_ip {first} is the own address of {host.name}, and no machine may"
                " have it for itself; choose a free one of the same network",
                _ALL,
            )
    yield from _sources(first, front)
    ports = {one.edge.https_port for one in front}
    if len(ports) > 1:
        shown = ", ".join(f"{one.edge.https_port} for {one.name}" for one in front)
        yield (
            f"edge.https_port is {shown}, and clients of gateway.virtual_ip {first} use one port,"
            " whichever gateway has the address; set the same for all, in group_data/gateways.py",
            _ALL,
        )


def _sources(
    shared: Address, front: Sequence[HostSettings]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each gateway needs an address of its own, of the same kind."""
    by_address: dict[Address, list[str]] = defaultdict(list)
    for gateway in front:
        own = _own(gateway)
        if own is None or own.version != shared.version:
            kind = f"IPv{shared.version}"
            had = gateway.gateway.virtual_source or gateway.address
            shown = '{"gateway": {"virtual_source": "ADDRESS"}}'
            yield (
                f"the gateway {gateway.name} speaks with the others from an {kind} address, since"
                f" gateway.virtual_ip {shared} is one, and {str(had)!r} is none; give the one that"
                f" it has in that network, in its data: {shown}",
                _ALL,
            )
        else:
            by_address[own].append(gateway.name)
    for address, names in by_address.items():
        if len(names) > 1:
            yield (
                f"the gateways {' and '.join(names)} would speak with each other from the same"
                f" address {address}; set gateway.virtual_source in the data of each",
                _ALL,
            )


def _own(gateway: HostSettings) -> Address | None:
    """From where a gateway speaks with the others; None: nobody has said so."""
    return gateway.gateway.virtual_source or parsed(gateway.address)


def parsed(text: str) -> Address | None:
    """An address; None: it is a name."""
    try:
        return ip_address(text)
    except ValueError:
        return None
