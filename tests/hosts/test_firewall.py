"""The firewall's table: in the kernel, at boot, and as strangers meet it."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import pytest
from testinfra.host import Host

from vllm_hosts.errors import HostError

# Only where they lie; what they do is judged here.
from vllm_hosts.roles.firewall.plan import RULES, UNIT
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.doors import askers_of, gateways_of, wrong
from vllm_hosts.suite.looks import Outside
from vllm_hosts.suite.packets import Packet, Table, listing, understood
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs
from vllm_hosts.suite.test_sockets import ssh_ports

#: Without counters, and without the addresses that a set has collected.
_LIST = "nft -s -t list table inet vllm_hosts"
_OUR_PRIORITY = -10
#: Our chains by hook, and their priorities; raw is before Docker's nat.
_OUR_CHAINS = {"prerouting": -300} | dict.fromkeys(("input", "forward", "output"), _OUR_PRIORITY)


def differences(there: str, expected: str) -> list[str]:
    """Lines that are too much and lines that are missing, in words; empty only for equal texts."""
    if there == expected:
        return []
    words = {"+ ": "has", "- ": "lacks"}
    compared = difflib.ndiff(expected.splitlines(), there.splitlines())
    found = [f"{words[line[:2]]} {line[2:].strip()}" for line in compared if line[:2] in words]
    return found or ["differs in its line ends"]


@promise("NET-03")
def test_the_table_in_the_kernel_is_the_one_in_the_file(host: Host, settings: HostSettings) -> None:
    # What the same file makes of an empty ruleset, in a network namespace of its own.
    expected = host.check_output(f"unshare -n sh -c 'nft -f {RULES} && {_LIST}'")
    live = host.run(_LIST)
    if live.rc != 0:
        raise BrokenError("the table inet vllm_hosts is not loaded")
    assert differences(live.stdout.rstrip("\n"), expected) == []


@promise("NET-04")
def test_the_table_in_the_file_is_what_the_settings_say(host: Host, settings: HostSettings) -> None:
    listed = host.check_output(f"unshare -n sh -c 'nft -f {RULES} && nft -j list ruleset'")
    table = Table(listing(listed))
    assert wrong(table, settings, ssh_ports(host), edge_user(host)) == []


def edge_user(host: Host) -> tuple[int, str]:
    """Id and name of the user whose connections to agents are the edge's."""
    [name, *_] = [
        words[1].rstrip(";")
        for words in map(str.split, host.check_output("cat /etc/nginx/nginx.conf").splitlines())
        if words[:1] == ["user"]
    ] or ["nobody"]
    return int(host.check_output("id -u %s", name)), name


def strangers_first(ruleset: list[dict[str, Any]]) -> list[str]:
    """What other tables do to packets before ours sees them, as sentences.

    :raises HostError: nft says something else than it does today.
    """
    with understood():
        return list(_strangers(ruleset))


def _strangers(ruleset: list[dict[str, Any]]) -> list[str]:
    chains = [item["chain"] for item in ruleset if "chain" in item]
    found = [
        f"chain {chain['name']} of table {chain['family']} {chain['table']} filters before ours"
        for chain in chains
        if chain.get("hook") in ("input", "forward", "ingress")
        and chain.get("type") == "filter"
        and chain["prio"] < _OUR_PRIORITY
        and chain["table"] != "vllm_hosts"
    ]
    early = {
        (chain["family"], chain["table"], chain["name"])
        for chain in chains
        if chain.get("hook") in ("prerouting", "ingress")
    }
    for item in ruleset:
        rule = item.get("rule")
        if rule is None or (rule["family"], rule["table"], rule["chain"]) not in early:
            continue
        for statement in rule["expr"]:
            if {"redirect", "dnat", "tproxy", "notrack", "fwd", "dup"} & set(statement):
                found.append(
                    f"a rule of {rule['family']} {rule['table']} {rule['chain']} sends packets"
                    f" elsewhere: {', '.join(statement)}"
                )
    return found


@promise("NET-05")
def test_nothing_stands_before_our_table(host: Host, settings: HostSettings) -> None:
    ruleset = listing(host.check_output("nft -j list ruleset"))
    ours = {
        item["chain"]["name"]: item["chain"]
        for item in ruleset
        if item.get("chain", {}).get("table") == "vllm_hosts"
    }
    if not ours:
        pytest.skip("the table is missing, which NET-03 reports")
    hooked = {chain["hook"]: chain["prio"] for chain in ours.values() if "hook" in chain}
    assert hooked == _OUR_CHAINS
    assert strangers_first(ruleset) == []


@promise("NET-06")
def test_it_is_loaded_at_boot_before_docker(host: Host, settings: HostSettings) -> None:
    unit_runs(host, UNIT)
    before = host.check_output(f"systemctl show -p Before --value {UNIT}").split()
    assert {"docker.service", "network-pre.target"} <= set(before)


@promise("NET-07")
def test_loopback_addresses_stay_inside(host: Host, settings: HostSettings) -> None:
    said = host.check_output("cd /proc/sys/net/ipv4/conf; grep -H . */route_localnet")
    open_ones = [line.partition("/")[0] for line in said.splitlines() if not line.endswith(":0")]
    # Docker without its proxy opens its own bridges this way.
    assert [name for name in open_ones if not name.startswith(("br-", "docker0", "lo"))] == []


def must_see(settings: HostSettings) -> set[int]:
    """Ports that everybody may see, so that a look without them is blind."""
    return set() if settings.edge.allow_from else {settings.edge.https_port}


#: Addresses of nobody (RFC 5737, RFC 3849).
_STRANGERS = ("203.0.113.9", "198.51.100.9", "2001:db8:ffff::9")


def open_wrongly(
    table: Table,
    settings: HostSettings,
    outside: Outside,
    port: int,
    networks: Collection[IPv4Network | IPv6Network],
    further: Collection[str] = (),
) -> list[str]:
    """Who reaches a port that only some networks may, and which of these do not.

    :param further: sources to try besides strangers.
    """
    wrong = [
        f"the firewall lets {source} reach port {port}"
        for source in (*_STRANGERS, *further)
        if not any(ip_address(source) in network for network in networks)
        if table.accepts(_packet(source, port))
    ]
    wrong += [
        f"the firewall keeps {network} out of port {port}"
        for network in networks
        if not table.accepts(_packet(str(network[-1]), port))
    ]
    wrong += [
        f"port {port} is open from {who}"
        for family in ("ipv4", "ipv6")
        for who, scan in outside.scans(family, must_see(settings)).items()
        if port in scan["tcp"] and port not in exposed_to(settings, scan["own"])
    ]
    return wrong


def _packet(source: str, port: int) -> Packet:
    return Packet("input", source, "192.0.2.1" if ":" not in source else "2001:db8::1", port)


def exposed_to(settings: HostSettings, address: str) -> set[int]:
    """Ports besides the edge's that this address may reach by the settings."""
    found = {
        agent.port
        for agent in settings.own_agents
        if agent.expose and any(ip_address(address) in net for net in agent.expose.networks)
    }
    if any(ip_address(address) in network for network in gateways_of(settings)):
        found.add(settings.gateway.port)
    if any(ip_address(address) in network for network in askers_of(settings)):
        found.add(settings.mirror.port)
    return found


def strange_tcp(
    host: Host, settings: HostSettings, outside: Outside, family: str
) -> list[str] | None:
    """Open ports that should not be, as sentences; None: the host has no such address."""
    allowed = set(settings.firewall.extra_tcp_ports)
    allowed |= {settings.edge.https_port, settings.edge.http_port}
    scans = outside.scans(family, must_see(settings))
    if not scans:
        return None
    return [
        f"port {port} is open from {who}"
        for who, scan in scans.items()
        for port in sorted(set(scan["tcp"]) - allowed - exposed_to(settings, scan["own"]))
    ]


@promise("NET-08")
def test_only_ssh_and_the_edge_are_open_over_ipv4(
    host: Host, settings: HostSettings, outside: Outside
) -> None:
    found = strange_tcp(host, settings, outside, "ipv4")
    if found is None:
        pytest.skip("the host's address is not an IPv4 address")
    assert found == []


@promise("NET-09")
def test_only_ssh_and_the_edge_are_open_over_ipv6(
    host: Host, settings: HostSettings, outside: Outside
) -> None:
    found = strange_tcp(host, settings, outside, "ipv6")
    if found is None:
        pytest.skip("the host has no IPv6 address beyond its own link")
    assert found == []


@promise("NET-10")
def test_no_udp_port_can_be_reached(host: Host, settings: HostSettings, outside: Outside) -> None:
    allowed = {str(port) for port in settings.firewall.extra_udp_ports}
    scans = [
        (who, family, scan)
        for family in ("ipv4", "ipv6")
        for who, scan in outside.scans(family, must_see(settings)).items()
    ]
    found = [
        f"UDP port {port} {said} (over {family} from {who})"
        for who, family, scan in scans
        for port, said in scan["udp"].items()
        if port not in allowed
    ]
    assert found == []


@promise("NET-11")
def test_a_neighbour_reaches_no_container(settings: HostSettings, outside: Outside) -> None:
    found = neighbours(settings, outside)
    assert [place for place in found if " 127." not in place] == []


@promise("NET-12")
def test_a_neighbour_reaches_nothing_on_loopback(settings: HostSettings, outside: Outside) -> None:
    found = neighbours(settings, outside)
    assert [place for place in found if " 127." in place] == []


def neighbours(settings: HostSettings, outside: Outside) -> list[str]:
    """What neighbours reach behind the edge, which they have to see, as sentences."""
    if not outside.behind():
        if outside.blind:
            raise HostError(outside.blind)
        pytest.skip("the inventory has no group neighbours with a host that could check")
    return [
        f"{who} reaches {address} port {port}"
        for who, reached in outside.besides_edge(settings.edge.https_port).items()
        for address, port in reached
    ]
