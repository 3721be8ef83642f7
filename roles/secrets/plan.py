"""The .env file of a host. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Entry, File, Folder
from vllm_hosts.host.paths import key_variable
from vllm_hosts.host.render import render
from vllm_hosts.keys import HostKeys
from vllm_hosts.settings import HostSettings


def secret_entries(settings: HostSettings, keys: HostKeys) -> list[Entry]:
    """.env for the agents' containers. Values need no quoting: the key store has checked them."""
    variables = {
        key_variable(agent.name): keys.internal_of(agent.name).get_secret_value()
        for agent in settings.agents
    }
    if keys.hf_token is not None:
        variables["HF_TOKEN"] = keys.hf_token.get_secret_value()
    content = render("secrets/env.j2", variables=variables).encode()
    directory = settings.vllm.directory
    return [Folder(directory), File(f"{directory}/.env", content, mode=0o600, secret=True)]
