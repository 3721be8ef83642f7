"""What containers may have, as short lists: everything else is a power over the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vllm_hosts.host.paths import EDGE_FOLDER, TLS_FOLDER
from vllm_hosts.settings import Agent, HostSettings


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Capabilities that Docker gives to every container, and that are no way out of one.
_CAPABILITIES = _words(
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP"
    " SETGID SETPCAP SETUID SYS_CHROOT"
)
_NO_NEW_PRIVILEGES = {
    f"no-new-privileges{end}" for end in ("", ":true", "=true")
}  # however it was written
#: Settings of a container with the values that they may have; "" and null count as unset. Docker
#: 26 to 29 write "private" for what nobody named; from a client before 20.10 it is "".
_ALLOWED: Mapping[str, frozenset[str]] = {
    "IpcMode": frozenset({"private", "none", "shareable"}),
    "CgroupnsMode": frozenset({"private"}),
    "PidMode": frozenset({"private"}),
    "UTSMode": frozenset({"private"}),
    "UsernsMode": frozenset({"private"}),
    "Cgroup": frozenset(),
    "Runtime": frozenset({"runc", "io.containerd.runc.v2", "nvidia", "runsc"}),
    "Isolation": frozenset({"default"}),
}
#: Settings that give nothing, or that another look judges: mounts, ports, networks.
_HARMLESS = _words(
    "AutoRemove Binds BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps"
    " BlkioDeviceWriteIOps BlkioWeight BlkioWeightDevice CapDrop CgroupParent ConsoleSize"
    " ContainerIDFile CpuCount CpuPercent CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime"
    " CpuShares CpusetCpus CpusetMems Dns DnsOptions DnsSearch ExtraHosts GroupAdd"
    " IOMaximumBandwidth IOMaximumIOps Init KernelMemory KernelMemoryTCP Links LogConfig"
    " MaskedPaths Memory MemoryReservation MemorySwap MemorySwappiness Mounts NanoCpus NetworkMode"
    " OomKillDisable OomScoreAdj PidsLimit PortBindings PublishAllPorts ReadonlyPaths"
    " ReadonlyRootfs RestartPolicy ShmSize StorageOpt Sysctls Tmpfs Ulimits VolumeDriver"
    " VolumesFrom"
)
#: Settings that have a judgement of their own here.
_JUDGED = _words("CapAdd DeviceCgroupRules DeviceRequests Devices Privileged SecurityOpt")
#: What gives the host away to whoever reads or writes it, a part of it, or a folder that it is in.
_HOST = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run"),
    *("/sbin", "/sys", "/usr", "/var/run", "/opt/containerd", "/var/lib/apt", "/var/lib/cloud"),
    *("/var/lib/containerd", "/var/lib/docker", "/var/lib/dpkg", "/var/lib/systemd"),
    *("/var/lib/vllm-hosts", "/var/spool/cron", EDGE_FOLDER, TLS_FOLDER),
)
#: Below these, people keep what containers are for; a folder of users' homes is not below.
_DATA = ("/data", "/media", "/mnt", "/opt", "/srv", "/storage", "/var/www")
#: What every user of the host can read anyway, and containers are often given: read-only.
_PUBLIC = ("/etc/localtime", "/etc/timezone", "/etc/ssl/certs", "/usr/share")
#: Volumes of the driver `local` that are no folder of the host.
_ELSEWHERE = frozenset({"cifs", "nfs", "nfs4", "tmpfs"})

#: A mount as (source on the host, place in the container, writable).
Mount = tuple[str, str, bool]


def own_mounts(settings: HostSettings, agent: Agent) -> set[Mount]:
    """What an agent has of the host: a folder to write in, and models to read."""
    cache = settings.vllm.cache_directory
    mounts = {
        (f"{cache}/agents/{agent.name}", "/cache", True),
        (f"{cache}/huggingface", "/models", False),
    }
    if agent.is_folder:
        mounts.add((agent.model, agent.model, False))
    return mounts


def mounts_of(container: Mapping[str, Any]) -> set[Mount]:
    """What a container has of the host, or in a volume; what lies in memory is left out."""
    return {
        (mount.get("Source", ""), mount["Destination"], mount["RW"])
        for mount in container["Mounts"]
        if mount["Type"] != "tmpfs"
    }


def protected(settings: HostSettings, docker_root: str, homes: Iterable[str]) -> set[str]:
    """Folders of a host that no container may see, nor a part of them, nor what they lie in.

    :param homes: home folders of those who can log in.
    """
    ssh = {f"{home.rstrip('/')}/.ssh" for home in homes}
    own = {settings.vllm.directory, settings.vllm.cache_directory, docker_root}
    return {*_HOST, *own, *ssh}


def sources(container: Mapping[str, Any], volumes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Paths of the host that a container's mounts begin at, those of volumes among them."""
    return [path for path, _ in _sources(container, volumes)]


def _sources(
    container: Mapping[str, Any], volumes: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, bool]]:
    for mount in container["Mounts"]:
        if mount["Type"] == "bind":
            yield mount["Source"], mount["RW"]
        elif mount["Type"] == "volume":
            device = (volumes.get(mount["Name"], {}).get("Options") or {}).get("device", "")
            if device.startswith("/"):
                yield device, mount["RW"]


def powers(
    container: Mapping[str, Any],
    volumes: Mapping[str, Mapping[str, Any]],
    forbidden: Iterable[str],
    same: Mapping[str, Iterable[str]],
    own: set[Mount],
    allowed: Iterable[str] = (),
) -> Iterator[str]:
    """What a container has that no container may have, as sentences.

    :param container: as ``docker inspect`` shows it.
    :param volumes: by name, as ``docker volume inspect`` shows them.
    :param forbidden: see ``protected``.
    :param same: by source of a mount: what else it is on this host, with links resolved.
    :param own: mounts that are right for this container, which is an agent's.
    :param allowed: further folders that containers may be given, by decision.
    """
    name = container["Name"].lstrip("/")
    yield from (f"{name} {has}" for has in _settings_that_give(container["HostConfig"]))
    expected = {source for source, _, _ in own & mounts_of(container)}
    watched = set(forbidden)
    for source, writable in _sources(container, volumes):
        if source in expected:
            continue
        places = {source, *same.get(source, ())}
        if not writable and all(_inside(place, _PUBLIC) for place in places):
            continue
        if any(place.endswith("docker.sock") for place in places):
            yield f"{name} has Docker's socket {source}"
        elif found := _nearest(places, watched):
            yield f"{name} has {source} of the host, {found}"
        elif not all(_for_containers(place, allowed) for place in places):
            yield (
                f"{name} has {source} of the host, which is none of the folders that are usual for"
                " containers; docker.container_folders names others"
            )
    for mount in container["Mounts"]:
        if mount.get("Propagation", "") not in ("", "private", "rprivate"):
            yield f"{name} shares the mounts below {mount['Source']} with the host"
        if mount["Type"] == "volume":
            options = volumes.get(mount["Name"], {}).get("Options") or {}
            kind = options.get("type", "")
            bound = kind in ("", "none") and "bind" in options.get("o", "").split(",")
            if options.get("device") and not bound and kind not in _ELSEWHERE:
                yield f"{name} has the volume {mount['Name']}, which is {options['device']}"
        elif mount["Type"] not in ("bind", "image", "tmpfs"):
            yield f"{name} has a mount of the unknown type {mount['Type']}"


def _settings_that_give(config: Mapping[str, Any]) -> Iterator[str]:
    if config["Privileged"]:
        yield "is privileged"
    added = {word.upper().removeprefix("CAP_") for word in config["CapAdd"] or ()}
    if more := sorted(added - _CAPABILITIES):
        yield f"has the capabilities {', '.join(more)}"
    for option in config["SecurityOpt"] or ():
        if option not in _NO_NEW_PRIVILEGES:
            yield f"has the security option {option.partition('{')[0]}"
    # `--security-opt systempaths=unconfined` leaves no other trace.
    if not config["Privileged"] and not (config["MaskedPaths"] and config["ReadonlyPaths"]):
        yield "sees all of /proc and /sys"
    for device in config["Devices"] or ():
        yield f"has the device {device['PathOnHost']}"
    for rule in config["DeviceCgroupRules"] or ():
        yield f"may use devices by the rule {rule}"
    for request in config["DeviceRequests"] or ():
        if not _asks_for_gpus(request):
            yield f"asks for devices of the driver {request['Driver'] or 'by default'}"
    for key, allowed in _ALLOWED.items():
        if config.get(key) and config[key] not in allowed:
            yield f"has {key} {config[key]}"
    for key in sorted(set(config) - _HARMLESS - _JUDGED - set(_ALLOWED)):
        if config[key]:
            yield f"has {key}, which is not known here"


def _asks_for_gpus(request: Mapping[str, Any]) -> bool:
    if request["Driver"] == "cdi":
        names = request["DeviceIDs"] or ()
        return bool(names) and all(name.startswith("nvidia.com/gpu=") for name in names)
    flat = {word for words in request["Capabilities"] or () for word in words}
    return request["Driver"] in ("", "nvidia") and "gpu" in flat


def _inside(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _for_containers(place: str, allowed: Iterable[str]) -> bool:
    """Whether containers may be given this, as far as no power over the host is known for it."""
    if _inside(place, allowed):
        return True
    if _inside(place, ["/home"]):
        # A folder in a home, and nothing that programs of its owner read by themselves.
        below = place.split("/")[3:]
        return bool(below) and not any(part.startswith(".") for part in below)
    return any(place.startswith(f"{folder}/") for folder in _DATA)


def _nearest(places: Iterable[str], watched: Iterable[str]) -> str:
    """How places touch what nobody may see, in words; empty where they do not."""
    known = sorted(watched, key=lambda path: (-len(path), path))
    for place in sorted(places):
        for path in known:
            if _inside(place, [path]):
                return f"which is {path}" if place == path else f"which is in {path}"
        for path in known:
            if _inside(path, [place.rstrip("/")]):
                return f"which holds {path}"
    return ""


def more_than_an_agent_needs(
    container: Mapping[str, Any], settings: HostSettings, agent: Agent
) -> dict[str, Any]:
    """By setting: what an agent's container has in the place of what it should have."""
    config = container["HostConfig"]
    exactly: dict[str, Any] = {
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "DeviceRequests": [_gpus(agent)] if agent.gpus else [],
    }
    nothing = (
        *("Privileged", "CapAdd", "Devices", "DeviceCgroupRules", "GroupAdd", "Links"),
        *("VolumesFrom", "Sysctls", "PidMode", "UTSMode", "UsernsMode", "Cgroup"),
    )
    found = {key: config.get(key) for key in nothing if config.get(key)}
    found |= {
        key: config.get(key) for key, value in exactly.items() if (config.get(key) or []) != value
    }
    if container["Config"]["User"] != settings.vllm.user:
        found["User"] = container["Config"]["User"]
    options = config["SecurityOpt"] or []
    if len(options) != 1 or options[0] not in _NO_NEW_PRIVILEGES:
        found["SecurityOpt"] = options
    found |= {
        key: config[key]
        for key in ("IpcMode", "CgroupnsMode")
        if config.get(key, "") not in ("", "private")
    }
    return found


def _gpus(agent: Agent) -> dict[str, Any]:
    return {
        "Driver": "nvidia",
        "Count": 0,
        "DeviceIDs": [str(gpu) for gpu in agent.gpus],
        "Capabilities": [["gpu"]],
        "Options": None,
    }
