"""The .env file of a host. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Entry, Folder
from vllm_hosts.host.paths import key_variable
from vllm_hosts.host.services import env_file
from vllm_hosts.keys import HostKeys
from vllm_hosts.settings import HostSettings


def secret_entries(settings: HostSettings, keys: HostKeys) -> list[Entry]:
    """.env for the agents' containers."""
    variables = {
        key_variable(agent.name): keys.internal_of(agent.name) for agent in settings.agents
    }
    if keys.hf_token is not None:
        variables["HF_TOKEN"] = keys.hf_token
    directory = settings.vllm.directory
    return [Folder(directory), env_file(directory, variables)]
