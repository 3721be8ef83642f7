"""Third-party archives that a host gets packages from, by settings and release. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vllm_hosts.errors import HostError
from vllm_hosts.host.apt_entries import in_the_way
from vllm_hosts.host.files import File
from vllm_hosts.host.release import Release
from vllm_hosts.settings import Docker, HostSettings, Nvidia

#: NVIDIA's key for each release's part of its archive, as the file beside it and its fingerprint
#: (github.com/NVIDIA/cuda-repo-management lists the files).
_KEYS = {
    ("debian", "13"): ("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
}
_OTHER_KEY = ("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")
_CUDA_ARCHITECTURES = {"amd64": "x86_64", "arm64": "sbsa"}


def docker_archive(docker: Docker, release: Release) -> Archive:
    """Docker's archive for a distribution, as in Docker's own instructions."""
    url = f"{docker.archive_url}/{release.os_id}"
    return Archive(
        name="docker",
        url=url,
        suite=release.codename,
        components="stable",
        architecture=release.architecture,
        key_url=docker.key_url or f"{url}/gpg",
        key_fingerprint=docker.key_fingerprint,
    )


def toolkit_archive(nvidia: Nvidia, release: Release) -> Archive:
    """NVIDIA's flat archive with the container toolkit, for an architecture."""
    return Archive(
        name="nvidia-container-toolkit",
        url=f"{nvidia.archive_url}/{release.architecture}",
        suite="/",
        components="",
        architecture=release.architecture,
        key_url=nvidia.key_url,
        key_fingerprint=nvidia.key_fingerprint,
    )


def driver_archive(nvidia: Nvidia, release: Release) -> Archive:
    """NVIDIA's flat archive with drivers, for a release."""
    where = f"{release.os_id}{release.version.replace('.', '')}"
    url = f"{nvidia.driver_archive_url}/{where}/{_CUDA_ARCHITECTURES[release.architecture]}"
    name, fingerprint = _KEYS.get((release.os_id, release.version), _OTHER_KEY)
    return Archive(
        name="nvidia-cuda",
        url=url,
        suite="/",
        components="",
        architecture=release.architecture,
        key_url=nvidia.driver_key_url or f"{url}/{name}",
        key_fingerprint=nvidia.driver_key_fingerprint or fingerprint,
    )


def archive_problems(
    settings: HostSettings, release: Release, files: Mapping[str, str], *, driver: bool
) -> Iterator[str]:
    """What would keep our archives from being added to apt; checked before anything is changed.

    :param files: apt's source files by path.
    :param driver: whether a driver will be installed.
    """
    wanted = []
    if settings.docker.source == "docker-ce":
        wanted.append(docker_archive(settings.docker, release))
    if settings.needs_gpu:
        wanted.append(toolkit_archive(settings.nvidia, release))
    if driver and settings.nvidia.driver_source == "nvidia":
        wanted.append(driver_archive(settings.nvidia, release))
    said = set()
    for one in wanted:
        try:
            in_the_way(files, one.url, one.suite, one.architecture, but=one.source.path)
        except HostError as error:
            if str(error) not in said:
                said.add(str(error))
                yield str(error)


@dataclass(frozen=True)
class Archive:
    """A third-party apt archive, and the only key that may sign it.

    ``suite`` ends in ``/`` for a flat archive, which has no ``components``.
    """

    name: str
    url: str
    suite: str
    components: str
    architecture: str
    key_url: str
    key_fingerprint: str

    @property
    def key_path(self) -> str:
        """Where the key lies on the host, ASCII-armoured."""
        return f"/etc/apt/keyrings/{self.name}.asc"

    @property
    def source(self) -> File:
        """The archive as a deb822 source file."""
        lines = ["Types: deb", f"URIs: {self.url}", f"Suites: {self.suite}"]
        if self.components:
            lines.append(f"Components: {self.components}")
        lines += [f"Architectures: {self.architecture}", f"Signed-By: {self.key_path}", ""]
        return File(f"/etc/apt/sources.list.d/{self.name}.sources", "\n".join(lines).encode())
