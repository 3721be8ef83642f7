"""Where agents live on a host: each in a network of its own, at an address that stays."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

#: A network, a gateway and room for one container.
_CELL_PREFIX = 29
#: Bridges whose names begin so are ours: cells, and the network in which models are fetched.
BRIDGE_PREFIX = "vllm-"
FETCHING = f"{BRIDGE_PREFIX}fetch"
#: Port of vLLM inside its container, whatever the host publishes.
CONTAINER_PORT = 8000


@dataclass(frozen=True)
class Cell:
    """An agent's network: nothing but the agent and the bridge's own address is in it."""

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

    Its place in ``network`` follows from its port alone, so that another agent that comes or goes
    moves nobody.

    :param network: what all cells of a host are cut from; /29 or larger.
    """
    places = 2 ** (_CELL_PREFIX - network.prefixlen)
    first = int(network.network_address) + (port % places) * 2 ** (32 - _CELL_PREFIX)
    # The kernel takes 15 characters for an interface's name; a port always fits.
    return Cell(agent, f"{BRIDGE_PREFIX}{port}", IPv4Network((first, _CELL_PREFIX)))
