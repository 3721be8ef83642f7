"""Which Docker a host should have, from its settings. Touches no host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_hosts.host.release import Release
from vllm_hosts.settings import Docker

CE_PACKAGES = (
    "docker-ce",
    "docker-ce-cli",
    "containerd.io",
    "docker-buildx-plugin",
    "docker-compose-plugin",
)
#: Docker's own instructions remove these first (docs.docker.com/engine/install).
CE_CONFLICTS = (
    "docker.io",
    "docker-cli",
    "docker-compose",
    "docker-compose-v2",
    "docker-doc",
    "podman-docker",
    "containerd",
    "runc",
)
#: Written by the convenience script or by older instructions; they conflict over Signed-By.
CE_STALE = (
    "/etc/apt/sources.list.d/docker.list",
    "/etc/apt/sources.list.d/docker-ce.list",
    "/etc/apt/keyrings/docker.gpg",
)
_DISTRO_PACKAGES = {
    ("debian", "13"): ("docker.io", "docker-cli", "docker-compose"),
    ("ubuntu", "22.04"): ("docker.io", "docker-compose-v2"),
    ("ubuntu", "24.04"): ("docker.io", "docker-compose-v2"),
}


def distro_packages(release: Release) -> tuple[str, ...] | None:
    """The distribution's own packages with Compose v2; None: it has none (Debian 12)."""
    return _DISTRO_PACKAGES.get((release.os_id, release.version))


def daemon_settings(docker: Docker, current: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that daemon.json should hold, given what it holds now.

    A log driver that somebody chose stays, and so do its options.
    """
    wanted: dict[str, Any] = {
        "live-restore": docker.live_restore,
        # The first is for the default bridge, the second for networks that Compose creates.
        "ip": "127.0.0.1",
        "default-network-opts": {
            "bridge": {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
        },
    }
    if current.get("log-driver", "json-file") in {"json-file", "local"}:
        wanted["log-opts"] = {
            "max-size": docker.log_max_size,
            "max-file": str(docker.log_max_file),
        }
    return wanted
