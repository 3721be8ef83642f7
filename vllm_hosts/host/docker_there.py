"""Whether the Docker that a host has, or would get, can do what we need. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from packaging.version import Version

from vllm_hosts.host.release import Release

#: The first with `dockerd --validate`, and with networks that know host_binding_ipv4.
DOCKER_FLOOR = Version("23.0")
#: `docker compose` as a plugin; the first whose `up --wait` and `config --hash` behave as needed.
COMPOSE_FLOOR = Version("2.20")
#: By source: the packages that contain the daemon, and those that contain Compose.
_PACKAGES = {
    "docker-ce": (("docker-ce",), ("docker-compose-plugin",)),
    "distro": (("docker.io",), ("docker-compose-v2", "docker-compose")),
}
#: Releases whose own packages do not include Compose v2.
_WITHOUT_COMPOSE = {("debian", "12")}


@dataclass(frozen=True)
class DockerThere:
    """``packages``: installed versions by name. ``daemon`` and ``compose``: what the programs print
    as their version, empty if they are missing. ``path``: the daemon's program."""

    packages: Mapping[str, str] = field(default_factory=dict)
    daemon: str = ""
    compose: str = ""
    path: str = ""


def docker_problems(source: str, release: Release, there: DockerThere) -> Iterator[str]:
    """Why a deploy would not work with a host's Docker, one sentence each.

    Packages from another source will be replaced, and so are not judged.
    """
    if source == "distro" and (release.os_id, release.version) in _WITHOUT_COMPOSE:
        yield f"{release.name} has no Compose v2 of its own; set docker.source = 'docker-ce'"
        return
    daemons, composes = _PACKAGES[source]
    if own := [name for name in daemons if name in there.packages]:
        yield from _old_daemon(there, f"package {own[0]}", f"upgrade {own[0]} on the host")
    elif there.path and not any(
        name in there.packages for packages, _ in _PACKAGES.values() for name in packages
    ):
        # From no package that we know: ours would be installed beside it.
        yield from _old_daemon(there, there.path, f"remove {there.path}")
    if own := [name for name in composes if name in there.packages]:
        version = version_in(there.compose)
        if version is not None and Version("2") <= version < COMPOSE_FLOOR:
            yield (
                f"Compose {version} (package {own[0]}) is older than {COMPOSE_FLOOR}, which is"
                f" needed; upgrade {own[0]} on the host"
            )


def _old_daemon(there: DockerThere, what: str, do: str) -> Iterator[str]:
    version = version_in(there.daemon)
    if version is not None and version < DOCKER_FLOOR:
        yield (
            f"Docker {version} ({what}) is older than {DOCKER_FLOOR}, which Compose v2 and the"
            f" check of its configuration need; {do}, and run again"
        )


def version_in(text: str) -> Version | None:
    """The version in a program's own words, such as ``Docker version 20.10.24+dfsg1,``."""
    found = re.search(r"(?<![\d.])\d{1,4}\.\d{1,4}(?:\.\d{1,4})?", text)
    return Version(found[0]) if found else None
