"""Walls around agents: against users of the host, against each other, and against root's trust."""

from __future__ import annotations

import json
import re
from shlex import quote
from typing import Any

import pytest
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite.powers import mounts_of
from vllm_hosts.suite.promise import BrokenError, promise

#: Port of vLLM in its container.
INSIDE = 8000
_NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups"
CONNECT = (
    "bash -c 'timeout 3 bash -c \": </dev/tcp/%s/%d\" 2>/dev/null && echo open || echo closed'"
)


def running(inspected: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """:raises HostError: the agent is not running, so nothing can be tested in it."""
    if inspected["State"]["Status"] != "running":
        raise HostError(f"agent {agent.name} is not running, so nothing can be tested in it")
    return inspected


@promise("NET-13")
def test_only_root_and_the_edge_reach_the_agent(
    host: Host, inspected: dict[str, Any], settings: HostSettings, agent: Agent
) -> None:
    running(inspected, agent)
    places = [(str(settings.cell(agent.name).address), INSIDE), ("127.0.0.1", agent.port)]
    opened = []
    for address, port in places:
        connect = CONNECT % (address, port)
        if host.check_output(connect) != "open":
            raise HostError(f"not even root reaches {address} port {port}")
        if host.check_output(f"{_NOBODY} {connect}") != "closed":
            opened.append(f"any user of the host can reach {address} port {port}")
    assert opened == []


@promise("NET-14")
def test_every_container_is_on_a_bridge_that_the_firewall_covers(
    host: Host, containers: list[dict[str, Any]], settings: HostSettings
) -> None:
    networks = {network["Name"]: network for network in all_networks(host)}
    found = []
    for container in containers:
        for name in container["NetworkSettings"]["Networks"]:
            # That of the host itself is another promise's; one that is gone is nobody's.
            driver = networks.get(name, {}).get("Driver", "none")
            if driver not in ("bridge", "host", "null", "none"):
                found.append(f"{container['Name'][1:]} is on {name}, a network of kind {driver}")
    assert found == []


def all_networks(host: Host) -> list[dict[str, Any]]:
    """Docker's networks, as it shows them."""
    ids = host.check_output("docker network ls --quiet --no-trunc").split()
    if not ids:
        raise HostError("Docker shows no network, not even its own")
    lines = host.check_output(f"docker network inspect --format '{{{{json .}}}}' {' '.join(ids)}")
    return [json.loads(line) for line in lines.splitlines()]


@promise("AGENT-07")
def test_the_agent_has_a_network_and_an_address_of_its_own(
    host: Host,
    containers: list[dict[str, Any]],
    inspected: dict[str, Any],
    settings: HostSettings,
    agent: Agent,
) -> None:
    cell = settings.cell(agent.name)
    joined = inspected["NetworkSettings"]["Networks"]
    if len(joined) != 1:
        raise BrokenError(f"agent {agent.name} is on the networks {', '.join(sorted(joined))}")
    [(name, endpoint)] = joined.items()
    asked = (endpoint["IPAMConfig"] or {}).get("IPv4Address", "")
    if asked != str(cell.address):
        raise BrokenError(f"agent {agent.name} asks for the address {asked or 'any'}")
    if endpoint.get("GlobalIPv6Address"):
        raise BrokenError(f"agent {agent.name} has an IPv6 address")
    if inspected["State"]["Status"] == "running":
        assert endpoint["IPAddress"] == str(cell.address)
    [network] = [one for one in all_networks(host) if one["Name"] == name]
    bridge = network["Options"].get("com.docker.network.bridge.name")
    assert (network["Driver"], bridge) == ("bridge", f"vllm-{agent.port}")
    subnets = [config["Subnet"] for config in network["IPAM"]["Config"]]
    assert subnets == [str(cell.subnet)]
    there = json.loads(host.check_output(f"ip -json -details link show dev {bridge}"))
    assert [link["linkinfo"]["info_kind"] for link in there] == ["bridge"]
    # And the edge asks it there, where nobody else can listen while it restarts.
    upstream = f"nginx -T 2>/dev/null | sed -n '/^upstream vllm_hosts_{agent.name} {{/,/^}}/p'"
    block = host.check_output(f"bash -o pipefail -c {quote(upstream)}")
    servers = re.findall(r"^\s*server\s+([^\s;]+)", block, re.MULTILINE)
    if servers != [f"{cell.address}:{INSIDE}"]:
        there = " and ".join(servers) or "nobody"
        raise BrokenError(f"the edge's requests go to {there}, not to {cell.address}:{INSIDE}")
    own = {f"container:{inspected['Id']}", f"container:{agent.name}"}
    others = [
        one["Name"][1:]
        for one in containers
        if one["Id"] != inspected["Id"]
        and (name in one["NetworkSettings"]["Networks"] or one["HostConfig"]["NetworkMode"] in own)
    ]
    if others:
        raise BrokenError(f"{', '.join(others)}: on the network of agent {agent.name} as well")


@promise("AGENT-08")
def test_the_agent_s_root_is_read_only_and_it_is_bounded(
    host: Host, inspected: dict[str, Any], settings: HostSettings, agent: Agent
) -> None:
    config = inspected["HostConfig"]
    if not config["ReadonlyRootfs"]:
        raise BrokenError("its root file system is writable")
    if inspected["Config"]["Env"] != ["PYTHONNOUSERSITE=1"]:
        raise BrokenError("its cache can hold Python code")
    if inspected["State"]["Status"] == "running":
        # As the kernel has it: docker inspect says what was asked for.
        listing = host.check_output(f"cat /proc/{inspected['State']['Pid']}/mounts")
        mounts = {fields[1]: fields for fields in map(str.split, listing.splitlines())}
        if "ro" not in mounts["/"][3].split(","):
            raise BrokenError("its root file system is mounted writable")
        kind, options = mounts.get("/tmp", ["", "", "none", ""])[2:4]
        if kind != "tmpfs":
            raise BrokenError("its /tmp is not in memory")
        if "noexec" in options.split(","):
            raise BrokenError("nothing can be compiled in its /tmp")
    can = json.loads(host.check_output("docker info --format '{{json .}}'"))
    bounds, unbounded = [], []
    for what, possible, bounded in (
        ("processes", can["PidsLimit"], (config["PidsLimit"] or 0) > 0),
        ("memory", can["MemoryLimit"], config["Memory"] > 0),
        ("swap", can["SwapLimit"], 0 < config["Memory"] == config["MemorySwap"]),
    ):
        if not possible:
            unbounded.append(what)
        elif not bounded:
            bounds.append(f"agent {agent.name} may use any amount of {what}")
    assert bounds == []
    if unbounded:
        pytest.skip(
            f"this host's Docker cannot limit {', '.join(unbounded)}; the other limits hold"
        )


#: One line for each different key: the containers that have it. The keys stay in awk's memory.
_HOLDERS = """
docker ps --all --quiet --no-trunc | xargs -r docker inspect --format \
'{{$name := .Name}}{{range .Config.Env}}{{$name}} {{println .}}{{end}}' | awk '
    $2 ~ /^VLLM_API_KEY=./ { key = substr($0, index($0, "=") + 1); of[key] = of[key] " " $1 }
    END { for (key in of) print of[key] }'
"""


@promise("AGENT-10")
def test_the_agent_has_a_key_of_its_own(
    host: Host, inspected: dict[str, Any], agent: Agent
) -> None:
    groups = [line.split() for line in host.check_output(_HOLDERS).splitlines()]
    own = [group for group in groups if f"/{agent.name}" in group]
    if len(own) != 1:
        raise BrokenError(f"agent {agent.name} has no key")
    others = [name[1:] for name in own[0] if name != f"/{agent.name}"]
    if others:
        raise BrokenError(f"{', '.join(others)}: with the key of agent {agent.name} as well")


def above(path: str) -> list[str]:
    """The folders that a path lies in, the root first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) or "/" for count in range(1, len(parts))]


@promise("MODEL-01")
def test_root_follows_nothing_that_an_agent_can_write(
    host: Host, inspected: dict[str, Any], settings: HostSettings, agent: Agent
) -> None:
    cache, user = settings.vllm.cache_directory, settings.vllm.user
    models, own = f"{cache}/huggingface", f"{cache}/agents/{agent.name}"
    roots = {cache, f"{cache}/agents", *above(cache)}
    readable = {models}
    if agent.is_folder:
        roots |= set(above(agent.model))
        readable.add(agent.model)
    listing = host.check_output(
        f"stat --format '%F|%a|%u:%g|%n' {' '.join(map(quote, sorted({*roots, *readable, own})))}"
    )
    wrong = []
    for line in listing.splitlines():
        kind, mode, owner, path = line.split("|", 3)
        others = int(mode, 8) & 0o022
        if kind != "directory":
            wrong.append(f"{path} is a {kind}")
        elif path == own:
            if (mode, owner) != ("700", user):
                wrong.append(f"{path} is {mode} of {owner}, not 700 of {user}")
        elif path in roots and (others or not owner.startswith("0:")):
            wrong.append(f"{path} is {mode} of {owner}: not only root can replace what is in it")
        elif path in (cache, f"{cache}/agents") and (mode, owner) != ("755", "0:0"):
            wrong.append(f"{path} is {mode} of {owner}, not 755 of 0:0")
        elif path == models and owner != settings.vllm.fetch_user:
            wrong.append(f"{path} belongs to {owner}, not to {settings.vllm.fetch_user}")
        elif others or owner.startswith(f"{user.partition(':')[0]}:"):
            wrong.append(f"{path} is {mode} of {owner}: agents can change models")
    uid = user.partition(":")[0]
    # Not the folder's own time but what is in it: one file that an agent may write is enough.
    for path in sorted(readable):
        inside = host.check_output(
            f"timeout 60 find {quote(path)} -xdev ! -type l"
            f" '(' -uid {uid} -o -perm /022 ')' -print -quit"
        )
        if inside:
            wrong.append(f"{inside} can be changed by agents")
    wrong += [
        f"agent {agent.name} can write {source}"
        for source, _, writable in sorted(mounts_of(inspected))
        if writable and source != own and not source.startswith(f"{own}/")
    ]
    assert wrong == []
