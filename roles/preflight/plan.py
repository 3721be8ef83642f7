"""Reasons not to deploy to a host, as sentences. Touches no host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from shlex import quote

from vllm_hosts.host.archives import archive_problems
from vllm_hosts.host.compose import final_name
from vllm_hosts.host.docker_there import docker_problems
from vllm_hosts.host.gpus import silent, unusable
from vllm_hosts.host.mirror import MirrorThere, image_key, mirrored_images
from vllm_hosts.host.paths import BALANCER_STATE, MIRROR_STATE, agents_folder, model_folder
from vllm_hosts.host.release import Release
from vllm_hosts.host.sockets import DOCKER, Socket, edge_ports
from vllm_hosts.host.system import System
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.agent import Agent
from vllm_hosts.settings.cells import BRIDGE_PREFIX

SUPPORTED = {
    ("debian", "12"): "Debian 12",
    ("debian", "13"): "Debian 13",
    ("ubuntu", "22.04"): "Ubuntu 22.04",
    ("ubuntu", "24.04"): "Ubuntu 24.04",
}
ARCHITECTURES = ("amd64", "arm64")
DOCKER_FOLDER = "/var/lib/docker"
GIB = 1024**3
#: Where packages go, and what apt fetches. nginx and HAProxy with all that they need take 60 MB.
_PACKAGES = ("/usr", "/var")
_PACKAGES_NEED = GIB // 4
#: Where apt, a change's own script and the runtime that starts health checks write for a moment.
_MOMENT = ("/run", "/tmp")  # noqa: S108
_MOMENT_NEED = 1 << 20
#: Seconds. A few are HOST-01's matter; with hours apt refuses archives.
_CLOCK = 3600.0


def folders(settings: HostSettings) -> list[str]:
    """Folders whose free space matters, whether or not they exist yet."""
    if not settings.runs_agents:
        return [*_PACKAGES, agents_folder(settings), *_MOMENT]
    return [
        *_MOMENT,
        BALANCER_STATE,
        DOCKER_FOLDER,
        settings.vllm.cache_directory,
        *([MIRROR_STATE] if settings.is_mirror else []),
        *dict.fromkeys(model_folder(settings, agent) for agent in _fetching(settings)),
    ]


def _fetching(settings: HostSettings) -> list[Agent]:
    """Agents whose models come to this host: its own, and for a mirror those of all who ask it."""
    others = (agent for one in settings.mirror_for for agent in one.agents if not agent.is_folder)
    return [*settings.agents, *others]


def own_folders(settings: HostSettings) -> list[str]:
    """Folders with models that somebody else put on the host, so that nobody has verified them."""
    own = settings.own_agents
    return [agent.model for agent in own if agent.is_folder and not agent.copy_from]


def problems(settings: HostSettings, release: Release, system: System) -> list[str]:
    """Everything that would prevent a deploy, one sentence each; empty: go ahead."""
    if not settings.runs_agents:
        return [
            *_machine(release, system),
            *_other_side(settings, system),
            *_ports(settings, system),
            *_addresses(settings, system),
            *_room(system),
            *_moment(system),
        ]
    return [
        *_machine(release, system),
        *_other_side(settings, system),
        *docker_problems(settings.docker.source, release, system.docker),
        *_ports(settings, system),
        *_network(settings, system),
        *_addresses(settings, system),
        *_disk(settings, system),
        *_moment(system),
        *_gpus(settings, system),
    ]


def archives(
    settings: HostSettings, release: Release, system: System, files: Mapping[str, str]
) -> list[str]:
    """Entries in the source files of apt beside which our archives cannot be named."""
    driver = settings.nvidia.driver == "install" and system.gpu_failure is not None
    return list(archive_problems(settings, release, files, driver=driver and settings.needs_gpu))


def _machine(release: Release, system: System) -> Iterator[str]:
    if (release.os_id, release.version) not in SUPPORTED:
        yield f"{release.name} is not supported; use one of {', '.join(SUPPORTED.values())}"
    if release.architecture not in ARCHITECTURES:
        yield (
            f"architecture {release.architecture} is not supported;"
            f" use one of {', '.join(ARCHITECTURES)}"
        )
    if system.init != "systemd":
        yield (
            f"the first process is {system.init}, not systemd, which runs the services; deploy to"
            " the machine itself and not to a container on it, or boot it with systemd"
        )
    if abs(system.clock) > _CLOCK:
        away = timedelta(seconds=round(abs(system.clock)))
        yield (
            f"its clock is {away} {'ahead of' if system.clock > 0 else 'behind'} the one here, so"
            " archives, certificates and expiring keys would be judged by a wrong date; set it:"
            " timedatectl set-ntp true, or date -s"
        )
    if system.user != "0":
        yield "commands do not run as root; connect as root, or set _sudo = True for this host"


def _other_side(settings: HostSettings, system: System) -> Iterator[str]:
    """What a machine was before it changed sides would go on there, and nothing would look after
    it: agents without the firewall's rules for them, or an HAProxy with a key for hosts."""
    remove = f"pyinfra INVENTORY remove.py --limit {settings.name}"
    if not settings.runs_agents and agents_folder(settings) in system.present:
        yield (
            "this gateway was a GPU host, and its agents are still there; leave it in gpu_hosts as"
            f" well, or take them off first: {remove}, and deploy again"
        )
    if not settings.is_gateway and BALANCER_STATE in system.present:
        yield (
            "this GPU host was a gateway, and its HAProxy is still there; leave it in gateways as"
            f" well, or take it off first: {remove}, and deploy again"
        )


def _ports(settings: HostSettings, system: System) -> Iterator[str]:
    ours = {agent.port: agent.name for agent in settings.own_agents}
    edge = edge_ports(settings)
    for listener in system.listeners:
        container = system.container_ports.get(listener.port)
        # While a container that keeps ending is between two starts, its proxy may still be there
        # and Docker names no port of it.
        between = listener.held_by(*DOCKER) and ours.get(listener.port) in system.containers
        if (
            listener.port in ours
            and final_name(container or "") not in ours.values()
            and not (between and not container)
        ):
            yield (
                f"port {listener.port} of agent {ours[listener.port]!r} is taken by"
                f" {_taken(listener, container)}, or give the agent another port"
            )
        if listener.port in edge and not listener.shared_by("nginx"):
            yield (
                f"port {listener.port} is taken by {_taken(listener, container)}, or set"
                f" {edge[listener.port]}"
            )


def _taken(listener: Socket, container: str | None) -> str:
    """Who listens, and how it ends."""
    if container:
        return f"container {container}; stop it: docker stop {quote(container)}"
    if not (who := listener.who):
        return f"another program; stop it: ss -ltnp sport = :{listener.port} shows it"
    # A process's own name says nothing reliable; ps does.
    pids = listener.pids
    return f"{who}; stop it: see ps -fp {','.join(pids)}, then kill {' '.join(pids)}"


def _network(settings: HostSettings, system: System) -> Iterator[str]:
    """Agents' networks must not hide anything that the host has to reach."""
    for route in system.routes:
        if not route.interface.startswith(BRIDGE_PREFIX) and route.network.overlaps(
            settings.vllm.network
        ):
            yield (
                f"the host reaches {route.network} through {route.interface}, which overlaps"
                f" vllm.network {settings.vllm.network}; set vllm.network to a range that is used"
                " nowhere around this host"
            )


def _addresses(settings: HostSettings, system: System) -> Iterator[str]:
    """Settings that are impossible on a host without IPv6."""
    if system.ipv6:
        return
    no = "and this host has no IPv6 (ipv6.disable=1)"
    if names := [name for name in settings.edge_names if ":" in name]:
        yield f"clients should use the address {names[0]}, {no}; correct edge.names"
    for agent in settings.own_agents:
        if "::" in agent.listen_addresses:
            yield (
                f"agent {agent.name!r} is exposed to an IPv6 network, {no}; take the network out of"
                " its expose.networks, or switch IPv6 on"
            )


def _room(system: System) -> Iterator[str]:
    """A gateway gets packages, and nothing else that is large."""
    for folder in _PACKAGES:
        if system.free[folder] < _PACKAGES_NEED:
            yield (
                f"{folder} has {system.free[folder] / GIB:.1f} GiB free, and a gateway's packages"
                f" need {_PACKAGES_NEED / GIB:g}; make room"
            )


def _moment(system: System) -> Iterator[str]:
    for folder in _MOMENT:
        if system.free[folder] < _MOMENT_NEED:
            yield (
                f"{folder} has {system.free[folder] >> 10} KiB free, and {_MOMENT_NEED >> 20} MiB"
                " is needed there for a moment; make room"
            )


def mirror_room(settings: HostSettings, system: System, there: MirrorThere) -> list[str]:
    """Why a mirror has no room for its own copies of images, which Docker's are not."""
    missing = {image_key(image) for image in mirrored_images(settings)} - there.images
    free, need = system.free[MIRROR_STATE], len(missing) * settings.vllm.image_disk
    docker_s = ""
    # Docker's copy goes to the same disk, as the same number of bytes tells.
    if not system.has_image and free == _image_place(settings, system)[1]:
        need, docker_s = need + settings.vllm.image_disk, ", with Docker's own,"
    if not missing or free >= need * GIB:
        return []
    return [
        f"{MIRROR_STATE} has {free / GIB:.1f} GiB free, and the mirror's copies of"
        f" {len(missing)} image(s){docker_s} need {need} (vllm.image_disk each); make"
        " room, or take another host into the group mirror"
    ]


def _image_place(settings: HostSettings, system: System) -> tuple[str, int]:
    """Where Docker puts an image, and the free bytes there."""
    if system.images is None:
        return DOCKER_FOLDER, system.free[DOCKER_FOLDER]
    return system.images.goes_to(settings.docker.source, system.docker)


def _disk(settings: HostSettings, system: System) -> Iterator[str]:
    folder, free = _image_place(settings, system)
    if not system.has_image and free < settings.vllm.image_disk * GIB:
        yield (
            f"{folder} has {free / GIB:.1f} GiB free, and the image"
            f" needs {settings.vllm.image_disk} (vllm.image_disk); make room"
        )
    missing = {
        agent.model
        for agent in _fetching(settings)
        if not agent.model.startswith("/") and model_folder(settings, agent) not in system.present
    }
    cache = settings.vllm.cache_directory
    if system.free[cache] < len(missing) * settings.vllm.model_disk * GIB:
        yield (
            f"{cache} has {system.free[cache] / GIB:.1f} GiB free, and {len(missing)} model(s) to"
            f" download need {settings.vllm.model_disk} each (vllm.model_disk); make room"
        )
    for agent in settings.agents:
        if agent.is_folder and not agent.copy_from and agent.model not in system.present:
            yield (
                f"model {agent.model} of agent {agent.name!r} is not a folder on this host;"
                " copy it there, set copy_from, or name a hub id"
            )
    for folder in dict.fromkeys(own_folders(settings)):
        if folder in system.models and system.models[folder].damage:
            yield f"model {folder} on this host {system.models[folder].damage}"


def _gpus(settings: HostSettings, system: System) -> Iterator[str]:
    if not settings.needs_gpu:
        return
    if system.gpu_failure is not None:
        # With "install" the role nvidia_driver comes next and sees to it.
        if settings.nvidia.driver == "present":
            yield silent(system.gpu_failure, settings.nvidia.driver)
        return
    for problem in unusable(settings.agents, system.smi):
        # The role nvidia_driver reboots a host that has lost a card, if that is allowed.
        if not (settings.nvidia.driver == "install" and system.smi.trouble(settings.gpus)):
            yield problem


def notes(settings: HostSettings, system: System) -> list[str]:
    """What is odd, but prevents nothing; to be printed."""
    found = [f"nvidia-smi says: {note}" for note in system.gpu_notes if settings.needs_gpu]
    if not system.ipv6:
        found.append("this host has no IPv6 (ipv6.disable=1); the edge listens on IPv4 alone")
    return found
