"""What the settings deliberately allow others on a host, as sentences."""

from __future__ import annotations

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


def closed_ports(settings: HostSettings) -> list[int]:
    """Ports of agents that nobody outside may reach, and those for gateways, or for who asks a
    mirror."""
    inner = [settings.gateway.port] if settings.behind_gateways else []
    inner += [settings.mirror.port] if settings.is_mirror else []
    return [agent.port for agent in settings.own_agents if agent.expose is None] + inner
