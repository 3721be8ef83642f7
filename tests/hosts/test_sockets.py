"""Who listens on a host."""

from __future__ import annotations

from testinfra.host import Host

from tests.hosts.promise import promise
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.sockets import parse, unexpected_sockets


def ssh_ports(host: Host) -> set[int]:
    """From sshd's own configuration, and from systemd where it holds the socket."""
    said = host.check_output("sshd -T").splitlines()
    ports = {int(line.split()[1]) for line in said if line.startswith("port ")}
    held = host.run("systemctl show -p Listen --value ssh.socket").stdout
    if host.run("systemctl -q is-active ssh.socket").succeeded:
        ports = {int(line.split()[0].rpartition(":")[2]) for line in held.splitlines() if line}
    return ports


@promise("NET-01")
def test_only_expected_sockets_listen(host: Host, settings: HostSettings) -> None:
    lines = host.check_output("ss -Hltunp").splitlines()
    # Agents' own ports are another promise's.
    agents = {agent.port for agent in settings.agents}
    others = [line for line in lines if parse(line).port not in agents]
    assert list(unexpected_sockets(others, settings, ssh_ports(host))) == []


@promise("NET-02")
def test_the_agent_listens_on_loopback_only(
    host: Host, settings: HostSettings, agent: Agent
) -> None:
    lines = host.check_output("ss -Hltunp").splitlines()
    own = [line for line in lines if parse(line).port == agent.port]
    assert list(unexpected_sockets(own, settings, set())) == []
