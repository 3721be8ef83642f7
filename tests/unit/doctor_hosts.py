"""A healthy host as the doctor sees it, and ways to change what it sees."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from tests.unit.fakes import listening
from vllm_hosts.doctor.seen import (
    AgentSeen,
    Disk,
    DockerSeen,
    GpusSeen,
    NginxSeen,
    Seen,
)
from vllm_hosts.host import nvidia_smi
from vllm_hosts.host.containers import Container
from vllm_hosts.host.nvidia_smi import Smi
from vllm_hosts.host.systemctl import Active
from vllm_hosts.keys.pki import Issued, LocalCa

NOW = datetime.now(UTC).replace(microsecond=0)
_CA = LocalCa.create("test", NOW - timedelta(days=90))


def _public(issued: Issued) -> bytes:
    key = load_pem_private_key(issued.key_pem.get_secret_value(), None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


_ISSUED = _CA.issue(["192.0.2.11"], 30, NOW)
#: The public half of a key that is not the healthy host's.
OTHER_PAIR = _public(_CA.issue(["192.0.2.11"], 30, NOW))


def cards(*lines: str, code: int | str = 0) -> Smi:
    """The cards, from lines of nvidia-smi and its exit code."""
    return nvidia_smi.read([*lines, f"exit {code}"], nvidia_smi.CARDS)


def health(*lines: str, code: int = 0) -> Smi:
    """Their temperatures, errors and slowdowns, likewise."""
    return nvidia_smi.read([*lines, f"exit {code}"], nvidia_smi.health())


def certificate(since: datetime) -> bytes:
    """A certificate for 30 days, with a key of its own."""
    return _CA.issue(["192.0.2.11"], 30, since).certificate_pem


def healthy() -> Seen:
    """A host with agent qwen on one H200; nothing is wrong with it."""
    row = "0, 34, 0, Not Active, Not Active, Not Active"
    return Seen(
        controller="192.0.2.1",
        docker=DockerSeen("/usr/bin/docker", Active.ACTIVE, answers=True, has_image=True),
        agents=(
            AgentSeen(
                Container(
                    "qwen", "running", "healthy", started=NOW - timedelta(hours=3), id="f" * 64
                ),
                key="a" * 16,
                env_key="a" * 16,
                edge_key="a" * 16,
                gpus=("GPU 0: NVIDIA H200 (UUID: GPU-4711)",),
            ),
        ),
        gpus=GpusSeen(
            smi=cards("0, NVIDIA H200, 143771"),
            health=health(row),
            modules=frozenset({"nvidia"}),
            switches=False,
            fabric_manager=Active.SILENT,
            secure_boot=None,
            toolkit=True,
        ),
        kernel=(),
        disks=(Disk("bytes", 10**12, 10**11, "/"), Disk("inodes", 10**7, 10**6, "/")),
        listeners=(
            listening("*:443", 'users:(("nginx",pid=9,fd=5))'),
            listening("127.0.0.1:8001", 'users:(("docker-proxy",pid=7,fd=4))'),
        ),
        nginx=NginxSeen(Active.ACTIVE, ""),
        certificate=_ISSUED.certificate_pem,
        public_key=_public(_ISSUED),
        firewall=True,
        reachable=True,
        now=NOW,
    )


def agent(seen: Seen, **values: Any) -> Seen:
    """The host with its agent changed, or its container."""
    [found] = seen.agents
    fields = {one.name for one in dataclass_fields(Container)}
    docker_s = {name: values.pop(name) for name in fields & values.keys()}
    container = replace(found.container, **docker_s)
    return replace(seen, agents=(replace(found, container=container, **values),))


def with_gpus(seen: Seen, **values: Any) -> Seen:
    """The host with what its GPUs say changed."""
    assert seen.gpus is not None
    return replace(seen, gpus=replace(seen.gpus, **values))
