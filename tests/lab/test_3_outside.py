"""From a neighbour on the same network: every port but SSH and the edge is closed."""

from __future__ import annotations

import re

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import HOSTS, Deployed


def open_ports(address: str) -> set[int]:
    """All TCP ports of a lab host that the neighbour can open. Bounded by nmap's own limits."""
    family = "-6" if ":" in address else ""
    listing = lab_hosts.run(
        "neighbour",
        f"nmap {family} -n -Pn -sS -p- --min-rate 10000 --max-retries 1 --host-timeout 120s"
        f" --open -oG - {address}",
        timeout=200,
    ).stdout
    assert "Status: Up" in listing or "Ports:" in listing, listing
    return {int(port) for port in re.findall(r"(\d+)/open/tcp", listing)}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("family", [4, 6])
def test_only_ssh_and_the_edge_are_open(deployed: Deployed, host: str, family: int) -> None:
    found = lab_hosts.host(host)
    address = str(found.ipv4 if family == 4 else found.ipv6)
    assert open_ports(address) == {22, 80, 443}


def test_a_container_s_own_address_is_out_of_reach(deployed: Deployed) -> None:
    """The neighbour routes the container network through the host, as anybody on its LAN can."""
    host = lab_hosts.host("gpu1")
    container = lab_hosts.run(
        "gpu1",
        "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' tiny",
    ).stdout.strip()
    probe = (
        f"python3 -c \"import socket; socket.create_connection(('{container}', 8000), timeout=3)\""
    )
    assert (
        lab_hosts.run("neighbour", f"ip route replace {container}/32 via {host.ipv4}").returncode
        == 0
    )
    try:
        assert lab_hosts.run("neighbour", probe, check=False).returncode != 0
        lab_hosts.run("gpu1", "nft delete table inet vllm_hosts; sysctl -qw net.ipv4.ip_forward=1")
        try:
            reached = lab_hosts.run("neighbour", probe, check=False)
        finally:
            lab_hosts.run("gpu1", "nft -f /etc/vllm-hosts/firewall.nft")
        assert reached.returncode == 0, "the probe cannot reach it even without the firewall"
    finally:
        lab_hosts.run("neighbour", f"ip route del {container}/32")
