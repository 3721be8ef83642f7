"""Docker Engine with Compose v2.

Promises: Docker runs and starts at boot; logs rotate; containers outlive a restart of the daemon;
new networks publish ports on 127.0.0.1 only.
Needs: preflight. Writes: Docker's apt source and key, /etc/docker/daemon.json (merged, never
overwritten). Restarts: Docker, only if it has not read its configuration.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.host.archives import Archive, docker_archive
from vllm_hosts.operations.apt import archive_present, packages_present
from vllm_hosts.operations.docker import NOTE_RUNNING, compose_available, daemon_configured
from vllm_hosts.project import run
from vllm_hosts.roles.docker.plan import (
    CE_CONFLICTS,
    CE_PACKAGES,
    CE_STALE,
    daemon_settings,
    distro_packages,
)
from vllm_hosts.settings import Docker


@deploy("Docker")
def docker() -> None:
    """Install and configure Docker from the source that the settings name."""
    settings, serving = run.current().settings.docker, run.current().serving
    if settings.source == "docker-ce":
        archive_present(
            partial(_archive, settings), stale=CE_STALE, name="Docker's apt archive is known"
        )
        packages_present(
            dict.fromkeys(CE_PACKAGES),
            conflicting=CE_CONFLICTS,
            serving=serving,
            before_removing=NOTE_RUNNING,
            name="Docker Engine is installed",
        )
    else:
        packages_present(_distro, name="The distribution's Docker is installed")
    daemon_configured(
        partial(daemon_settings, settings),
        serving=serving,
        name="daemon.json is merged, Docker runs with it",
    )
    compose_available(name="Compose v2 is there")


def _archive(settings: Docker) -> Archive:
    return docker_archive(settings, look(OsRelease))


def _distro() -> dict[str, str | None]:
    release = look(OsRelease)
    packages = distro_packages(release)
    if packages is None:
        raise HostError(
            f"{release.name} has no Compose v2 of its own; set docker.source = 'docker-ce'"
        )
    return dict.fromkeys(packages)
