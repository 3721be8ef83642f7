"""What can be wrong with a host, as values, and the diagnosis that must come first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from tests.unit import doctor_words as said
from tests.unit.doctor_hosts import NOW, OTHER_PAIR, agent, cards, certificate, health, with_gpus
from tests.unit.fakes import listening
from tests.unit.samples import settings
from vllm_hosts.doctor.diagnoses import Certainty
from vllm_hosts.doctor.seen import (
    DeployProcess,
    Disk,
    DockerSeen,
    NginxSeen,
    Requests,
    Seen,
)
from vllm_hosts.host.containers import ABSENT
from vllm_hosts.host.history import HistoryEntry
from vllm_hosts.host.sockets import Socket
from vllm_hosts.host.systemctl import Active
from vllm_hosts.host.watchdog import REASONS, Restart, Watched
from vllm_hosts.settings import HostSettings

RESTART = Restart(NOW - timedelta(hours=3), REASONS["stuck"])
OLD_RESTART = Restart(NOW - timedelta(hours=25), REASONS["stalled"])


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. ``says`` must be in what is said; ``do`` in what to do."""

    identifier: str
    make: Callable[[Seen], Seen]
    says: str = ""
    do: str = ""
    certainty: Certainty = Certainty.CERTAIN
    #: Of a host's settings, or of a gateway's.
    host: HostSettings = field(default_factory=settings)


def crashed(log: str, **values: Any) -> Callable[[Seen], Seen]:
    """Agent qwen ends again and again, and says this."""
    values = {"state": "restarting", "health": "unhealthy", "restarts": 7, "exit_code": 1} | values
    return lambda seen: agent(seen, log=tuple(log.splitlines()), **values)


def refused(error: str) -> Callable[[Seen], Seen]:
    """Docker could not start agent qwen, for this reason."""
    return lambda seen: agent(seen, state="created", health=None, exit_code=128, error=error)


def smi(code: int | str, lines: tuple[str, ...], **values: Any) -> Callable[[Seen], Seen]:
    """nvidia-smi of the host fails."""
    return lambda seen: with_gpus(agent(seen, gpus=None), smi=cards(*lines, code=code), **values)


def kernel(*lines: str) -> Callable[[Seen], Seen]:
    return lambda seen: replace(seen, kernel=lines)


def both(*steps: Callable[[Seen], Seen]) -> Callable[[Seen], Seen]:
    def made(seen: Seen) -> Seen:
        for step in steps:
            seen = step(seen)
        return seen

    return made


def held(port: int, program: str) -> tuple[Socket, ...]:
    return (listening(f"*:{port}", f'users:(("{program}",pid=5,fd=3))'),)


def planned(setting: str) -> Callable[[Seen], Seen]:
    return lambda seen: replace(seen, fitting={"qwen": setting})


def ill(row: str) -> Callable[[Seen], Seen]:
    return lambda seen: with_gpus(seen, health=health(row))


def asked(status: int, by: str, address: str = "198.51.100.7", method: str = "POST") -> Requests:
    return Requests("qwen", method, status, by, address, 5, NOW - timedelta(minutes=1))


STOPPED: dict[str, Any] = {"state": "exited", "health": "unhealthy", "exit_code": 137}
_APT = DeployProcess("2026-11-26T09:12:03Z", 4711, "apt-get")
_REMOVAL = HistoryEntry(
    at="2026-11-26T09:15:00Z",
    address="192.0.2.7",
    who="ada@laptop",
    what="remove.py of prod.py",
    since="2026-11-26T09:12:03Z",
    commit="",
    version="0.1.0",
    ended="failed at Packages",
    changed=("Removal",),
)
FAULTS = [
    Fault(
        "deploy-running",
        lambda seen: replace(
            Seen(deployed=False, deploys=(replace(_APT, program="sh"), _APT)), kernel=()
        ),
        says="since 2026-11-26 09:12:03 UTC",
        do="vllm-hosts doctor INVENTORY --host gpu1",
    ),
    Fault(
        "deploy-running",
        lambda seen: replace(
            agent(seen, state=ABSENT, key="", gpus=None), deploys=(_APT,), firewall=False
        ),
    ),
    Fault(
        "deploy-cut-off",
        lambda seen: replace(seen, deploys=(replace(_APT, left=True),)),
        says="The deploy of 2026-11-26 09:12:03 UTC was cut off",
        do="kill 4711. Then run the deploy again: pyinfra INVENTORY deploy.py --limit gpu1",
    ),
    Fault(
        "deploy-cut-off",
        lambda seen: replace(Seen(deployed=False, begun=NOW), kernel=()),
        says="has not reached its agents",
        do="vllm-hosts lock INVENTORY status --host",
    ),
    Fault(
        "removal-cut-off",
        lambda seen: replace(agent(seen, state=ABSENT, key="", gpus=None), removal=_REMOVAL),
        says="A removal of 2026-11-26 09:12:03 UTC has not come to its end (failed at Packages)",
        do="pyinfra INVENTORY remove.py --limit gpu1. To keep the host instead",
    ),
    Fault("not-deployed", lambda seen: replace(Seen(deployed=False), kernel=())),
    Fault(
        "docker-missing",
        lambda seen: replace(seen, docker=DockerSeen("", Active.SILENT, False), agents=()),
    ),
    Fault(
        "snap-docker",
        lambda seen: replace(seen, docker=replace(seen.docker, path="/snap/bin/docker")),
    ),
    Fault(
        "docker-down",
        lambda seen: replace(
            seen,
            docker=DockerSeen(
                "/usr/bin/docker", Active.INACTIVE, False, "Cannot connect to the Docker"
            ),
            agents=agent(seen, state=ABSENT, key="", gpus=None).agents,
        ),
        says="inactive",
    ),
    Fault(
        "disk-full",
        lambda seen: replace(seen, disks=(Disk("bytes", 10**12, 4096, "/var/lib/docker"),)),
        says="/var/lib/docker is full",
    ),
    Fault("disk-full", lambda seen: replace(seen, disks=(Disk("inodes", 10**6, 3, "/"),))),
    Fault("disk-full", crashed("OSError: [Errno 28] No space left on device")),
    Fault("clock-off", lambda seen: replace(seen, clock=-90.4), says="90 s behind"),
    Fault(
        "secure-boot-key",
        both(smi(9, said.NO_DRIVER, modules=frozenset()), kernel(said.KEY_REJECTED)),
        do="mokutil",
    ),
    Fault(
        "nouveau-holds-card",
        both(smi(9, said.NO_DRIVER, modules=frozenset({"nouveau"})), kernel(said.HELD)),
        do="blacklist nouveau",
    ),
    Fault("nouveau-holds-card", smi(9, said.NO_DRIVER, modules=frozenset({"nova_core"}))),
    Fault("driver-mismatch", smi(18, said.MISMATCH), do="Reboot"),
    Fault("driver-mismatch", refused(said.HOOK_MISMATCH)),
    Fault("driver-mismatch", crashed(said.CUDA_803)),
    Fault("gpu-lost", smi(15, said.LOST)),
    Fault("gpu-lost", smi(0, ("0, [GPU is lost], [GPU is lost]",))),
    Fault("gpu-lost", smi(0, ("0, NVIDIA H200, 143771", "1, [GPU is lost], [GPU is lost]"))),
    Fault("gpu-lost", smi(255, ("0, NVIDIA H200, 143771", *said.LOST))),
    Fault("driver-missing", smi("-", ())),
    Fault("driver-not-loaded", smi(9, said.NO_DRIVER)),
    Fault("driver-not-loaded", smi(124, ()), certainty=Certainty.LIKELY),
    Fault(
        "gpu-missing",
        smi(0, ("1, NVIDIA H200, 143771",)),
        says="asks for GPU 0, and the host has 1",
    ),
    Fault("toolkit-missing", refused(said.NO_TOOLKIT)),
    Fault("toolkit-missing", lambda seen: with_gpus(seen, toolkit=False)),
    Fault(
        "fabric-manager-missing",
        both(crashed(said.CUDA_802), lambda seen: with_gpus(seen, switches=True)),
        says="is not installed",
    ),
    Fault("fabric-manager-missing", crashed(said.CUDA_802), certainty=Certainty.LIKELY),
    Fault("driver-too-old", crashed(said.CUDA_804)),
    Fault(
        "container-without-gpu",
        lambda seen: agent(seen, gpus=("Failed to initialize NVML: Unknown Error",)),
        do="vllm-hosts agents INVENTORY restart qwen --host gpu1",
    ),
    Fault(
        "container-without-gpu", crashed(said.NO_PLATFORM, gpus=None), certainty=Certainty.LIKELY
    ),
    Fault("port-taken", refused(said.PORT_TAKEN), says="Port 8001 of agent qwen"),
    Fault(
        "port-taken",
        both(
            lambda seen: agent(seen, **STOPPED),
            lambda seen: replace(seen, listeners=held(8001, "python3")),
        ),
        says="python3",
    ),
    Fault(
        "port-taken",
        lambda seen: replace(
            seen,
            nginx=NginxSeen(Active.FAILED, ""),
            listeners=held(443, "caddy"),
        ),
        do="edge.https_port",
    ),
    Fault(
        "model-folder-missing",
        refused('invalid mount config for type "bind": bind source path does not exist: /srv/m'),
        says="/srv/m,",
    ),
    Fault(
        "image-missing",
        lambda seen: replace(
            agent(seen, state=ABSENT, key="", gpus=None),
            docker=replace(seen.docker, has_image=False),
        ),
        says="vllm/vllm-openai",
    ),
    Fault("kv-cache-too-small", crashed(said.KV_CACHE), do="max_model_len = 99840 for qwen"),
    Fault(
        "kv-cache-too-small", crashed(said.KV_CACHE), do="gpu_memory_utilization = 0.93 (now 0.92)"
    ),
    Fault("kv-cache-too-small", crashed(said.KV_CACHE_OLD), do="max_model_len = 435584"),
    Fault("weights-too-large", crashed(said.NO_KV_CACHE), do="gpu_memory_utilization = 0.95"),
    Fault(
        "weights-too-large",
        both(crashed(said.NO_KV_CACHE), planned("set max_model_len to 18432 or lower")),
        do="For qwen, by the memory plan: set max_model_len to 18432 or lower; then deploy.",
    ),
    Fault(
        "cuda-out-of-memory",
        both(crashed(said.CUDA_OOM), planned("set gpu_memory_utilization to 0.6 or more")),
        do="by the memory plan: set gpu_memory_utilization to 0.6 or more",
    ),
    Fault("card-taken", crashed(said.CARD_TAKEN), do="gpu_memory_utilization = 0.28"),
    Fault("cuda-out-of-memory", crashed(said.CUDA_OOM), do="= 0.87 for qwen (now 0.92)"),
    Fault("host-memory", crashed(said.HOST_TAKEN)),
    Fault("host-memory", crashed("", oom_killed=True)),
    Fault("host-memory", both(crashed("", id="0123456789abcdef"), kernel(said.OOM_KILL))),
    Fault("shared-memory-too-small", crashed(said.NO_SHM), says="qwen communicate"),
    Fault("shared-memory-too-small", crashed(said.NO_SHM_NCCL), do="shm_size"),
    Fault("context-too-long", crashed(said.TOO_LONG), do="max_model_len = 32768 for qwen"),
    Fault("argument-refused", crashed(said.ARGUMENT)),
    Fault(
        "model-unsupported",
        crashed(
            "ValueError: Model architecture Old9 was supported in vLLM until v0.10, and is not"
        ),
        says="Old9",
    ),
    Fault(
        "model-not-found",
        crashed("ValueError: Invalid repository ID or local directory specified: 'Qwen/Qwen3-8B'."),
    ),
    Fault("hub-unreachable", crashed(said.UNREACHABLE + said.NOT_FOUND)),
    Fault("model-unsupported", crashed(said.ARCHITECTURE), says="Qwen9ForCausalLM"),
    Fault("token-refused", crashed(said.TOKEN_REFUSED)),
    Fault(
        "model-gated", crashed(said.GATED), do="Accept its terms at huggingface.co/Qwen/Qwen3-8B"
    ),
    Fault("model-gated", crashed(said.NOT_AUTHORIZED), do="Your token is good"),
    Fault("model-not-found", crashed(said.NOT_FOUND), says="no model Qwen/Qwen3-8B"),
    Fault("revision-not-found", crashed(said.NO_REVISION), says="no revision main of it"),
    Fault("hub-unreachable", crashed(said.UNREACHABLE)),
    Fault("key-missing", lambda seen: agent(seen, env_key="empty")),
    Fault("key-missing", lambda seen: agent(seen, env_key="")),
    Fault("key-not-loaded", lambda seen: agent(seen, key="empty"), says="qwen runs without a key"),
    Fault(
        "key-differs-container",
        lambda seen: agent(seen, env_key="b" * 16),
        do="vllm-hosts agents INVENTORY restart qwen --host gpu1",
    ),
    Fault("key-differs-edge", lambda seen: agent(seen, edge_key="b" * 16)),
    Fault("key-differs-edge", lambda seen: agent(seen, edge_key="")),
    Fault("certificate-missing", lambda seen: replace(seen, certificate=None)),
    Fault("certificate-missing", lambda seen: replace(seen, public_key=None)),
    Fault(
        "certificate-expired",
        lambda seen: replace(seen, certificate=certificate(NOW - timedelta(days=40))),
        says="expired on",
    ),
    Fault(
        "certificate-not-yet-valid",
        lambda seen: replace(seen, certificate=certificate(NOW + timedelta(days=2))),
    ),
    Fault("certificate-key-mismatch", lambda seen: replace(seen, public_key=OTHER_PAIR)),
    Fault(
        "nginx-config-invalid",
        lambda seen: replace(seen, nginx=NginxSeen(Active.ACTIVE, 'unknown directive "no_such"')),
    ),
    Fault(
        "nginx-down", lambda seen: replace(seen, nginx=NginxSeen(Active.INACTIVE, ""), listeners=())
    ),
    Fault("nginx-down", lambda seen: replace(seen, nginx=None, listeners=()), says="not installed"),
    Fault(
        "edge-unreachable", lambda seen: replace(seen, reachable=False), certainty=Certainty.LIKELY
    ),
    Fault("firewall-missing", lambda seen: replace(seen, firewall=False)),
    Fault(
        "agent-missing",
        lambda seen: agent(seen, state=ABSENT, key="", gpus=None),
        do="vllm-hosts agents INVENTORY start qwen --host gpu1",
    ),
    Fault("agent-crash-loop", crashed(said.CRASH), says="7 times", certainty=Certainty.LIKELY),
    Fault(
        "agent-stopped",
        lambda seen: agent(seen, **STOPPED),
        do="Start it: vllm-hosts agents INVENTORY start qwen --host gpu1. If somebody stopped it",
        certainty=Certainty.LIKELY,
    ),
    Fault(
        "agent-given-up",
        lambda seen: agent(seen, watched=Watched(5, (RESTART,) * 3, replace(RESTART, at=NOW))),
        says="as often as it may within an hour (3)",
        certainty=Certainty.LIKELY,
    ),
    Fault(
        "agent-was-restarted",
        lambda seen: agent(seen, watched=Watched(5, (OLD_RESTART, RESTART, RESTART))),
        says="restarted agent qwen 2 times within the last day, since its engine hung: requests",
        certainty=Certainty.POSSIBLE,
    ),
    Fault(
        "agent-was-restarted",
        lambda seen: agent(seen, watched=Watched(1, (RESTART,))),
        says="restarted agent qwen once",
        certainty=Certainty.POSSIBLE,
    ),
    Fault(
        "agent-unhealthy",
        lambda seen: agent(seen, health="unhealthy"),
        certainty=Certainty.LIKELY,
    ),
    Fault(
        "agent-loading",
        lambda seen: agent(seen, health="starting", started=NOW - timedelta(minutes=3)),
        says="for 3 minutes",
        certainty=Certainty.POSSIBLE,
    ),
    Fault(
        "refused-by-vllm",
        lambda seen: replace(seen, requests=(asked(401, "vllm"),)),
        certainty=Certainty.LIKELY,
    ),
    Fault(
        "refused-by-edge",
        lambda seen: replace(seen, requests=(asked(401, "edge"),)),
        says="198.51.100.7",
        certainty=Certainty.POSSIBLE,
    ),
    Fault(
        "gpu-ecc",
        ill("0, 61, 4, Not Active, Not Active, Not Active"),
        says="4 memory errors",
        certainty=Certainty.LIKELY,
    ),
    Fault("gpu-xid", kernel(said.XID), says="fallen off the bus", certainty=Certainty.LIKELY),
    Fault("gpu-xid", kernel(said.XID_31), do="versions", certainty=Certainty.POSSIBLE),
    Fault(
        "gpu-throttled",
        ill("0, 91, 0, Active, Not Active, Not Active"),
        says="too hot, at 91",
        certainty=Certainty.LIKELY,
    ),
]
