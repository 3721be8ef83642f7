"""Which models a host needs, and how they get there. Touches no host."""

from __future__ import annotations

from vllm_hosts.host.files import Folder
from vllm_hosts.host.paths import models_folder
from vllm_hosts.hub.model import Copy, Download, HubModel
from vllm_hosts.settings import Agent, HostSettings

#: Agents' own variables for the way to the hub, which the download uses too.
_NETWORK = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_HUB_DOWNLOAD_TIMEOUT"}


def cache_folders(settings: HostSettings) -> list[Folder]:
    """The cache, owned by root, and the part that downloads write and agents read."""
    vllm = settings.vllm
    owner, _, group = vllm.fetch_user.partition(":")
    return [
        Folder(vllm.cache_directory),
        Folder(models_folder(settings), mode=0o750, owner=owner, group=group),
    ]


def hub_models(settings: HostSettings) -> list[HubModel]:
    """What the agents need from the hub, each once."""
    found: dict[str, HubModel] = {}
    for agent in settings.agents:
        for model in _of_agent(agent):
            found.setdefault(model.key, model)
    return list(found.values())


def _of_agent(agent: Agent) -> list[HubModel]:
    environment = tuple(
        (name, value) for name, value in agent.env.items() if name.upper() in _NETWORK
    )
    further = [
        HubModel(name, allow_pickle=agent.allow_pickle, environment=environment)
        for name in agent.extra_models
    ]
    if agent.is_folder:
        return further
    own = HubModel(
        agent.model,
        agent.revision or "main",
        agent.allow_pickle,
        agent.ignore_files,
        environment,
    )
    return [own, *further]


def download(settings: HostSettings) -> Download:
    """Settings that all downloads share."""
    vllm = settings.vllm
    return Download(
        image=vllm.image,
        user=vllm.fetch_user,
        cache_directory=vllm.cache_directory,
        token_file=f"{vllm.directory}/.env" if settings.secrets.has_hf_token else None,
        endpoint=settings.hub.endpoint,
        connections=settings.hub.connections,
    )


def copies(settings: HostSettings) -> list[Copy]:
    """Folders to copy from the controller, each once."""
    found = {
        agent.model: Copy(agent.copy_from, agent.model, agent.allow_pickle)
        for agent in settings.agents
        if agent.copy_from
    }
    return list(found.values())
