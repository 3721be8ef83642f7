"""Which agents of which hosts a command is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_hosts.connect.connections import Connections
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Chosen:
    """Agents by host, in the inventory's order, and the way to their hosts."""

    connections: Connections
    settings: Mapping[str, HostSettings]
    agents: dict[str, list[str]]
