"""The hosts of an inventory with gateways as one: who serves which model, and what contradicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from vllm_hosts.settings.agent import Agent
from vllm_hosts.settings.exposure import port_problems
from vllm_hosts.settings.fleet import GatewayHost, Pool, Replica
from vllm_hosts.settings.gateway_reach import networks_of, reach_contradictions
from vllm_hosts.settings.host import HostSettings
from vllm_hosts.settings.types import in_bytes
from vllm_hosts.settings.virtual import virtual_contradictions, virtual_of
from vllm_hosts.text import quoted

#: A sentence, and the hosts that it is about where it does not name them.
Problem = tuple[str, tuple[str, ...]]
#: What a certificate's subject, nginx and a log carry as it is.
_NAME = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@._:-]{0,63}")
#: Where a machine that is both reaches its own agents: no rule of its network is in the way.
_ITSELF = "127.0.0.1"
#: Settings of the edge by which a gateway takes what the hosts behind it refuse.
_LIMITS: Mapping[str, Callable[[HostSettings], int]] = {
    "max_body_size": lambda host: in_bytes(host.edge.max_body_size),
    "timeout": lambda host: host.edge.timeout,
}


def joined(hosts: Mapping[str, HostSettings], gateways: Collection[str]) -> dict[str, HostSettings]:
    """Settings by host name, where each gateway knows its pools and each host with agents its
    gateways.

    Without gateways nothing changes.

    :param hosts: all of an inventory, each valid by itself; a gateway has agents where it is a GPU
        host as well.
    :param gateways: names of the gateways among them.
    """
    if not gateways:
        return dict(hosts)
    front, behind = _apart(hosts, gateways)
    agents = _agents(behind)
    known = tuple(GatewayHost(one.name, networks_of(one), one.edge.requests) for one in front)
    found = {}
    for name, host in hosts.items():
        if name not in gateways:
            found[name] = host.model_copy(update={"gateways": known})
            continue
        of_fleet = {"agents": agents, "pools": _pools(behind, name)}
        virtual = {"virtual": virtual_of(host, front)}
        as_gateway = host.model_copy(update=of_fleet | virtual)
        both = virtual | {"gateways": known, "front": as_gateway}
        found[name] = host.model_copy(update=both) if host.agents else as_gateway
    return found


def contradictions(
    hosts: Mapping[str, HostSettings], gateways: Collection[str]
) -> Iterator[Problem]:
    """Why the hosts of an inventory cannot be one fleet; the parameters are those of ``joined``."""
    if not gateways:
        return
    front, behind = _apart(hosts, gateways)
    if not behind:
        yield (
            f"the inventory: no host is behind the gateways {', '.join(gateways)}; add hosts with"
            " agents to the group gpu_hosts, or leave the group gateways out",
            (),
        )
        return
    yield from _names(front)
    yield from virtual_contradictions(front, behind)
    yield from reach_contradictions(front, behind)
    for host in behind:
        yield from _port(host)
    yield from _agents_differ(behind)
    yield from _models_differ(behind)
    yield from _adapters_differ(behind)
    for gateway in front:
        yield from _limits_differ(gateway, behind)


def _apart(
    hosts: Mapping[str, HostSettings], gateways: Collection[str]
) -> tuple[list[HostSettings], list[HostSettings]]:
    """Gateways, and hosts with agents; some may be both."""
    front = [host for name, host in hosts.items() if name in gateways]
    return front, [host for name, host in hosts.items() if host.agents or name not in gateways]


def _each(behind: Sequence[HostSettings]) -> Iterator[tuple[HostSettings, Agent]]:
    for host in behind:
        for agent in host.agents:
            yield host, agent


def _agents(behind: Sequence[HostSettings]) -> tuple[Agent, ...]:
    """Each agent of the fleet once, as a gateway knows it: nothing of it runs there."""
    elsewhere = {
        "gpus": (),
        "tensor_parallel_size": None,
        "expose": None,
        "egress": None,
        "copy_from": None,
    }
    found: dict[str, Agent] = {}
    for _, agent in _each(behind):
        found.setdefault(agent.name, agent.model_copy(update=elsewhere))
    return tuple(found.values())


def _pools(behind: Sequence[HostSettings], gateway: str) -> tuple[Pool, ...]:
    """Who answers for each model at a gateway, in the order in which models appear."""
    names: dict[str, str] = {}
    replicas: dict[str, list[Replica]] = {}
    for host, agent in _each(behind):
        model = agent.client_model_name
        names.setdefault(model, agent.name)
        address = _ITSELF if host.name == gateway else host.address
        replicas.setdefault(model, []).append(
            Replica(host.name, agent.name, address, host.gateway.port, agent.weight)
        )
    return tuple(Pool(names[model], model, tuple(found)) for model, found in replicas.items())


def _names(front: Sequence[HostSettings]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for gateway in front:
        # nginx compares them so.
        if (other := first.setdefault(gateway.name.lower(), gateway.name)) != gateway.name:
            yield (
                f"the inventory: hosts tell the gateways {other!r} and {gateway.name!r} apart by"
                " their names without regard to case; call one of them otherwise",
                (),
            )
        if not _NAME.fullmatch(gateway.name):
            yield (
                f"the inventory: the gateway {quoted(gateway.name)} is to be known to hosts by that"
                " name; call it by up to 64 letters, digits and . - _, and give its address as"
                " ssh_hostname",
                (),
            )
        if not networks_of(gateway):
            shown = '{"gateway": {"networks": ["192.0.2.7/32"]}}'
            yield (
                f"the inventory: hosts accept the gateway {gateway.name!r} by its address only,"
                f" which {gateway.address!r} is not; say where its connections come from, in its"
                f" data: {shown}, or for all of them in group_data/gateways.py",
                (),
            )


def _port(host: HostSettings) -> Iterator[Problem]:
    for problem in port_problems(host, "gateway.port", host.gateway.port, "gateways"):
        yield problem, (host.name,)


def _agents_differ(behind: Sequence[HostSettings]) -> Iterator[Problem]:
    """Keys, paths and logs name agents, whichever host they are on."""
    first: dict[str, tuple[HostSettings, Agent]] = {}
    told: set[str] = set()
    for host, agent in _each(behind):
        there, known = first.setdefault(agent.name, (host, agent))
        if _meaning(agent) != _meaning(known) and agent.name not in told:
            told.add(agent.name)
            yield (
                f"agent {agent.name!r} is {_meaning(known)} on {there.name} and"
                f" {_meaning(agent)} on {host.name}, and behind gateways an agent's name stands for"
                " one model; give one of them another name",
                (),
            )


def _meaning(agent: Agent) -> str:
    called = agent.client_model_name
    return _model(agent) + (f" as {called!r}" if called != agent.name else "")


def _model(agent: Agent) -> str:
    return agent.model + (f" at {agent.revision}" if agent.revision else "")


def _models_differ(behind: Sequence[HostSettings]) -> Iterator[Problem]:
    first: dict[str, tuple[HostSettings, Agent]] = {}
    told: set[str] = set()
    for host in behind:
        for name, agents in host.model_names.items():
            for agent in agents:
                there, known = first.setdefault(name, (host, agent))
                # The same agent's name has been told already.
                same = agent.name == known.name or _model(agent) == _model(known)
                if not same and name not in told:
                    told.add(name)
                    yield (
                        f"clients who ask for {name!r} would get {_model(known)} from agent"
                        f" {known.name!r} on {there.name} and {_model(agent)} from agent"
                        f" {agent.name!r} on {host.name}; give one of them another"
                        " served_model_name",
                        (),
                    )


def _adapters_differ(behind: Sequence[HostSettings]) -> Iterator[Problem]:
    first: dict[str, tuple[HostSettings, Agent]] = {}
    told: set[str] = set()
    for host, agent in _each(behind):
        model = agent.client_model_name
        there, known = first.setdefault(model, (host, agent))
        here, others = sorted(agent.adapter_names), sorted(known.adapter_names)
        if here != others and _model(agent) == _model(known) and model not in told:
            told.add(model)
            yield (
                f"agent {known.name!r} on {there.name} has {_adapters(others)} and agent"
                f" {agent.name!r} on {host.name} has {_adapters(here)}, and requests for"
                f" {model!r} may go to either; give both the same --lora-modules, or one of them"
                " another served_model_name",
                (),
            )


def _adapters(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names))
    return f"the adapter{'' if len(names) == 1 else 's'} {shown}" if names else "no adapter"


def _limits_differ(gateway: HostSettings, behind: Sequence[HostSettings]) -> Iterator[Problem]:
    """A host must take whatever a gateway passes on to it."""
    for setting, of in _LIMITS.items():
        less = [host for host in behind if of(host) < of(gateway)]
        if less:
            theirs = getattr(less[0].edge, setting)
            yield (
                f"edge.{setting} of the gateway {gateway.name} is"
                f" {getattr(gateway.edge, setting)}, and {_listed(less)} behind it would cut off"
                f" what it accepts, with {theirs}; set it no larger for the gateway (in"
                " group_data/gateways.py), or no smaller for the hosts",
                (),
            )
    for route in gateway.edge.routes:
        without = [host for host in behind if route not in host.edge.routes]
        if without:
            yield (
                f"edge.routes of the gateway {gateway.name} has {route!r}, which"
                f" {_listed(without)} behind it would refuse; add it there too, or leave it out for"
                " the gateway",
                (),
            )


def _listed(hosts: Sequence[HostSettings]) -> str:
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return ", ".join(host.name for host in hosts[:3]) + more
