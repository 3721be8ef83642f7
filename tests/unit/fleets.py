"""Settings of a gateway and of the hosts behind it, as an inventory with gateways gives them."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from tests.unit.samples import QWEN, settings
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import GatewayHost, Pool, Replica

GATEWAY = GatewayHost("gw1", (ip_network("192.0.2.21/32"),))


def behind(**values: Any) -> HostSettings:
    """A host behind one gateway."""
    return settings(**values).model_copy(update={"gateways": (GATEWAY,)})


def gateway(**values: Any) -> HostSettings:
    """A gateway of two hosts with the same agent."""
    host = settings(**{"name": "gw1", "address": "192.0.2.21", "agents": [QWEN]} | values)
    replicas = [Replica(name, "qwen", f"192.0.2.1{name[-1]}", 8443) for name in ("gpu1", "gpu2")]
    pool = Pool("qwen", host.agents[0].client_model_name, tuple(replicas))
    return host.model_copy(update={"pools": (pool,)})
