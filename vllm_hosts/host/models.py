"""Which models agents need, and how they get to a host. Touches no host."""

from __future__ import annotations

from dataclasses import replace

from vllm_hosts.host.mirror import client_files
from vllm_hosts.hub.hub_models import Copy, Download, HubModel, MirrorWay
from vllm_hosts.settings import Agent, HostSettings

#: What agents set for their own way to the hub is taken for the download too.
_NETWORK = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_HUB_DOWNLOAD_TIMEOUT"}


def hub_models(settings: HostSettings) -> list[HubModel]:
    """What the agents need from the hub, each once."""
    found: dict[str, HubModel] = {}
    for agent in settings.agents:
        for model in models_of(agent):
            found.setdefault(model.key, model)
    return list(found.values())


def models_of(agent: Agent) -> list[HubModel]:
    """What one agent needs from the hub, its own model first."""
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
    """What the downloads share."""
    vllm = settings.vllm
    return Download(
        image=vllm.image,
        user=vllm.fetch_user,
        cache_directory=vllm.cache_directory,
        token_file=f"{vllm.directory}/.env" if settings.secrets.has_hf_token else None,
        endpoint=settings.hub.endpoint,
        connections=settings.hub.connections,
    )


def through_mirror(settings: HostSettings) -> Download:
    """The same, by way of the inventory's mirror, if it has one that is another host."""
    at = settings.mirror_at
    if at is None or at.itself:
        return download(settings)
    way = MirrorWay(at.host, at.place, client_files(at))
    return replace(download(settings), mirror=way)


def models_for_others(settings: HostSettings) -> list[HubModel]:
    """Of a mirror: what other hosts need from the hub, and it does not need itself, each once."""
    own = {model.key for model in hub_models(settings)}
    found = {model.key: model for one in settings.mirror_for for model in hub_models(one)}
    return [model for key, model in found.items() if key not in own]


def copies(settings: HostSettings) -> list[Copy]:
    """Folders that come from the controller, each once."""
    found = {
        agent.model: Copy(agent.copy_from, agent.model, agent.allow_pickle)
        for agent in settings.agents
        if agent.copy_from
    }
    return list(found.values())
