"""Where in a gateway's networks a virtual address would be, and who has it. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Any

from vllm_hosts.bounded import parse_json
from vllm_hosts.errors import HostError
from vllm_hosts.settings.fleet import VirtualAddress
from vllm_hosts.settings.types import Address
from vllm_hosts.text import clean

#: Shell: all addresses of this host, its neighbours, and the routers that it sends the rest to.
ADDRESSES = "ip -j address show"
NEIGHBOURS = "ip -j neigh show"
ROUTERS = "{ ip -j -4 route show default; ip -j -6 route show default; } 2>/dev/null"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
#: Of a neighbour that was asked and has not answered, or is not asked.
_SILENT = {"FAILED", "INCOMPLETE", "NOARP", "NONE"}
_SHOWN = 6
#: Characters of a name, or of a number on the wire, that a sentence has.
_LONGEST = 40


@dataclass(frozen=True)
class Interface:
    """A network interface with its addresses, each with the length of its network."""

    name: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]

    def has(self, address: Address) -> bool:
        """Whether it is one of this interface's own."""
        return any(one.ip == address for one in self.addresses)

    def network_of(self, address: Address) -> IPv4Interface | IPv6Interface | None:
        """Its own address in the network that an address is in."""
        found = [one for one in self.addresses if one.ip != address and address in one.network]
        # What keepalived has given it has no network.
        return next((one for one in found if one.network.num_addresses > 1), None)


@dataclass(frozen=True)
class Ground:
    """What a gateway is among.

    :param ours: whether our keepalived has been told of the address here, so that it may be there.
    :param neighbours: who answers for an address, by its number on the wire.
    :param routers: who may answer for addresses that are not theirs.
    """

    interfaces: tuple[Interface, ...]
    ours: bool = True
    neighbours: Mapping[Address, str] = field(default_factory=dict)
    routers: frozenset[Address] = frozenset()


def interfaces(text: str) -> tuple[Interface, ...]:
    """From what ``ADDRESSES`` printed, without loopback.

    :raises ValueError: it is not what ip prints.
    """
    found = []
    for link in _objects(text):
        addresses = [
            ip_interface(f"{one['local']}/{int(one['prefixlen'])}")
            for one in link.get("addr_info", [])
            if one.get("family") in ("inet", "inet6") and "local" in one
        ]
        if link.get("link_type") != "loopback":
            found.append(Interface(str(link["ifname"]), tuple(addresses)))
    return tuple(found)


def neighbours(text: str) -> dict[Address, str]:
    """From what ``NEIGHBOURS`` printed: those that answer."""
    return {
        ip_address(str(one["dst"])): clean(str(one["lladdr"]), _LONGEST)
        for one in _objects(text)
        if "lladdr" in one and not _SILENT & set(one.get("state", ()))
    }


def routers(lines: Sequence[str]) -> frozenset[Address]:
    """From what ``ROUTERS`` printed, a line for each kind of address."""
    found = [one for line in lines for one in _objects(line)]
    return frozenset(ip_address(str(one["gateway"])) for one in found if "gateway" in one)


def _objects(text: str) -> list[dict[str, Any]]:
    found = parse_json(text) if text.strip() else []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("ip prints no list")
    # Where a filter leaves something out, older ones print an empty object for it.
    return [one for one in found if one]


def interface_for(virtual: VirtualAddress, ground: Ground) -> str:
    """Which of a gateway's interfaces gets the virtual address.

    :raises HostError: none can, for the reason that ``virtual_problems`` has.
    """
    for problem in virtual_problems(virtual, ground):
        raise HostError(problem)
    return next(one.name for one in ground.interfaces if one.has(virtual.own))


def virtual_problems(virtual: VirtualAddress, ground: Ground) -> Iterator[str]:
    """Why a gateway cannot have its part in the virtual address, one sentence at most."""
    said = f"gateway.virtual_ip {virtual.address}"
    there = [one for one in ground.interfaces if one.network_of(virtual.address)]
    if not there:
        yield (
            f"{said} is in no network of this gateway, which has {_shown(ground)}; choose a free"
            " address of a network that all gateways are in"
        )
        return
    chosen = next((one for one in there if one.has(virtual.own)), None)
    if chosen is None:
        own = there[0].network_of(virtual.address)
        assert own is not None
        yield (
            f"{said} is in the network of {own} ({_name(there[0])}), and this gateway"
            f" would speak with the others from {virtual.own}; set gateway.virtual_source in its"
            f" data to {str(own.ip)!r}"
        )
        return
    inside = chosen.network_of(virtual.address)
    assert inside is not None
    edges = (inside.network[0], inside.network[-1])
    if inside.version == 4 and inside.network.num_addresses > 2 and virtual.address in edges:
        yield f"{said} stands for the whole network {inside.network}; choose a free address of it"
    elif not _NAME.fullmatch(chosen.name):
        yield (
            f"{said} would be an address of the interface {_name(chosen)!r}, whose name"
            " keepalived cannot read; give it one of letters, digits and . - _"
        )
    elif not ground.ours and (has := [i for i in ground.interfaces if i.has(virtual.address)]):
        yield (
            f"{said} is an address of {_name(has[0])} here already, and vllm-hosts did not"
            " give it; take it out of this gateway's own network settings (ip address shows it),"
            " or choose a free one"
        )
    elif not ground.ours and (who := _stranger(virtual, ground)):
        yield (
            f"{said} is in use: a machine that is no gateway answers for it ({who}); choose a free"
            " address of the same network"
        )


def _stranger(virtual: VirtualAddress, ground: Ground) -> str:
    """Who answers for the address although no gateway does, nor a router for all; empty: nobody."""
    who = ground.neighbours.get(virtual.address, "")
    known = {ground.neighbours.get(one) for one in (*virtual.peers, *ground.routers)}
    return "" if who in known else who


def _name(one: Interface) -> str:
    return clean(one.name, _LONGEST)


def _shown(ground: Ground) -> str:
    found = [f"{one} ({_name(link)})" for link in ground.interfaces for one in link.addresses]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (", ".join(found[:_SHOWN]) or "no address") + more
