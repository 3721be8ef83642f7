"""What one query of a host returned, as values. None, or an empty text: not available."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vllm_hosts.host.balancer import Servers
from vllm_hosts.host.containers import Container
from vllm_hosts.host.history import HistoryEntry
from vllm_hosts.host.nvidia_smi import Smi
from vllm_hosts.host.sockets import Socket
from vllm_hosts.host.systemctl import Active
from vllm_hosts.host.watchdog import Watched

#: In the place of a key's digest: there is none, or an empty one, which vLLM takes for none.
EMPTY = "empty"


@dataclass(frozen=True)
class DockerSeen:
    """``path``: the program, followed through links; empty: not installed. ``said``: why the
    daemon does not answer; empty where it does."""

    path: str
    active: Active
    answers: bool
    said: str = ""
    has_image: bool | None = None


@dataclass(frozen=True)
class AgentSeen:
    """One agent's container, and what the doctor asks of it besides.

    ``key``: what the container asks for, ``edge_key``: what the edge sends, ``env_key``: what .env
    has for it. Digests are of keys, salted afresh in each query: they can only be compared with
    each other.
    ``log``: what it printed lately, where it is not healthy. ``gpus``: what ``nvidia-smi -L`` says
    in it. ``watched``: what the host's watchdog notes of it.
    """

    container: Container
    key: str = ""
    edge_key: str = ""
    env_key: str = ""
    log: tuple[str, ...] = ()
    gpus: tuple[str, ...] | None = None
    watched: Watched = field(default_factory=Watched)

    @property
    def name(self) -> str:
        return self.container.name

    @property
    def well(self) -> bool:
        """Whether it serves: what its log says is then of no interest."""
        return self.container.well


@dataclass(frozen=True)
class GpusSeen:
    """``smi``: the cards, or why there are none. ``health``: the same cards with temperatures, ECC
    errors and slowdowns. ``modules``: kernel modules that can hold a card."""

    smi: Smi
    health: Smi | None
    modules: frozenset[str]
    switches: bool
    fabric_manager: Active
    secure_boot: bool | None
    toolkit: bool

    @property
    def indexes(self) -> frozenset[int]:
        """The cards that the driver shows."""
        return frozenset(gpu.index for gpu in self.smi.gpus)

    @property
    def memory(self) -> dict[int, float]:
        """GiB by card, for those that say it."""
        return {gpu.index: gpu.memory_mib / 1024 for gpu in self.smi.gpus if gpu.memory_mib}


@dataclass(frozen=True)
class Disk:
    """A file system. ``unit`` is bytes or inodes."""

    unit: str
    size: int
    free: int
    mount: str


@dataclass(frozen=True)
class Requests:
    """Requests for one agent's paths that one address made with one outcome, lately.

    ``answered_by``: ``edge``, or ``vllm`` behind it; ``fleet``: an agent of whichever host, where
    this one is a gateway.
    """

    agent: str
    method: str
    status: int
    answered_by: str
    address: str
    count: int
    last: datetime


@dataclass(frozen=True)
class NginxSeen:
    """``active`` is systemd's word; ``rejected``: what ``nginx -t`` has against the files."""

    active: Active
    rejected: str


@dataclass(frozen=True)
class DeployProcess:
    """A program that a deploy has started on the host. ``left``: the login that it came by has
    ended, so that nobody waits for it."""

    since: str
    pid: int
    program: str
    left: bool = False


@dataclass(frozen=True)
class HaproxySeen:
    """HAProxy of a gateway. ``said``: why it does not answer; empty where it does."""

    servers: Servers
    said: str = ""


@dataclass(frozen=True)
class VirtualSeen:
    """The address that gateways share. ``held``: by this one. ``runs``: its keepalived.
    ``holders``: all who have it; None where not every gateway was checked."""

    held: bool
    runs: bool
    holders: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Seen:
    """A host, at one moment.

    ``clock``: seconds by which its clock is ahead. ``own``: its addresses. ``kernel``: lines of the
    last day about GPUs and memory. ``fitting``: by agent that ran out of memory, the setting by
    which the plan lets it fit. ``reachable``: whether the edge's port opens from the controller.
    ``deploys``: what deploys have started and is still at work. ``begun``: where a deploy has
    written here and did not come to its end, when it last did. ``removal``: the last run here, if
    that was a removal; one that comes to its end leaves no history. ``balancer``: of gateways only,
    and ``virtual`` of those that share an address.
    """

    clock: float = 0.0
    controller: str = ""
    own: frozenset[str] = frozenset()
    deployed: bool = True
    deploys: tuple[DeployProcess, ...] = ()
    begun: datetime | None = None
    removal: HistoryEntry | None = None
    docker: DockerSeen = field(default_factory=lambda: DockerSeen("", Active.SILENT, answers=False))
    agents: tuple[AgentSeen, ...] = ()
    absent_models: frozenset[str] = frozenset()
    gpus: GpusSeen | None = None
    kernel: tuple[str, ...] | None = None
    disks: tuple[Disk, ...] = ()
    listeners: tuple[Socket, ...] = ()
    nginx: NginxSeen | None = None
    certificate: bytes | None = None
    public_key: bytes | None = None
    firewall: bool | None = None
    requests: tuple[Requests, ...] = ()
    fitting: Mapping[str, str] = field(default_factory=dict)
    reachable: bool | None = None
    balancer: HaproxySeen | None = None
    virtual: VirtualSeen | None = None
    now: datetime | None = None

    def blind(self) -> Iterator[str]:
        """What could not be checked, one sentence each, where nothing else explains it."""
        if self.kernel is None:
            yield "the kernel's log: neither journalctl nor dmesg shows it"
        if (
            self.gpus
            and self.gpus.smi.answers
            and not (self.gpus.health and (self.gpus.health.gpus or self.gpus.health.lost))
        ):
            said = self.gpus.health.said if self.gpus.health else ""
            yield f"ECC errors and slowdowns of the GPUs: {said or 'nvidia-smi printed nothing'}"
        for agent in self.agents:
            # One that is not well may have ended while it was asked; that is told by itself.
            if agent.gpus is not None and not agent.gpus and agent.well:
                yield f"the GPUs in agent {agent.name}: its nvidia-smi printed nothing"
        if self.deployed and self.docker.answers and self.firewall is None:
            yield "the firewall: nft does not list its tables"
