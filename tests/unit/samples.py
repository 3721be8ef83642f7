"""Settings that several unit tests start from."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import GatewayHost, Pool, Replica

QWEN: dict[str, Any] = {"name": "qwen", "model": "Qwen/Qwen3-8B", "port": 8001}
CODER: dict[str, Any] = {
    "name": "coder",
    "model": "/srv/models/coder",
    "port": 8002,
    "gpus": [1, 2],
    "served_model_name": "coder-14b",
    "gpu_memory_utilization": 0.5,
    "max_model_len": 16384,
    "quantization": "awq",
    "tool_call_parser": "hermes",
    "prefix_caching": False,
    "extra_args": [
        "--max-num-seqs",
        "16",
        "--override-generation-config",
        '{"top_p": 0.9, "x": "$1"}',
    ],
    "env": {"NCCL_P2P_DISABLE": "1"},
}


#: What every gateway of the samples serves, and who they are.
POOLS = (
    Pool("qwen", "qwen", (Replica("gpu1", "qwen", "192.0.2.11", 8443),)),
    Pool("coder", "coder-14b", (Replica("gpu1", "coder", "192.0.2.11", 8443, weight=2),)),
)
GATEWAYS = (
    GatewayHost("gw1.example.com", (ip_network("192.0.2.21/32"),)),
    GatewayHost("gw2.example.com", (ip_network("192.0.2.22/32"),)),
)


def gateway(**values: Any) -> HostSettings:
    """Valid settings of a gateway to the two agents."""
    found = settings(**{"name": "gw1.example.com", "agents": [QWEN, CODER]} | values)
    return found.model_copy(update={"pools": POOLS})


def behind(**values: Any) -> HostSettings:
    """Valid settings of a host with the two agents, behind two gateways."""
    found = settings(**{"agents": [QWEN, CODER]} | values)
    return found.model_copy(update={"gateways": GATEWAYS})


def settings(**values: Any) -> HostSettings:
    """Valid settings of one host, with these in the place of the defaults."""
    return HostSettings.model_validate(
        {"name": "gpu1", "address": "192.0.2.11", "agents": [QWEN]} | values
    )
