"""A host as it is before anything is changed there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from vllm_hosts.host.docker_there import DockerThere
from vllm_hosts.host.image_places import ImagePlaces
from vllm_hosts.host.nvidia_apps import Holder
from vllm_hosts.host.nvidia_smi import Failure, Gpu, Smi
from vllm_hosts.host.sockets import Socket


@dataclass(frozen=True)
class ModelFolder:
    """A model on the host: the text of its config.json, and the size of its weights if known.

    ``damage``: what is wrong with its files, such as ``holds no weights: ...``.
    """

    config: bytes
    weight_bytes: int | None
    damage: str | None = None


@dataclass(frozen=True)
class NetworkRoute:
    """A route to a network. Only IPv4, and not the default route."""

    network: IPv4Network
    interface: str


@dataclass(frozen=True)
class System:
    """A host as preflight sees it.

    ``listeners`` are its TCP sockets. ``free`` is in bytes, by the folder that was asked about;
    ``present`` are those that exist.
    ``gpu_failure`` is what ``nvidia-smi`` said where it failed; ``gpus_lost`` and ``gpu_notes`` are
    what it said of cards that are gone, by index, and beside its answer; ``programs`` are those
    with memory on cards. ``models`` are those with
    a config.json, by the folder that was asked about. ``ipv6``: whether the kernel speaks it.
    ``clock``: seconds that it is ahead of this machine's. ``containers`` are the names of all,
    whatever they do; ``container_ports`` has those that Docker publishes a port for, and
    ``project_ports`` the ports of Compose projects, by their folder. ``swarm``: whether the host is
    a node of a swarm; like ``docker`` and ``images``, it is asked by itself.
    """

    user: str
    init: str
    free: dict[str, int]
    present: frozenset[str]
    has_image: bool
    listeners: tuple[Socket, ...]
    container_ports: dict[int, str]
    gpus: tuple[Gpu, ...]
    gpu_failure: Failure | None
    models: dict[str, ModelFolder] = field(default_factory=dict)
    containers: frozenset[str] = frozenset()
    routes: tuple[NetworkRoute, ...] = ()
    gpus_lost: Mapping[int, str] = field(default_factory=dict)
    gpu_notes: tuple[str, ...] = ()
    programs: tuple[Holder, ...] = ()
    ipv6: bool = True
    clock: float = 0.0
    docker: DockerThere = field(default_factory=DockerThere)
    images: ImagePlaces | None = None
    swarm: bool = False
    project_ports: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def smi(self) -> Smi:
        """All that ``nvidia-smi`` said."""
        return Smi(self.gpus, self.gpu_failure, self.gpus_lost, self.gpu_notes)
