"""What the settings deliberately allow others on a host, and what they must not, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllm_hosts.settings.host import HostSettings


def exposed(settings: HostSettings) -> list[str]:
    """A sentence for each agent whose own port is open to some networks, and for each accepted
    risk. Of a gateway none: its agents are those of hosts, which have their own."""
    ports = [
        f"agent {agent.name!r} is exposed: port {agent.port} is open to"
        f" {', '.join(map(str, agent.expose.networks))}, with vLLM's routes that require no key"
        for agent in settings.own_agents
        if agent.expose is not None
    ]
    return ports + [
        f"agent {agent.name!r} has an accepted risk: {name} {what}"
        for agent in settings.own_agents
        for name, what in agent.risks.items()
    ]


def port_problems(
    host: HostSettings, setting: str, port: int, who: str, taken: Mapping[int, str] | None = None
) -> Iterator[str]:
    """Why a port that only some may reach cannot be this one.

    :param who: they, in the plural.
    :param taken: what has a port besides agents and the edge.
    """
    others = {agent.port: f"the port of agent {agent.name!r}" for agent in host.agents}
    others |= {host.edge.https_port: "edge.https_port", host.edge.http_port: "edge.http_port"}
    others |= taken or {}
    if port in others:
        yield f"{setting} {port} is {others[port]}; set one of them to another"
    if port in host.firewall.extra_tcp_ports:
        yield (
            f"firewall.extra_tcp_ports opens {port} ({setting}) to everybody, which only {who} are"
            f" to reach; remove it there, or set {setting}"
        )


def closed_ports(settings: HostSettings) -> list[int]:
    """Ports of agents that nobody outside may reach, and those for gateways, or for who asks a
    mirror."""
    inner = [settings.gateway.port] if settings.behind_gateways else []
    inner += [settings.mirror.port] if settings.is_mirror else []
    return [agent.port for agent in settings.own_agents if agent.expose is None] + inner
