"""GPUs in containers, where agents ask for them."""

from __future__ import annotations

from collections.abc import Callable

from testinfra.backend.base import CommandResult
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.roles.nvidia_container_toolkit.plan import PACKAGES
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite.promise import promise
from vllm_hosts.text import clean

_UUIDS = "--query-gpu=uuid --format=csv,noheader"


@promise("GPU-01")
def test_the_toolkit_is_at_its_version_and_held(
    host: Host, settings: HostSettings, gpu_agent: Agent
) -> None:
    listing = host.run(f"dpkg-query -W -f '${{Package}} ${{Version}}\\n' {' '.join(PACKAGES)}")
    found = dict(line.split(" ") for line in listing.stdout.splitlines())
    assert found == dict.fromkeys(PACKAGES, settings.nvidia.toolkit_version)
    assert set(PACKAGES) <= set(host.check_output("apt-mark showhold").split())


@promise("GPU-02")
def test_docker_knows_the_runtime(host: Host, gpu_agent: Agent) -> None:
    assert "nvidia" in host.check_output("docker info --format '{{json .Runtimes}}'")


@promise("GPU-03")
def test_the_agent_sees_its_gpus(
    host: Host, gpu_agent: Agent, noted: Callable[[str, str], None]
) -> None:
    indexes = ",".join(str(gpu) for gpu in gpu_agent.gpus)
    of_host = _uuids(host.run(f"nvidia-smi --id=%s {_UUIDS}", indexes))
    names = host.run("nvidia-smi --query-gpu=index,name --format=csv,noheader")
    noted("GPUs", "; ".join(line.strip() for line in names.stdout.splitlines()))
    inside = _uuids(host.run(f"docker exec %s nvidia-smi {_UUIDS}", gpu_agent.name))
    assert inside == of_host
    assert len(inside) == len(gpu_agent.gpus)


def _uuids(said: CommandResult) -> list[str]:
    """The cards of an answer; a warning beside them ends nvidia-smi with a code of its own."""
    found = sorted(line.strip() for line in said.stdout.splitlines() if line.startswith("GPU-"))
    if not found and said.rc != 0:
        raise HostError(f"nvidia-smi does not answer: {clean(said.stdout or said.stderr, 500)}")
    return found
