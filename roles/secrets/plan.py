"""The .env file of a host. Touches no host."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import SecretStr

from vllm_hosts.host.files import Entry, Folder
from vllm_hosts.host.paths import key_variable
from vllm_hosts.host.services import env_file
from vllm_hosts.keys import HostKeys
from vllm_hosts.settings import HostSettings


def secret_entries(
    settings: HostSettings, keys: HostKeys, leaving: Iterable[str] = ()
) -> list[Entry]:
    """.env for the agents' containers.

    :param leaving: names of agents, which the settings need not have.
    """
    variables: dict[str, SecretStr] = {}
    for name in [*(agent.name for agent in settings.agents), *sorted(leaving)]:
        # Of two names with one variable, that of the settings has it.
        variables.setdefault(key_variable(name), keys.internal_of(name))
    if keys.hf_token is not None:
        variables["HF_TOKEN"] = keys.hf_token
    directory = settings.vllm.directory
    return [Folder(directory), env_file(directory, variables)]
