"""From a query of a host to what the plan needs: cards, and models' files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vllm_hosts.capacity.estimates import GIB
from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.hub_client import HubClient
from vllm_hosts.capacity.model_folder import parse_config, read_folder
from vllm_hosts.capacity.model_shape import ModelFiles
from vllm_hosts.capacity.result import PlannedGpu
from vllm_hosts.facts import look
from vllm_hosts.facts.system import SystemState
from vllm_hosts.host.nvidia_smi import Gpu as Card
from vllm_hosts.host.paths import model_folder
from vllm_hosts.host.system import ModelFolder, System
from vllm_hosts.settings import Agent, HostSettings


def look_at(settings: HostSettings) -> System:
    """The connected host: its cards, and models that it has. :raises HostError: it does not say."""
    return look(
        SystemState,
        folders=[],
        image=settings.vllm.image,
        reader=settings.vllm.fetch_user,
        models=model_folders(settings),
    )


def model_folders(settings: HostSettings) -> list[str]:
    """Folders on the host with the models of agents that have GPUs."""
    return list(
        dict.fromkeys(model_folder(settings, agent) for agent in settings.agents if agent.gpus)
    )


def gpus_of(cards: Iterable[Card], gpu_memory: float | None = None) -> dict[int, PlannedGpu]:
    """Cards by index.

    :param gpu_memory: GiB, for a card that does not say, as one that shares the host's memory.
    """
    return {
        card.index: PlannedGpu(
            card.index,
            card.name,
            _bytes(gpu_memory) if card.memory_mib is None else card.memory_mib * 1024**2,
        )
        for card in cards
    }


def supposed_gpus(settings: HostSettings, gpu_memory: float) -> dict[int, PlannedGpu]:
    """The cards that agents ask for, with so many GiB each: of a host that cannot be asked."""
    indices = sorted({gpu for agent in settings.agents for gpu in agent.gpus})
    return {index: PlannedGpu(index, "supposed", _bytes(gpu_memory)) for index in indices}


def models_of(
    settings: HostSettings,
    found: Mapping[str, ModelFolder],
    hub: HubClient,
    copies: Mapping[str, Path] | None = None,
) -> dict[str, ModelFiles | str]:
    """By ``model``: its files, or why they are not known. For agents with GPUs.

    A local copy comes first, then what the host has, then the hub.

    :param found: what the host has, by folder.
    :param copies: folders on the controller, by agent.
    """
    models: dict[str, ModelFiles | str] = {}
    for agent in settings.agents:
        copy = (copies or {}).get(agent.name)
        if not agent.gpus or (agent.model in models and copy is None):
            continue
        models[agent.model] = _read(settings, agent, found, hub, copy)
    return models


def _read(
    settings: HostSettings,
    agent: Agent,
    found: Mapping[str, ModelFolder],
    hub: HubClient,
    copy: Path | None,
) -> ModelFiles | str:
    folder = model_folder(settings, agent)
    if copy is not None:
        return _or_sentence(lambda: read_folder(agent.model, copy))
    if folder in found:
        there = found[folder]
        if there.damage and agent.is_folder:
            return f"{agent.model} on the host {there.damage}"
        return _or_sentence(
            lambda: ModelFiles(parse_config(agent.model, there.config), there.weight_bytes)
        )
    if agent.model.startswith("/"):
        return (
            f"{agent.model} was not read on the host, or has no config.json; to plan without the"
            f" host, name a copy: --model-dir {agent.name}=FOLDER"
        )
    return hub.read(agent.model, settings.hub.endpoint, agent.revision)


def _or_sentence(read: Callable[[], ModelFiles]) -> ModelFiles | str:
    try:
        return read()
    except UnplannableError as error:
        return str(error)


def _bytes(gpu_memory: float | None) -> int | None:
    return None if gpu_memory is None else int(gpu_memory * GIB)


def cards(system: System, settings: HostSettings) -> dict[int, PlannedGpu] | None:
    """A host's cards as it says; None: its driver does not answer, or is not there yet."""
    if system.gpu_failure is not None:
        return None
    return gpus_of(system.gpus, settings.capacity.gpu_memory)
