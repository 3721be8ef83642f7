"""The .env file of a host. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vllm_hosts.host.files import Entry, Folder
from vllm_hosts.host.paths import key_variable
from vllm_hosts.host.services import env_file
from vllm_hosts.keys import HostKeys
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.agent import AGENT_NAME


def secret_entries(
    settings: HostSettings, keys: HostKeys, leaving: Iterable[str] = ()
) -> list[Entry]:
    """.env for the agents' containers.

    :param leaving: names that compose.yaml has on the host, where somebody may have added others:
        only an agent's is one of ours.
    """
    ours = sorted(name for name in leaving if re.fullmatch(AGENT_NAME, name))
    names = [*(agent.name for agent in settings.agents), *ours]
    variables = {key_variable(name): keys.internal_of(name) for name in names}
    if keys.hf_token is not None:
        variables["HF_TOKEN"] = keys.hf_token
    directory = settings.vllm.directory
    return [Folder(directory), env_file(directory, variables)]
