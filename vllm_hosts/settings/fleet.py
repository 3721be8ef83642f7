"""What gateways serve: the agents of all hosts behind them, by the model that clients ask for.

Computed from the settings of all hosts of an inventory; nobody writes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

#: What a pool is called where a gateway asks once more; no agent's name has a dot.
AGAIN = ".again"
#: Behind a pool's name and before an agent's, where a request needs what this agent has stored.
MADE = ".made."
#: Where HAProxy says whether it answers, as if it were a pool of that name.
ALIVE = "gateway.alive"
#: A domain that is nobody's: names in certificates between gateways and hosts end with it.
INNER_DOMAIN = "vllm-hosts.internal"


@dataclass(frozen=True)
class Replica:
    """One agent of one host, as gateways reach it.

    :param address: what gateways connect to, at ``port``.
    :param weight: its share of requests, relative to the other replicas of its pool; 1 to 256.
    """

    host: str
    agent: str
    address: str
    port: int
    weight: int = 1

    @property
    def server(self) -> str:
        """Its name in HAProxy: unique in a pool, and of characters that HAProxy takes."""
        return _server(self.host, self.agent)

    @property
    def made_by(self) -> str:
        """What the identifiers of its responses begin with, behind ``resp_``."""
        return made_by(self.host, self.agent)

    @property
    def inner_name(self) -> str:
        """What a gateway asks for in its handshake, which the host's certificate has to cover."""
        return inner_name(self.host, self.agent)


@dataclass(frozen=True)
class Pool:
    """All replicas of one model. ``name`` is an agent's, and names HAProxy's backend and socket."""

    name: str
    model: str
    replicas: tuple[Replica, ...]

    @property
    def again(self) -> str:
        """Its name for requests that are sent once more; empty where nobody else is to ask."""
        return f"{self.name}{AGAIN}" if len(self.replicas) > 1 else ""


@dataclass(frozen=True)
class GatewayHost:
    """A gateway, as hosts know it.

    :param networks: where its connections come from.
    :param requests: how many it lets in at the same time.
    """

    name: str
    networks: tuple[IPv4Network | IPv6Network, ...]
    requests: int = 0


@dataclass(frozen=True)
class VirtualAddress:
    """The address that one of all gateways has, as one of them knows it.

    :param own: from which it speaks with the others, at ``peers``.
    :param place: its place among the gateways, from 0: who comes first takes over first.
    """

    address: IPv4Address | IPv6Address
    own: IPv4Address | IPv6Address
    peers: tuple[IPv4Address | IPv6Address, ...]
    place: int

    @property
    def alone(self) -> str:
        """As an interface has it: beside an address with the network's length."""
        return f"{self.address}/{self.address.max_prefixlen}"

    @property
    def router_id(self) -> int:
        """VRRP's number for it, 1 to 255: the same on all gateways. They speak with each other
        only, so that another fleet in their network may have the same."""
        return int(self.address) % 255 + 1


def host_label(host: str) -> str:
    """A host's name as one DNS label, whatever the inventory calls it."""
    return "h" + hashlib.sha256(host.encode()).hexdigest()[:16]


def made_by(host: str, agent: str) -> str:
    """An agent of a host, in identifiers of responses that clients get."""
    return hashlib.sha256(f"response of {_server(host, agent)}".encode()).hexdigest()[:16]


def _server(host: str, agent: str) -> str:
    return f"{agent}.{host_label(host)}"


def inner_name(host: str, agent: str) -> str:
    """An agent of a host, in certificates between gateways and hosts."""
    return f"{agent}.{host_label(host)}.{INNER_DOMAIN}"
