"""Diagnoses of the machine and of Docker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vllm_hosts.doctor.diagnoses import Certainty, Finding, Remedy, finds
from vllm_hosts.doctor.messages import DISK_FULL, NO_SOURCE, PORT_TAKEN, line_of, said_by, saying
from vllm_hosts.doctor.query import deployed_file
from vllm_hosts.doctor.seen import DeployProcess, Disk, Seen
from vllm_hosts.host.containers import Standing
from vllm_hosts.host.marks import readable
from vllm_hosts.host.paths import EDGE_LOGS
from vllm_hosts.host.sockets import DOCKER
from vllm_hosts.settings import HostSettings

#: Seconds that a clock may be off; HOST-01 of the promises has the same.
_CLOCK = 5.0
#: Below both, a file system is as good as full: a model, a log or a container's layer does not fit.
_FULL_BYTES = 1024**3
_FULL_PART = 0.01
_ROOM_ON_A_GATEWAY = Remedy(f"Make room there; the edge's logs are in {EDGE_LOGS}.")
#: What stands around the programs that do a deploy's work.
_AROUND = ("sh", "dash", "bash", "sudo", "sleep", "tail", "timeout", "cat", "flock")


@finds("deploy-running")
def deploy_running(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Programs that a deploy has started, and that its login still stands above."""
    found = [process for process in seen.deploys if not process.left]
    if found:
        since = min(process.since for process in found)
        yield Finding(_processes(found), values={"since": readable(since)})


def _processes(found: Sequence[DeployProcess]) -> str:
    """What is at work; shells only where there is nothing else."""
    named = [one for one in found if one.program not in _AROUND] or list(found)
    first = ", ".join(f"{one.program} (pid {one.pid})" for one in named[:3])
    return f"{first} {'was' if len(named) == 1 else 'were'} started by it"


@finds("deploy-cut-off")
def deploy_cut_off(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """What a deploy has started continues without it; or it has made a part of what it makes."""
    if any(not process.left for process in seen.deploys):
        return
    if seen.deploys:
        since = readable(min(process.since for process in seen.deploys))
        said = f"The deploy of {since} was cut off, and what it started here is still running."
        pids = " ".join(str(process.pid) for process in seen.deploys)
        yield Finding(
            _processes(seen.deploys),
            values={"what": said, "pids": pids},
            remedy=Remedy(
                "Let it end, or end it on the host: kill {pids}. Then run the deploy again:"
                " pyinfra INVENTORY deploy.py --limit {host}. Finished work is not repeated."
            ),
        )
    elif seen.begun is not None and not seen.deployed:
        said = (
            "A deploy has begun on this host and has not reached its agents: it is running,"
            " between two commands, or it failed, or it was cut off."
        )
        last = f"{seen.begun:%Y-%m-%d %H:%M:%S} UTC"
        yield Finding(f"it last wrote something here on {last}", values={"what": said})


@finds("removal-cut-off")
def removal_cut_off(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The last run here was a removal, and its history is still there."""
    if seen.removal is not None and all(process.left for process in seen.deploys):
        yield Finding(
            f"the last line of the host's history is {seen.removal.what} of {seen.removal.who}",
            values={"since": readable(seen.removal.since), "ended": seen.removal.ended},
        )


@finds("not-deployed")
def not_deployed(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """What a deploy ends with is not there, and no deploy that would bring it."""
    if not seen.deployed and not seen.deploys and seen.begun is None:
        yield Finding(f"{deployed_file(settings)} does not exist")


@finds("docker-missing")
def docker_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """No docker on the path."""
    if settings.runs_agents and seen.deployed and not seen.docker.path:
        yield Finding("the program docker is not installed")


@finds("snap-docker")
def snap_docker(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Docker from a snap, alone or beside another one."""
    found = seen.docker.path.split()
    if settings.runs_agents and "/snap/bin/docker" in found:
        alone = found[0].startswith("/snap/")
        yield Finding(
            f"docker is {' and '.join(dict.fromkeys(found))}",
            Certainty.CERTAIN if alone else Certainty.POSSIBLE,
        )


@finds("docker-down")
def docker_down(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The daemon does not answer."""
    docker = seen.docker
    if settings.runs_agents and docker.path and not docker.answers:
        yield Finding(
            docker.said or "docker version: no answer within 20 s",
            values={"active": docker.active or "unknown"},
        )


def _full(disk: Disk) -> bool:
    limit = _FULL_PART * disk.size
    return disk.size > 0 and disk.free < (
        min(_FULL_BYTES, limit) if disk.unit == "bytes" else limit
    )


@finds("disk-full")
def disk_full(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """A file system that agents or the edge write to has no room, or an agent said so."""
    cache = settings.vllm.cache_directory
    full = sorted({disk.mount: disk for disk in seen.disks if _full(disk)}.items())
    for mount, disk in full:
        free = f"{disk.free / 1024**2:.0f} MiB" if disk.unit == "bytes" else f"{disk.free} inodes"
        remedy = None if settings.runs_agents else _ROOM_ON_A_GATEWAY
        values = {"mount": mount, "cache": cache}
        yield Finding(f"{free} free on {mount}", values=values, remedy=remedy)
    for agent, match in saying(seen, DISK_FULL) if not full else ():
        yield Finding(
            f"{agent.name}: {line_of(match)}",
            values={"mount": f"A disk that agent {agent.name} writes to", "cache": cache},
        )


@finds("clock-off")
def clock_off(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The host's clock is not the controller's."""
    if abs(seen.clock) > _CLOCK:
        values = {
            "seconds": f"{abs(seen.clock):.0f}",
            "direction": "ahead" if seen.clock > 0 else "behind",
        }
        yield Finding("compared with the clock of this machine", values=values)


@finds("port-taken")
def port_taken(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Somebody else listens where an agent or the edge should."""
    agents = {agent.name: agent for agent in seen.agents}
    for agent in settings.agents:
        found = agents.get(agent.name)
        if found is None or found.container.running:
            continue
        said = said_by(found, PORT_TAKEN)
        holder = _holder(seen, agent.port, *DOCKER)
        if said or holder:
            yield Finding(
                line_of(said) if said else f"{holder} listens on port {agent.port}",
                values={
                    "port": agent.port,
                    "whose": f"agent {agent.name}",
                    "holder": holder or "another program or container",
                    "setting": "the agent's port",
                    "start": f"vllm-hosts agents INVENTORY start {agent.name}"
                    f" --host {settings.name}",
                },
            )
    if seen.nginx is None or seen.nginx.active.runs:
        return
    edge = settings.edge
    for port, setting in ((edge.https_port, "edge.https_port"), (edge.http_port, "edge.http_port")):
        if holder := _holder(seen, port, "nginx"):
            values = {"port": port, "whose": "the edge", "holder": holder, "setting": setting}
            values["start"] = "systemctl start nginx"
            yield Finding(f"{holder} listens on port {port}", values=values)


def _holder(seen: Seen, port: int, *ours: str) -> str:
    """The programs of others on a port."""
    found = [one for one in seen.listeners if one.port == port and not one.shared_by(*ours)]
    return found[0].who or "an unknown program" if found else ""


@finds("model-folder-missing")
def model_folder_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """An agent's model is a folder that is not there."""
    said = {agent.name: match for agent, match in saying(seen, NO_SOURCE)}
    for agent in settings.agents:
        match = said.get(agent.name)
        if match or agent.model in seen.absent_models:
            yield Finding(
                line_of(match) if match else f"{agent.model} is not a folder",
                values={"agent": agent.name, "folder": match["folder"] if match else agent.model},
            )


@finds("image-missing")
def image_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """No image, and somebody waits for it."""
    waiting = [
        agent.name
        for agent in seen.agents
        if agent.container.standing in (Standing.ABSENT, Standing.CREATED)
    ]
    if seen.deployed and seen.docker.has_image is False and waiting:
        yield Finding(
            "docker image inspect: not found",
            values={"image": settings.vllm.image, "agent": " and ".join(waiting)},
        )
