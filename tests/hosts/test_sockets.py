"""Who listens on a host."""

from __future__ import annotations

from testinfra.host import Host

from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.sockets import unexpected_sockets


def ssh_ports(host: Host) -> set[int]:
    """From sshd's own configuration, and from systemd where it holds the socket."""
    said = host.check_output("sshd -T").splitlines()
    ports = {int(line.split()[1]) for line in said if line.startswith("port ")}
    held = host.run("systemctl show -p Listen --value ssh.socket").stdout
    if host.run("systemctl -q is-active ssh.socket").succeeded:
        ports = {int(line.split()[0].rpartition(":")[2]) for line in held.splitlines() if line}
    return ports


def test_only_expected_sockets_listen(host: Host, settings: HostSettings) -> None:
    lines = host.check_output("ss -Hltunp").splitlines()
    assert list(unexpected_sockets(lines, settings, ssh_ports(host))) == []


def test_agent_socket_is_on_loopback_only(host: Host, agent: Agent) -> None:
    assert host.socket(f"tcp://127.0.0.1:{agent.port}").is_listening
    assert not host.socket(f"tcp://0.0.0.0:{agent.port}").is_listening
    assert not host.socket(f"tcp://:::{agent.port}").is_listening
