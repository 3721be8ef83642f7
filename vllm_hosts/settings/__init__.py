"""What a user may set: typed, validated, frozen. See ``docs/settings.md``."""

from vllm_hosts.settings.agent import Agent
from vllm_hosts.settings.edge import Edge
from vllm_hosts.settings.host import HostSettings
from vllm_hosts.settings.sections import (
    Capacity,
    Docker,
    Firewall,
    Hub,
    Nvidia,
    Secrets,
    Tls,
)
from vllm_hosts.settings.vllm import Vllm

__all__ = [
    "Agent",
    "Capacity",
    "Docker",
    "Edge",
    "Firewall",
    "HostSettings",
    "Hub",
    "Nvidia",
    "Secrets",
    "Tls",
    "Vllm",
]
