"""Who listens on a host."""

from __future__ import annotations

from testinfra.host import Host

from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite.listening import expected, listeners
from vllm_hosts.suite.promise import promise


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
    ssh = ssh_ports(host)
    # Agents' own ports are another promise's; over UDP an agent has none.
    agents = {("tcp", agent.port) for agent in settings.own_agents}
    assert [
        f"something listens on {one}"
        for one in listeners(host)
        if (one.protocol, one.port) not in agents and not expected(one, settings, ssh)
    ] == []


@promise("NET-02")
def test_the_agent_listens_on_loopback_only(
    host: Host, settings: HostSettings, agent: Agent
) -> None:
    own = [one for one in listeners(host) if (one.protocol, one.port) == ("tcp", agent.port)]
    addresses = {"127.0.0.1"}
    if agent.expose is not None:
        families = {network.version for network in agent.expose.networks}
        addresses = {"0.0.0.0", "::"} if 6 in families else {"0.0.0.0"}
    # Docker holds the port, whichever way it publishes: nobody else may answer in its place.
    assert [
        str(one)
        for one in own
        if one.address not in addresses or not one.held_by("docker-proxy", "dockerd")
    ] == []
