"""Settings that several unit tests start from."""

from __future__ import annotations

from typing import Any

from vllm_hosts.settings import HostSettings

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


def settings(**values: Any) -> HostSettings:
    """Valid settings of one host, with these in the place of the defaults."""
    return HostSettings.model_validate(
        {"name": "gpu1", "address": "192.0.2.11", "agents": [QWEN]} | values
    )
