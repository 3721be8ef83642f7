"""Which agents of which hosts a command is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_hosts.connect.connections import Connections
from vllm_hosts.operations.rotation import Rotation
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Chosen:
    """Agents by host, in the inventory's order, and the way to their hosts.

    ``rotation``: the gateways in front of a host.
    """

    connections: Connections
    settings: Mapping[str, HostSettings]
    agents: dict[str, list[str]]
    rotation: Callable[[str], Rotation] = Rotation

    @property
    def gateways(self) -> list[str]:
        """The gateways in front of these hosts."""
        names = [one.name for host in self.agents for one in self.settings[host].gateways]
        return list(dict.fromkeys(names))
