"""The query of a host: one script, sent over the deploy's own connection, and how it is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from shlex import quote

from vllm_hosts.data import DATA
from vllm_hosts.doctor.seen import (
    AgentSeen,
    DeployProcess,
    Disk,
    DockerSeen,
    GpusSeen,
    HaproxySeen,
    NginxSeen,
    Requests,
    Seen,
    VirtualSeen,
)
from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.balancer import BalancerState
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.facts.virtual_address import VirtualState
from vllm_hosts.host import mokutil, nvidia_smi, paths, systemctl
from vllm_hosts.host.containers import INSPECT, named
from vllm_hosts.host.history import HistoryEntry, history_entry
from vllm_hosts.host.marks import functions
from vllm_hosts.host.masks import FUNCTIONS
from vllm_hosts.host.nvidia_smi import Smi
from vllm_hosts.host.sockets import LISTENING, read
from vllm_hosts.host.systemctl import Active
from vllm_hosts.host.watchdog import watched
from vllm_hosts.settings import HostSettings

_SCRIPT = DATA / "doctor.sh"
#: Seconds for nvidia-smi, which is asked several times.
_PATIENCE = 30


class DoctorLook(HostFact[Seen]):
    """Everything that a diagnosis may need, in one command. Keys leave the host as digests only."""

    what = "the host, as root (check ssh_user, _sudo and the sudo password),"

    def command(
        self,
        directory: str,
        cache_directory: str,
        image: str,
        agents: list[str],
        gpu_agents: list[str],
        folders: list[str],
        deployed: str,
    ) -> str:
        """:param deployed: the file that is there where a deploy has come to its end."""
        variables = {
            "deployed": deployed,
            "directory": directory,
            "cache": cache_directory,
            "image": image,
            "agents": " ".join(agents),
            "gpu_agents": " ".join(gpu_agents),
            "folders": " ".join(folders),
            "edge_folder": paths.EDGE_FOLDER,
            "certificate": paths.TLS_CERTIFICATE,
            "key": paths.TLS_KEY,
            "inspect": INSPECT,
            "sockets": LISTENING,
            "gpu_fields": ",".join(nvidia_smi.CARDS),
            "gpu_health": " ".join(
                ",".join(nvidia_smi.health(name)) for name in nvidia_smi.REASONS
            ),
            "is_active": systemctl.IS_ACTIVE,
            "secure_boot": mokutil.SB_STATE,
            "main_pid": systemctl.MAIN_PID,
            "gpu_patience": str(_PATIENCE),
            "masks": FUNCTIONS,
            "watchdog": paths.WATCHDOG,
        }
        assigned = "\n".join(f"{name}={quote(value)}" for name, value in variables.items())
        return ending(f"{functions()}\n{assigned}\n{_script()}")

    def parse(self, lines: list[str]) -> Seen:
        parts = sections(lines)
        if parts["whole"] != ["yes"]:
            raise ValueError("the answer was cut short")
        if parts["user"] != ["0"]:
            raise HostError("commands do not run as root; connect as root, or set _sudo = True")
        docker = _docker(parts)
        firewall = parts["firewall"]
        return Seen(
            # For now in seconds since 1970; who called knows what time it was here.
            clock=float(parts["clock"][0]),
            controller="".join(parts["controller"]),
            own=frozenset(" ".join(parts["own addresses"]).split()),
            deployed=parts["deployed"] == ["yes"],
            deploys=tuple(
                dict.fromkeys(map(_deploy, [*parts["deploys"], *parts["deploys later"]]))
            ),
            begun=datetime.fromtimestamp(int(parts["begun"][0]), UTC) if parts["begun"] else None,
            removal=_removal(_quoted(parts["last run"])),
            docker=docker,
            agents=tuple(
                _agent(heading.removeprefix("edge key "), parts)
                for heading in parts
                if heading.startswith("edge key ")
            ),
            absent_models=frozenset(
                line.removeprefix("absent ")
                for line in parts["models"]
                if line.startswith("absent ")
            ),
            gpus=_gpus(parts) if "gpus" in parts else None,
            kernel=_quoted(parts["kernel log"]) if "readable" in parts["kernel log"] else None,
            disks=tuple(_disk(line) for line in parts["disks"]),
            listeners=tuple(one for one in read(parts["listeners"]) if one.protocol == "tcp"),
            nginx=_nginx(parts["nginx"]) if parts["nginx"] else None,
            certificate=_pem(parts["certificate"]),
            public_key=_pem(parts["public key"]),
            firewall=firewall == ["present"] if firewall else None,
            requests=tuple(_requests(line) for line in parts["requests"]),
        )


@cache
def _script() -> str:
    return _SCRIPT.read_text()


def seen(settings: HostSettings, reachable: Callable[[str, int], bool]) -> Seen:
    """The current host, now.

    :param reachable: whether a port of an address opens from here.
    :raises HostError: it cannot be checked.
    """
    before = time.time()
    agents = settings.own_agents
    found = look(
        DoctorLook,
        directory=settings.vllm.directory,
        cache_directory=settings.vllm.cache_directory,
        image=settings.vllm.image,
        agents=[agent.name for agent in agents],
        gpu_agents=[agent.name for agent in agents if agent.gpus],
        folders=sorted({agent.model for agent in agents if agent.model.startswith("/")}),
        deployed=deployed_file(settings),
    )
    after = time.time()
    return replace(
        found,
        clock=_ahead(found.clock, before, after),
        reachable=reachable(settings.address, settings.edge.https_port),
        balancer=_balancer() if settings.is_gateway and found.deployed else None,
        virtual=_virtual(settings) if found.deployed else None,
        now=datetime.fromtimestamp(after, UTC),
    )


def deployed_file(settings: HostSettings) -> str:
    """What is there where a deploy has come to a host's agents, or to a gateway's edge."""
    return f"{settings.vllm.directory}/compose.yaml" if settings.runs_agents else paths.EDGE_CONF


def _balancer() -> HaproxySeen:
    try:
        return HaproxySeen(look(BalancerState))
    except HostError as error:
        return HaproxySeen({}, str(error))


def _virtual(settings: HostSettings) -> VirtualSeen | None:
    if settings.virtual is None:
        return None
    found = look(VirtualState, address=str(settings.virtual.address))
    return VirtualSeen(found.held, found.runs)


def _ahead(clock: float, before: float, after: float) -> float:
    """Seconds that a clock is ahead, if it was read at some time between two others."""
    return clock - min(max(clock, before), after)


def _quoted(lines: list[str]) -> tuple[str, ...]:
    """What a program printed itself."""
    return tuple(line[2:] for line in lines if line.startswith("| "))


def _removal(lines: Sequence[str]) -> HistoryEntry | None:
    """The last run here, if that was a removal."""
    found = [history_entry(line) for line in lines]
    return found[-1] if found and found[-1].what.startswith("remove.py") else None


def _docker(parts: dict[str, list[str]]) -> DockerSeen:
    lines = parts["docker"]
    found = [line.removeprefix("path ") for line in lines if line.startswith("path ")]
    image = parts["image"]
    return DockerSeen(
        path=" ".join(found),
        active=_active(lines),
        answers="answers" in lines,
        said=" ".join(_quoted(lines)),
        has_image=image == ["present"] if image else None,
    )


def _active(lines: list[str]) -> Active:
    """Of a line that there is even where systemctl says nothing, unless nobody was asked."""
    said = [line.removeprefix("active ") for line in lines if line.startswith("active ")]
    return systemctl.active([word for word in said if word])


def _agent(name: str, parts: dict[str, list[str]]) -> AgentSeen:
    edge_key = "".join(parts[f"edge key {name}"])
    env_key = "".join(parts[f"env key {name}"])
    container = named(parts.get(f"agent {name}", []), [name])[name]
    restarts = watched(_quoted(parts[f"watchdog {name}"]))
    if not container.exists:
        return AgentSeen(container, edge_key=edge_key, env_key=env_key, watched=restarts)
    return AgentSeen(
        container,
        key="".join(parts[f"key {name}"]),
        edge_key=edge_key,
        env_key=env_key,
        log=_quoted(parts.get(f"log {name}", [])),
        gpus=_quoted(parts[f"gpus in {name}"]) if f"gpus in {name}" in parts else None,
        watched=restarts,
    )


def _smi(lines: list[str], fields: tuple[str, ...]) -> Smi:
    # What the program printed is quoted, its exit code is ours.
    *printed, code = lines
    return nvidia_smi.read([*_quoted(printed), code], fields, _PATIENCE)


def _gpus(parts: dict[str, list[str]]) -> GpusSeen:
    return GpusSeen(
        smi=_smi(parts["gpus"], nvidia_smi.CARDS),
        health=_smi(parts["gpu health"], nvidia_smi.health()) if parts["gpu health"] else None,
        modules=frozenset(parts["modules"]),
        switches=bool(parts["switches"]),
        fabric_manager=systemctl.active(parts["fabric manager"]),
        secure_boot=mokutil.secure_boot(_quoted(parts["secure boot"])),
        toolkit=parts["toolkit"] == ["present"],
    )


def _disk(line: str) -> Disk:
    unit, _, size, _, free, _, mount = line.split(None, 6)
    # Some file systems do not count inodes, and say so with a dash.
    return Disk(unit, int(size.replace("-", "0")), int(free.replace("-", "0")), mount)


def _deploy(line: str) -> DeployProcess:
    state, pid, since, *program = line.split(None, 3)
    return DeployProcess(since, int(pid), " ".join(program), left=state == "left")


def _nginx(lines: list[str]) -> NginxSeen:
    if not any(line.startswith("active ") for line in lines):
        raise ValueError("nginx's state is missing")
    return NginxSeen(_active(lines), " ".join(_quoted(lines)) if "rejected" in lines else "")


def _pem(lines: list[str]) -> bytes | None:
    return ("\n".join(lines) + "\n").encode() if lines else None


def _requests(line: str) -> Requests:
    agent, method, status, answered_by, address, count, last = line.split()
    return Requests(
        agent, method, int(status), answered_by, address, int(count), datetime.fromisoformat(last)
    )
