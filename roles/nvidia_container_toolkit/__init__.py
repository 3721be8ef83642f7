"""NVIDIA Container Toolkit, on hosts where an agent asks for a GPU.

Promises: the four packages at one pinned version, held; Docker gives containers the GPUs that they
request, verified once with a real container.
Needs: docker, a working driver (preflight has checked it), and vllm_image before containers are
tried. Writes: NVIDIA's apt source and
key, the runtime in /etc/docker/daemon.json. Restarts: Docker, only if it does not know the toolkit
yet.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.host.archives import Archive, toolkit_archive
from vllm_hosts.host.daemon_json import HOOK
from vllm_hosts.operations.apt import archive_present, packages_present
from vllm_hosts.operations.docker import daemon_configured
from vllm_hosts.operations.gpu import container_gets_gpus
from vllm_hosts.project import run
from vllm_hosts.roles.nvidia_container_toolkit.plan import PACKAGES, RUNTIME, STALE
from vllm_hosts.settings import Nvidia


@deploy("NVIDIA Container Toolkit")
def nvidia_container_toolkit() -> None:
    """Install the toolkit, if an agent needs a GPU. Docker is left as it is."""
    settings = run.current().settings
    if not settings.needs_gpu:
        return
    archive_present(
        partial(_archive, settings.nvidia), stale=STALE, name="NVIDIA's apt archive is known"
    )
    packages_present(
        dict.fromkeys(PACKAGES, settings.nvidia.toolkit_version),
        held=True,
        name=f"The toolkit is installed and held at {settings.nvidia.toolkit_version}",
    )


@deploy("NVIDIA Container Toolkit")
def gpus_in_containers() -> None:
    """Let Docker know the toolkit, and verify that a container gets the GPUs."""
    settings = run.current().settings
    if not settings.needs_gpu:
        return
    daemon_configured(
        lambda current: RUNTIME,
        read_at_start=[HOOK],
        provided_by=PACKAGES,
        serving=run.current().serving,
        name="Docker knows the NVIDIA runtime",
    )
    container_gets_gpus(
        settings.vllm.image,
        sorted({gpu for agent in settings.agents for gpu in agent.gpus}),
        name="A container gets the GPUs",
    )


def _archive(settings: Nvidia) -> Archive:
    return toolkit_archive(settings, look(OsRelease))
