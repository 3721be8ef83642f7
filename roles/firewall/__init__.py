"""Our own nftables table.

Promises: from outside, only SSH, the edge and ICMP can be reached, and no source can take all of
the edge's connections; gateways alone reach the port for them, and hosts of the inventory that of
their mirror; nobody outside can open a connection to a container network, whatever its name and
whatever Docker publishes; agents open only connections that settings name; on the host only root
and the edge reach agents; the same for IPv4 and IPv6; in force at boot before Docker.
Needs: preflight. Writes: /etc/vllm-hosts/firewall.nft and a systemd unit. Restarts: nothing. Other
tables, and ufw's or Docker's rules, are never touched. The host itself undoes a change after a
minute if new SSH connections fail, or at a boot before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.firewall import HostSurroundings, SshPorts
from vllm_hosts.host.files import Entry
from vllm_hosts.host.sockets import edge_ports
from vllm_hosts.operations import outside
from vllm_hosts.operations.apt import packages_present
from vllm_hosts.operations.firewall import firewall_in_force, other_firewalls_noted
from vllm_hosts.project import run
from vllm_hosts.roles.firewall.plan import RULES, UNIT, firewall_entries
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import closed_ports


@deploy("Firewall")
def firewall() -> None:
    """Close everything but SSH and the edge."""
    settings = run.current().settings
    packages_present({"nftables": None}, name="nftables is installed")
    firewall_in_force(
        partial(_entries, settings),
        RULES,
        UNIT,
        afterwards=partial(_tried, settings),
        name="The firewall is in force, now and at boot",
    )
    other_firewalls_noted([*edge_ports(settings)], name="Other firewalls are known")


def _tried(settings: HostSettings) -> None:
    """Waiting for what a firewall drops begins now, and is over when the run asks for it."""
    outside.begin(settings.address, closed_ports(settings), answering=settings.edge.https_port)


def _entries(settings: HostSettings) -> Sequence[Entry]:
    ports = look(SshPorts)
    return firewall_entries(settings, ports, look(HostSurroundings))
