"""What a host's agents are beside their services. Touches no host."""

from __future__ import annotations

from pydantic import SecretStr

from vllm_hosts.host.files import Absent, Entry, Folder
from vllm_hosts.host.paths import agents_folder, compose_overrides, key_variable
from vllm_hosts.host.services import secrets_of
from vllm_hosts.keys import HostKeys
from vllm_hosts.settings import HostSettings


def peers(settings: HostSettings) -> dict[str, list[str]]:
    """By agent: the others on the host that answer to the same model name, from the same model."""
    return {agent.name: list(settings.twins(agent.name)) for agent in settings.agents}


def folders(settings: HostSettings) -> list[Entry]:
    """For each agent the folder that it may write, and those above."""
    vllm = settings.vllm
    owner, _, group = vllm.user.partition(":")
    folder = agents_folder(settings)
    return [
        Folder(vllm.directory),
        # Root's, so that no agent can put a link in the place of what is mounted.
        Folder(vllm.cache_directory),
        Folder(folder),
        *(
            Folder(f"{folder}/{agent.name}", mode=0o700, owner=owner, group=group)
            for agent in settings.agents
        ),
        # Compose would read these too, and run agents that no setting describes.
        *(Absent(path) for path in compose_overrides(settings)),
    ]


def variables(settings: HostSettings, keys: HostKeys) -> dict[str, dict[str, SecretStr]]:
    """By agent: what .env has for it, which Compose puts into its definition."""
    given = {"HF_TOKEN": keys.hf_token} if keys.hf_token is not None else {}
    return {
        agent.name: {
            secret.source: value
            for secret in secrets_of(settings, agent)
            if (
                value := {key_variable(agent.name): keys.internal_of(agent.name), **given}.get(
                    secret.source
                )
            )
        }
        for agent in settings.agents
    }
