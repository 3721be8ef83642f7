"""Each diagnosis comes first for its fault, and a healthy host has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from tests.unit import doctor_words as said
from tests.unit.doctor_hosts import NOW, OTHER_PAIR, agent, certificate, healthy, with_gpus
from tests.unit.samples import QWEN, settings
from vllm_hosts.doctor import run  # noqa: F401  registers all diagnoses
from vllm_hosts.doctor.model import Certainty, Diagnosis, diagnose, finds, registered, texts
from vllm_hosts.doctor.seen import Disk, DockerSeen, Holder, NginxSeen, Requests, Said, Seen


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. ``says`` must be in what is said; ``do`` in what to do."""

    identifier: str
    make: Callable[[Seen], Seen]
    says: str = ""
    do: str = ""
    certainty: Certainty = Certainty.CERTAIN


def crashed(log: str, **values: Any) -> Callable[[Seen], Seen]:
    """Agent qwen ends again and again, and says this."""
    values = {"status": "restarting", "health": "unhealthy", "restarts": 7, "exit_code": 1} | values
    return lambda seen: agent(seen, log=tuple(log.splitlines()), **values)


def refused(error: str) -> Callable[[Seen], Seen]:
    """Docker could not start agent qwen, for this reason."""
    return lambda seen: agent(seen, status="created", health="none", exit_code=128, error=error)


def smi(code: int, lines: tuple[str, ...], **values: Any) -> Callable[[Seen], Seen]:
    """nvidia-smi of the host fails."""
    return lambda seen: with_gpus(agent(seen, gpus=None), smi=Said(code, lines), **values)


def kernel(*lines: str) -> Callable[[Seen], Seen]:
    return lambda seen: replace(seen, kernel=lines)


def both(*steps: Callable[[Seen], Seen]) -> Callable[[Seen], Seen]:
    def made(seen: Seen) -> Seen:
        for step in steps:
            seen = step(seen)
        return seen

    return made


def planned(setting: str) -> Callable[[Seen], Seen]:
    return lambda seen: replace(seen, fitting={"qwen": setting})


def health(row: str) -> Callable[[Seen], Seen]:
    return lambda seen: with_gpus(seen, health=Said(0, (row,)))


def asked(status: int, by: str, address: str = "198.51.100.7", method: str = "POST") -> Requests:
    return Requests("qwen", method, status, by, address, 5, NOW - timedelta(minutes=1))


STOPPED: dict[str, Any] = {"status": "exited", "health": "unhealthy", "exit_code": 137}
FAULTS = [
    Fault("not-deployed", lambda seen: replace(Seen(deployed=False), kernel=())),
    Fault(
        "docker-missing", lambda seen: replace(seen, docker=DockerSeen("", "", False), agents=())
    ),
    Fault(
        "snap-docker",
        lambda seen: replace(seen, docker=replace(seen.docker, path="/snap/bin/docker")),
    ),
    Fault(
        "docker-down",
        lambda seen: replace(
            seen,
            docker=DockerSeen("/usr/bin/docker", "inactive", False, "Cannot connect to the Docker"),
            agents=tuple(replace(one, status="", key="", gpus=None) for one in seen.agents),
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
    Fault("driver-missing", smi(127, ())),
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
        do="docker restart qwen",
    ),
    Fault(
        "container-without-gpu", crashed(said.NO_PLATFORM, gpus=None), certainty=Certainty.LIKELY
    ),
    Fault("port-taken", refused(said.PORT_TAKEN), says="Port 8001 of agent qwen"),
    Fault(
        "port-taken",
        both(
            lambda seen: agent(seen, **STOPPED),
            lambda seen: replace(seen, holders=(Holder(8001, 'users:(("python3",pid=5,fd=7))'),)),
        ),
        says="python3",
    ),
    Fault(
        "port-taken",
        lambda seen: replace(
            seen, nginx=NginxSeen("failed", ""), holders=(Holder(443, 'users:(("caddy",pid=5))'),)
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
            agent(seen, status="", key="", gpus=None), docker=replace(seen.docker, has_image=False)
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
    Fault("host-memory", both(crashed("", container="0123456789abcdef"), kernel(said.OOM_KILL))),
    Fault("shared-memory-too-small", crashed(said.NO_SHM), says="qwen talk"),
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
    Fault("key-missing", lambda seen: replace(seen, env_key="empty")),
    Fault("key-missing", lambda seen: replace(seen, env_key="")),
    Fault("key-not-loaded", lambda seen: agent(seen, key="empty"), says="qwen runs without a key"),
    Fault(
        "key-differs-container",
        lambda seen: replace(seen, env_key="b" * 16),
        do="docker compose up -d qwen",
    ),
    Fault("key-differs-edge", lambda seen: agent(seen, edge_key="b" * 16)),
    Fault("key-differs-edge", lambda seen: agent(seen, edge_key="")),
    Fault("certificate-missing", lambda seen: replace(seen, certificate=None)),
    Fault("certificate-missing", lambda seen: replace(seen, public_key=None)),
    Fault(
        "certificate-expired",
        lambda seen: replace(seen, certificate=certificate(NOW - timedelta(days=40))),
        says="ended on",
    ),
    Fault(
        "certificate-not-yet-valid",
        lambda seen: replace(seen, certificate=certificate(NOW + timedelta(days=2))),
    ),
    Fault("certificate-key-mismatch", lambda seen: replace(seen, public_key=OTHER_PAIR)),
    Fault(
        "nginx-config-invalid",
        lambda seen: replace(seen, nginx=NginxSeen("active", 'unknown directive "no_such"')),
    ),
    Fault("nginx-down", lambda seen: replace(seen, nginx=NginxSeen("inactive", ""), holders=())),
    Fault("nginx-down", lambda seen: replace(seen, nginx=None, holders=()), says="not installed"),
    Fault(
        "edge-unreachable", lambda seen: replace(seen, reachable=False), certainty=Certainty.LIKELY
    ),
    Fault("firewall-missing", lambda seen: replace(seen, firewall=False)),
    Fault("agent-missing", lambda seen: agent(seen, status="", key="", gpus=None)),
    Fault("agent-crash-loop", crashed(said.CRASH), says="7 times", certainty=Certainty.LIKELY),
    Fault("agent-stopped", lambda seen: agent(seen, **STOPPED), certainty=Certainty.LIKELY),
    Fault(
        "agent-unhealthy",
        lambda seen: agent(seen, health="unhealthy"),
        certainty=Certainty.LIKELY,
    ),
    Fault(
        "agent-loading",
        lambda seen: agent(seen, health="starting", started=NOW - timedelta(minutes=3)),
        says="since 3 minutes",
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
        health("0, 61, 4, Not Active, Not Active, Not Active"),
        says="4 memory errors",
        certainty=Certainty.LIKELY,
    ),
    Fault("gpu-xid", kernel(said.XID), says="fallen off the bus", certainty=Certainty.LIKELY),
    Fault("gpu-xid", kernel(said.XID_31), do="versions", certainty=Certainty.POSSIBLE),
    Fault(
        "gpu-throttled",
        health("0, 91, 0, Active, Not Active, Not Active"),
        says="too hot, at 91",
        certainty=Certainty.LIKELY,
    ),
]


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, id=f"{n}-{fault.identifier}") for n, fault in enumerate(FAULTS)]
)
def test_a_fault_is_named_first(fault: Fault) -> None:
    first, *_ = diagnose(settings(), fault.make(healthy()))
    assert (first.identifier, first.certainty) == (fault.identifier, fault.certainty), first
    assert fault.says in first.what
    assert fault.do in first.remedy
    assert first.evidence
    assert "{" not in first.what + first.remedy


def test_every_diagnosis_has_a_fault_here() -> None:
    assert {fault.identifier for fault in FAULTS} == set(texts()) == registered()


def test_a_healthy_host_has_nothing() -> None:
    assert diagnose(settings(), healthy()) == []
    assert list(healthy().blind()) == []


def test_a_healthy_host_without_gpus_has_nothing() -> None:
    seen = agent(replace(healthy(), gpus=None), gpus=None)
    assert diagnose(settings(agents=[dict(QWEN, gpus=[])]), seen) == []


def test_two_diagnoses_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match="two functions"):
        finds("docker-down")(lambda settings, seen: [])
    with pytest.raises(ValueError, match="no text"):
        finds("no-such-diagnosis")(lambda settings, seen: [])


def found(seen: Seen, **values: Any) -> list[Diagnosis]:
    return diagnose(settings(**values), seen)


class TestWhatIsNoFault:
    """What looks like a fault, and is none."""

    def test_an_old_error_of_an_agent_that_serves(self) -> None:
        assert found(agent(healthy(), log=tuple(said.KV_CACHE.splitlines()))) == []

    def test_a_small_file_system_with_room(self) -> None:
        assert found(replace(healthy(), disks=(Disk("bytes", 64 * 1024, 8192, "/run/x"),))) == []

    def test_a_file_system_that_does_not_count_inodes(self) -> None:
        assert found(replace(healthy(), disks=(Disk("inodes", 0, 0, "/"),))) == []

    def test_xids_of_programs_that_were_killed(self) -> None:
        assert found(replace(healthy(), kernel=(said.XID_43,))) == []

    def test_a_client_that_got_it_right_in_the_end(self) -> None:
        requests = (asked(401, "edge"), asked(200, "vllm"))
        assert found(replace(healthy(), requests=requests)) == []

    def test_a_deploy_that_asks_without_a_key(self) -> None:
        own = asked(401, "edge", address="192.0.2.1", method="GET")
        assert found(replace(healthy(), controller="192.0.2.1", requests=(own,))) == []

    def test_refusals_before_the_agent_was_started_again(self) -> None:
        seen = agent(healthy(), started=NOW)
        assert found(replace(seen, requests=(asked(401, "vllm"),))) == []

    def test_a_card_that_does_not_count_ecc_errors(self) -> None:
        row = "0, 40, [N/A], Not Active, Not Active, [N/A]"
        assert found(with_gpus(healthy(), health=Said(0, (row,)))) == []

    def test_an_agent_that_ends_while_it_is_looked_at(self) -> None:
        daemon = "Error response from daemon: container 4711 is not running"
        assert found(agent(healthy(), gpus=(daemon,))) == []

    def test_a_warning_between_the_cards(self) -> None:
        lines = ("WARNING: infoROM is corrupted at gpu 0000:3B:00.0", "0, NVIDIA GB10, [N/A]")
        assert found(with_gpus(healthy(), smi=Said(0, lines))) == []


class TestWhatIsSaidBesides:
    """Symptoms come after their cause, and advice knows the other agents."""

    def test_the_loop_comes_after_its_reason(self) -> None:
        names = [one.identifier for one in found(crashed(said.KV_CACHE)(healthy()))]
        assert names == ["kv-cache-too-small", "agent-crash-loop"]

    def test_a_loop_of_an_unknown_reason_shows_its_last_error(self) -> None:
        [first] = found(crashed(said.CRASH)(healthy()))
        assert first.evidence == "KeyError: 'layers.0.mlp.gate_up_proj.weight'"

    def test_a_dead_driver_is_no_container_without_a_gpu(self) -> None:
        seen = smi(18, said.MISMATCH)(healthy())
        assert [one.identifier for one in found(seen)] == ["driver-mismatch"]

    def test_no_more_of_a_card_than_the_others_leave(self) -> None:
        shared = dict(QWEN, gpu_memory_utilization=0.5)
        other = dict(QWEN, name="other", port=8002, gpu_memory_utilization=0.5)
        seen = crashed(said.KV_CACHE)(healthy())
        first = found(seen, agents=[shared, other])[0]
        assert "gpu_memory_utilization" not in first.remedy
        assert "--kv-cache-dtype fp8" in first.remedy

    def test_evidence_is_the_program_s_own_line(self) -> None:
        first = found(crashed(said.CARD_TAKEN)(healthy()))[0]
        assert first.evidence.startswith("ValueError: Free memory on device cuda:0 (34.34/121.63")


class TestBlind:
    """What could not be looked at is said, and is not healthy."""

    def test_the_kernel_s_log(self) -> None:
        assert "kernel's log" in "".join(replace(healthy(), kernel=None).blind())

    def test_ecc_errors_that_this_driver_does_not_tell(self) -> None:
        said_no = Said(2, ('Field "clocks_throttle_reasons.x" is not a valid field to query.',))
        [blind] = with_gpus(healthy(), health=said_no).blind()
        assert "not a valid field" in blind

    def test_a_firewall_that_nft_does_not_list(self) -> None:
        assert "nft" in "".join(replace(healthy(), firewall=None).blind())
