"""Agents' networks on a host: one for each agent, at an address that does not change."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

#: Room for a gateway and one container.
_CELL_PREFIX = 29
#: How names of our bridges begin: those of cells, and of the network for fetching models.
BRIDGE_PREFIX = "vllm-"
FETCHING = f"{BRIDGE_PREFIX}fetch"
#: vLLM's port inside its container, whatever port the host publishes.
CONTAINER_PORT = 8000


@dataclass(frozen=True)
class Cell:
    """An agent's network, with nothing in it but the agent and the bridge's own address."""

    agent: str
    bridge: str
    subnet: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        """The host's address on the bridge."""
        return self.subnet[1]

    @property
    def address(self) -> IPv4Address:
        """The agent's address, which no other program of the host can take."""
        return self.subnet[2]


def cell(network: IPv4Network, agent: str, port: int) -> Cell:
    """The cell of an agent.

    Its place in ``network`` depends only on its port, so that no agent moves when another is added
    or removed.

    :param network: the network that all cells of a host are parts of; /29 or larger.
    """
    places = 2 ** (_CELL_PREFIX - network.prefixlen)
    first = int(network.network_address) + (port % places) * 2 ** (32 - _CELL_PREFIX)
    # An interface's name may have 15 characters, so a port always fits.
    return Cell(agent, f"{BRIDGE_PREFIX}{port}", IPv4Network((first, _CELL_PREFIX)))
