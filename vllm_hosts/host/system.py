"""A host as it is before anything is changed there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from vllm_hosts.host.docker_there import DockerThere
from vllm_hosts.host.image_places import ImagePlaces
from vllm_hosts.host.nvidia_smi import Gpu, Smi


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket: address and programs as ``ss`` prints them, port, and its user."""

    address: str
    port: int
    programs: str
    user: str = ""


@dataclass(frozen=True)
class ModelFolder:
    """A model on the host: the text of its config.json, and the size of its weights if known.

    ``damage``: what is wrong with its files, such as ``holds no weights: ...``.
    """

    config: bytes
    weight_bytes: int | None
    damage: str | None = None


@dataclass(frozen=True)
class Route:
    """A route to a network. Only IPv4, and not the default route."""

    network: IPv4Network
    interface: str


@dataclass(frozen=True)
class System:
    """A host as preflight sees it.

    ``free``: bytes by folder, for the folders that were requested; ``present``: those that exist.
    ``gpu_message``: what ``nvidia-smi`` printed if it failed; ``gpus_lost`` and ``gpu_notes``: what
    it printed for lost cards, by index, and beside its answer. ``models``: those with a
    config.json, by requested folder. ``ipv6``: whether the kernel supports it.
    """

    user: str
    init: str
    free: dict[str, int]
    present: frozenset[str]
    has_image: bool
    listeners: tuple[Listener, ...]
    container_ports: dict[int, str]
    gpus: tuple[Gpu, ...]
    gpu_message: str | None
    models: dict[str, ModelFolder] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    gpus_lost: Mapping[int, str] = field(default_factory=dict)
    gpu_notes: tuple[str, ...] = ()
    ipv6: bool = True
    docker: DockerThere = field(default_factory=DockerThere)
    images: ImagePlaces | None = None

    @property
    def smi(self) -> Smi:
        """Everything that ``nvidia-smi`` printed."""
        return Smi(self.gpus, self.gpu_message, self.gpus_lost, self.gpu_notes)
