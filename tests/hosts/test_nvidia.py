"""GPUs in containers, where agents ask for them."""

from __future__ import annotations

from testinfra.host import Host

from roles.nvidia_container_toolkit.plan import PACKAGES
from vllm_hosts.settings import Agent, HostSettings


def test_the_toolkit_is_at_its_version_and_held(
    host: Host, settings: HostSettings, gpu_agent: Agent
) -> None:
    assert {name: host.package(name).version for name in PACKAGES} == dict.fromkeys(
        PACKAGES, settings.nvidia.toolkit_version
    )
    assert set(PACKAGES) <= set(host.check_output("apt-mark showhold").split())


def test_docker_knows_the_runtime(host: Host, gpu_agent: Agent) -> None:
    assert "nvidia" in host.check_output("docker info --format '{{json .Runtimes}}'")


def test_the_agent_sees_its_gpus(host: Host, gpu_agent: Agent) -> None:
    indexes = ",".join(str(gpu) for gpu in gpu_agent.gpus)
    of_host = host.check_output(
        "nvidia-smi --id=%s --query-gpu=uuid --format=csv,noheader", indexes
    )
    inside = host.check_output(
        "docker exec %s nvidia-smi --query-gpu=uuid --format=csv,noheader", gpu_agent.name
    )
    assert sorted(inside.split()) == sorted(of_host.split())
