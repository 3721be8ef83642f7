"""What a neighbour can reach: the controller is one."""

from __future__ import annotations

from vllm_hosts import probe
from vllm_hosts.settings import Agent, HostSettings


def test_agent_port_is_closed_outside(settings: HostSettings, agent: Agent) -> None:
    assert not probe.reachable(settings.address, agent.port, timeout=2)


def test_docker_api_is_closed_outside(settings: HostSettings) -> None:
    ports = (2375, 2376)
    assert [port for port in ports if probe.reachable(settings.address, port, timeout=2)] == []


def test_the_probe_itself_reaches_the_edge(settings: HostSettings) -> None:
    assert probe.reachable(settings.address, settings.edge.https_port, timeout=5)
