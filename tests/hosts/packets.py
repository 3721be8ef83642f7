"""What a table of nftables does with single packets: read from `nft -j`, judged rule by rule.

Only the language that a firewall needs is known here. What is not known is an error, never a guess.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from vllm_hosts.errors import HostError

_TABLE = "vllm_hosts"
#: Statements that let every packet pass.
_NEUTRAL = frozenset({"counter", "log", "comment"})
#: Protocols that nft shows by number where the host has no list of their names.
_NUMBERED = {"vrrp": (112, "vrrp")}
# Each of some is read for every packet and every rule.
ip_address = lru_cache(1 << 16)(ipaddress.ip_address)
ip_network = lru_cache(1 << 16)(ipaddress.ip_network)


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, as a hook sees it. ``user``: id and name of its sender."""

    hook: str
    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    comes_by: str = "eth0"
    leaves_by: str = ""
    #: The port that was asked for, where Docker has rewritten it.
    asked_port: int | None = None
    user: tuple[int, str] = (0, "root")
    state: str = "new"
    #: How many routers it could still pass; 255, which is the most: it has passed none.
    hops: int = 64

    @cached_property
    def family(self) -> int:
        return ip_address(self.destination).version

    @cached_property
    def known(self) -> dict[tuple[str, str | None], Any]:
        """What rules may ask of it, by nft's names."""
        return {
            ("ct", "state"): self.state,
            ("ct", "status"): "dnat" if self.asked_port else "",
            ("ct", "direction"): "original",
            ("meta", "nfproto"): f"ipv{self.family}",
            ("meta", "protocol"): "ip" if self.family == 4 else "ip6",
            ("meta", "l4proto"): _NUMBERED.get(self.protocol, self.protocol),
            ("meta", "iifkind"): _kind(self.comes_by),
            ("meta", "oifkind"): _kind(self.leaves_by),
            ("meta", "skuid"): self.user,
            **dict.fromkeys([("meta", "iif"), ("meta", "iifname")], self.comes_by),
            **dict.fromkeys([("meta", "oif"), ("meta", "oifname")], self.leaves_by),
        }


def _kind(interface: str) -> str:
    """All interfaces here are bridges but for the host's own."""
    return "" if interface in ("", "lo", "eth0") else "bridge"


class _NotThis(Exception):
    """An expression that a packet does not have, such as an IPv4 address in one of IPv6."""


@contextmanager
def understood() -> Iterator[None]:
    """What nft says in another way than it does today is a sentence, and no verdict."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise HostError(
            f"nft printed something that cannot be understood here: {error!r}"
        ) from error
    except RecursionError as error:
        raise HostError(
            "nft printed something that cannot be understood here: its chains lead back"
        ) from error


def listing(text: str) -> list[dict[str, Any]]:
    """What ``nft -j list ruleset`` prints. :raises HostError: it is not that."""
    with understood():
        found = json.loads(text)["nftables"]
        for item in found:
            [(kind, part)] = item.items()
            if not isinstance(part, dict) or (
                kind == "rule" and not isinstance(part["expr"], list)
            ):
                raise ValueError(kind)
        return list(found)


class Table:
    """One table as ``nft -j list ruleset`` shows it.

    :raises HostError: it is not there.
    """

    def __init__(self, ruleset: list[dict[str, Any]]) -> None:
        with understood():
            self._read(ruleset)

    def _read(self, ruleset: list[dict[str, Any]]) -> None:
        ours = [
            (kind, part)
            for item in ruleset
            for kind, part in item.items()
            if kind != "metainfo" and part.get("table") == _TABLE
        ]
        self._chains = {part["name"]: part for kind, part in ours if kind == "chain"}
        self._rules = [part for kind, part in ours if kind == "rule"]
        self._sets = {part["name"]: part.get("elem", []) for kind, part in ours if kind != "rule"}
        if not self._chains:
            raise HostError("the firewall's file creates no chain")

    def accepts(self, packet: Packet) -> bool:
        """Whether the packet passes every chain of its hook.

        :raises HostError: a rule that it meets is not understood.
        """
        with understood():
            return self._accepts(packet)

    def _accepts(self, packet: Packet) -> bool:
        chains = [chain for chain in self._chains.values() if chain.get("hook") == packet.hook]
        for chain in sorted(chains, key=lambda chain: int(chain["prio"])):
            verdict = self._walk(chain["name"], packet) or chain.get("policy", "accept")
            if verdict == "drop":
                return False
            if verdict != "accept":
                raise HostError(f"the firewall's file has a policy {verdict}, not known here")
        return True

    def ports(self) -> set[int]:
        """Every number in the rules that could be a port."""
        return {n for n in _numbers([self._rules, list(self._sets.values())]) if 0 < n < 65536}

    def addresses(self) -> set[str]:
        """An address of every network in the rules: who knows one by name may let it in."""
        with understood():
            named = _networks([self._rules, list(self._sets.values())])
            return {str(network[-1]) for network in named if not _never_outside(network)}

    def _walk(self, chain: str, packet: Packet) -> str | None:
        if chain not in self._chains:
            raise HostError(f"the firewall's file has no chain {chain}, to which a rule leads")
        for rule in self._rules:
            if rule["chain"] == chain and (verdict := self._rule(rule["expr"], packet)):
                if verdict == "return":
                    return None
                return verdict
        return None

    def _rule(self, statements: list[dict[str, Any]], packet: Packet) -> str | None:
        for statement in statements:
            [(kind, body)] = statement.items()
            if kind == "match":
                if not self._matches(body, packet):
                    return None
            elif kind == "vmap":
                if verdict := self._looked_up(body, packet):
                    [(name, target)] = verdict.items()
                    return self._verdict(name, target, packet)
            elif kind in ("limit", "ct count"):
                # A quiet stranger: within every limit, over none.
                if body.get("inv"):
                    return None
            elif kind == "set":
                stops = [more for each in body.get("stmt", []) for more in each.values()]
                if any(isinstance(more, dict) and more.get("inv") for more in stops):
                    return None
            elif kind not in _NEUTRAL:
                return self._verdict(kind, body, packet)
        return None

    def _looked_up(self, vmap: Mapping[str, Any], packet: Packet) -> dict[str, Any] | None:
        try:
            there = self._of(vmap["key"], packet)
        except _NotThis:
            return None
        found = (what for key, what in self._members(vmap["data"]) if self._equal(there, key))
        return next(found, None)

    def _verdict(self, kind: str, body: Any, packet: Packet) -> str | None:
        if kind in ("accept", "return"):
            return kind
        if kind in ("drop", "reject"):
            return "drop"
        if kind == "jump":
            return self._walk(body["target"], packet)
        if kind == "goto":
            return self._walk(body["target"], packet) or "return"
        raise HostError(f"the firewall's file has a statement that is not known here: {kind}")

    def _matches(self, match: Mapping[str, Any], packet: Packet) -> bool:
        try:
            there = self._of(match["left"], packet)
        except _NotThis:
            return False
        same = self._equal(there, match["right"])
        if match["op"] in ("==", "in"):
            return same
        if match["op"] == "!=":
            return not same
        raise HostError(f"the firewall's file compares by {match['op']}, which is not known here")

    def _of(self, left: Mapping[str, Any], packet: Packet) -> Any:
        """What a packet has in the place that an expression names."""
        [(kind, body)] = left.items()
        if kind == "concat":
            return [self._of(part, packet) for part in body]
        if kind == "payload":
            return self._payload(body["protocol"], body["field"], packet)
        key = body.get("key") if isinstance(body, dict) else None
        if (kind, key) == ("ct", "proto-dst") and body.get("dir") == "original":
            return packet.asked_port or packet.port
        if (kind, key) not in packet.known:
            raise HostError(f"the firewall's file asks for {kind} {key}, which is not known here")
        return packet.known[kind, key]

    @staticmethod
    def _payload(protocol: str, field: str, packet: Packet) -> Any:
        family = {"ip": 4, "ip6": 6}.get(protocol, packet.family)
        layers = ("th", packet.protocol, "ip", "ip6")
        if family != packet.family or protocol not in layers:
            raise _NotThis
        fields = {
            "saddr": packet.source,
            "daddr": packet.destination,
            "dport": packet.port,
            "sport": 40000,
            "protocol": _NUMBERED.get(packet.protocol, packet.protocol),
            "nexthdr": _NUMBERED.get(packet.protocol, packet.protocol),
            "flags": "syn",
            "ttl": packet.hops,
            "hoplimit": packet.hops,
        }
        if field not in fields:
            raise HostError(f"the firewall's file asks for {protocol} {field}, not known here")
        return fields[field]

    def _members(self, right: Any) -> list[Any]:
        if isinstance(right, str) and right.startswith("@"):
            return list(self._sets[right[1:]])
        members = right["set"] if isinstance(right, dict) and "set" in right else [right]
        return list(members) if isinstance(members, list) else [members]

    def _equal(self, there: Any, right: Any) -> bool:
        return any(_is(there, member) for member in self._members(right))


def _is(there: Any, member: Any) -> bool:
    """Whether what a packet has is one value of a rule."""
    if isinstance(member, dict) and "elem" in member:
        member = member["elem"]["val"]
    if isinstance(member, dict) and "concat" in member:
        return all(_is(one, other) for one, other in zip(there, member["concat"], strict=True))
    if isinstance(member, dict) and "prefix" in member:
        network = ip_network(f"{member['prefix']['addr']}/{member['prefix']['len']}")
        return ip_address(there) in network
    if isinstance(member, dict) and "range" in member:
        first, last = member["range"]
        if isinstance(there, int):
            return bool(first <= there <= last)
        return int(ip_address(first)) <= int(ip_address(there)) <= int(ip_address(last))
    if isinstance(member, dict):
        raise HostError(f"the firewall's file has a value that is not known here: {member}")
    if isinstance(member, list):
        return any(_is(there, one) for one in member)
    if isinstance(there, tuple):
        return member in there or str(member) in map(str, there)
    if isinstance(member, str) and member.endswith("*"):
        return str(there).startswith(member[:-1])
    return bool(there == member)


def _never_outside(network: IPv4Network | IPv6Network) -> bool:
    """Addresses that nobody has, or has on one link only."""
    first = network[0]
    return first.is_loopback or first.is_multicast or first.is_link_local or not network.prefixlen


def _networks(part: Any) -> Iterator[IPv4Network | IPv6Network]:
    """Every network that values hold: single addresses, prefixes, both ends of ranges."""
    if isinstance(part, str):
        with suppress(ValueError):
            yield ip_network(part)
    elif isinstance(part, dict) and set(part) == {"addr", "len"}:
        yield ip_network(f"{part['addr']}/{part['len']}")
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _networks(inner)


def _numbers(part: Any) -> Iterator[int]:
    if isinstance(part, bool):
        return
    if isinstance(part, int):
        yield part
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _numbers(inner)
