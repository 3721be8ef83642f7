"""Where agents could go by themselves: tried from inside each."""

from __future__ import annotations

import json
import socket
from ipaddress import ip_address
from shlex import quote
from typing import Any

import pytest
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite.conftest import Verified
from vllm_hosts.suite.promise import promise
from vllm_hosts.suite.test_sockets import ssh_ports
from vllm_hosts.suite.test_walls import CONNECT, INSIDE, all_networks, running

#: Other hosts of the inventory that are tried; one that opens is enough.
_OTHERS = 4
#: Connects to each place at the same time; and asks Docker's name server for a name. Prints what
#: opened, and the answer's code.
_OUTWARD = """
import concurrent.futures, json, socket, struct, sys
asked = json.loads(sys.argv[1])
def opens(place):
    try:
        socket.create_connection(tuple(place), timeout=3).close()
    except OSError:
        return False
    return True
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    found = [p for p, o in zip(asked["places"], pool.map(opens, asked["places"])) if o]
code = None
if asked["name"]:
    words = b"".join(bytes([len(w)]) + w.encode() for w in asked["name"].split("."))
    question = struct.pack("!6H", 4711, 256, 1, 0, 0, 0) + words + bytes([0, 0, 1, 0, 1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        try:
            udp.sendto(question, ("127.0.0.11", 53))
            code = udp.recv(512)[3] & 15
        except OSError:
            pass
print(json.dumps({"open": found, "code": code}))
"""


@pytest.fixture(scope="session")
def tried(
    host: Host, verified: Verified, containers: list[dict[str, Any]], settings: HostSettings
) -> dict[str, tuple[int, str]]:
    """By agent that runs: how it ended to try all places, and what it printed. All at once, since
    each waits for what is closed."""
    there = {one["Name"] for one in containers if one["State"]["Running"]}
    script = []
    for agent in settings.agents:
        if f"/{agent.name}" not in there:
            continue
        # No name server of the host is asked for a name that it cannot know; that it was asked
        # shows in the answer that there is no such name. Nobody is asked in vain where names are
        # allowed.
        name = None if _may_ask(agent) else "vllm-hosts.invalid"
        places = sorted(outward(host, verified, settings, agent))
        asked = quote(json.dumps({"places": places, "name": name}))
        run = f"docker exec {agent.name} python3 -c {quote(_OUTWARD)} {asked}"
        script.append(
            f"{{ said=$({run} 2>&1); code=$?; said=$(printf %s \"$said\" | tr '\\n' ' ');"
            f" printf '%s\\n' \"{agent.name} $code $said\"; }} &"
        )
    lines = host.check_output("\n".join([*script, "wait"])).splitlines()
    words = [line.split(" ", 2) for line in lines if line]
    return {name: (int(code), said) for name, code, said in words}


def _may_ask(agent: Agent) -> bool:
    return agent.egress is not None and agent.egress.names


@promise("AGENT-09")
def test_the_agent_opens_no_connection_outward(
    host: Host,
    tried: dict[str, tuple[int, str]],
    inspected: dict[str, Any],
    agent: Agent,
) -> None:
    running(inspected, agent)
    names = _may_ask(agent)
    code, printed = tried[agent.name]
    if code:
        raise HostError(f"agent {agent.name} could not be asked to connect: {printed[-300:]}")
    said = json.loads(printed)
    reached = [
        f"agent {agent.name} reaches {address} port {port}" for address, port in said["open"]
    ]
    if said["code"] in (0, 3):
        reached.append(f"agent {agent.name} can resolve names")
    joined = inspected["NetworkSettings"]["Networks"]
    closed = [one["Name"] for one in all_networks(host) if one["Internal"]]
    # Docker asks such servers from the host itself, past every rule for what is forwarded.
    comments = host.check_output(f"cat {quote(inspected['ResolvConfPath'])}")
    if not names and "host(" in comments and not set(joined) <= set(closed):
        reached.append(f"Docker queries the host's name servers for agent {agent.name}")
    assert reached == []


def outward(
    host: Host, verified: Verified, settings: HostSettings, agent: Agent
) -> set[tuple[str, int]]:
    """Places that listen, on the host, on others of the inventory, and where the look comes from.

    :raises HostError: the host itself does not reach the nearest of them, so a closed door would
        say nothing.
    """
    ssh = ssh_ports(host)
    doors = {*ssh, settings.edge.https_port, settings.edge.http_port}
    own = host.check_output("ip -4 -o addr show scope global").splitlines()
    addresses = {line.split()[3].partition("/")[0] for line in own}
    addresses.add(str(settings.cell(agent.name).gateway))
    places = {(address, port) for address in addresses for port in doors}
    places |= {
        (str(settings.cell(other.name).address), INSIDE)
        for other in settings.agents
        if other.name != agent.name
    }
    others = [other for other in verified.settings.values() if other.name != settings.name]
    for other in others[:_OTHERS]:
        for there in resolved(other.address):
            places |= {(there, other.edge.https_port), (there, 22)}
    peers = host.run("ss -Htn state established").stdout.splitlines()
    for line in peers:
        # From where SSH comes, the controller among them.
        local, peer = line.split()[2:4]
        address = peer.rpartition(":")[0].strip("[]").removeprefix("::ffff:")
        if local.rpartition(":")[2] in map(str, ssh) and ":" not in address:
            places.add((address, 22))
    nearest = next(iter(sorted(addresses)))
    if host.check_output(CONNECT % (nearest, min(ssh))) != "open":
        raise HostError(f"not even the host itself reaches {nearest} port {min(ssh)}")
    return {place for place in places if not by_decision(agent, *place)}


def by_decision(agent: Agent, address: str, port: int) -> bool:
    """Whether the agent's settings let it open connections there."""
    return (
        agent.egress is not None
        and port in agent.egress.tcp_ports
        and any(ip_address(address) in network for network in agent.egress.networks)
    )


def resolved(name: str) -> set[str]:
    """IPv4 addresses of a name, as this machine knows it; none where it does not."""
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(address[0]) for *_, address in found}
