"""Paths on a host that one role writes and another one names to a program."""

from __future__ import annotations

from vllm_hosts.settings import Agent, HostSettings

EDGE_FOLDER = "/etc/nginx/vllm-hosts"
EDGE_LOGS = "/var/log/vllm-hosts"
TLS_FOLDER = "/etc/vllm-hosts/tls"
TLS_CERTIFICATE = f"{TLS_FOLDER}/certificate.pem"
TLS_KEY = f"{TLS_FOLDER}/key.pem"


def model_folder(settings: HostSettings, agent: Agent) -> str:
    """Where the agent's model lies, or will lie after its download from the hub."""
    if agent.model.startswith("/"):
        return agent.model
    cached = agent.model.replace("/", "--")
    return f"{settings.vllm.cache_directory}/huggingface/hub/models--{cached}"
