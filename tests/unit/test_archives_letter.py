"""Where packages come from, to the letter: archives, their keys, and what would be in their way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.driver_hosts import DEBIAN_12, DEBIAN_13, UBUNTU_22, UBUNTU_24
from tests.unit.samples import QWEN, settings
from vllm_hosts.host.archives import (
    Archive,
    archive_problems,
    docker_archive,
    driver_archive,
    toolkit_archive,
)
from vllm_hosts.host.files import File
from vllm_hosts.host.release import Release
from vllm_hosts.settings import Docker, Nvidia

FLAT = Archive("x", "https://x.example/a", "/", "", "amd64", "https://x.example/key", "AB12")
OTHER = ("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")
NEWER = ("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200")


def test_an_archive_as_a_file_and_its_key() -> None:
    assert FLAT.key_path == "/etc/apt/keyrings/x.asc"
    lines = ["Types: deb", "URIs: https://x.example/a", "Suites: /"]
    end = ["Architectures: amd64", "Signed-By: /etc/apt/keyrings/x.asc", ""]
    path = "/etc/apt/sources.list.d/x.sources"
    assert FLAT.source == File(path, "\n".join([*lines, *end]).encode())
    parts = replace(FLAT, components="stable")
    with_parts = "\n".join([*lines, "Components: stable", *end]).encode()
    assert parts.source == File(path, with_parts)


def test_docker_s() -> None:
    given = Docker(archive_url="https://d.example/linux")
    assert docker_archive(given, UBUNTU_24) == Archive(
        name="docker",
        url="https://d.example/linux/ubuntu",
        suite="noble",
        components="stable",
        architecture="amd64",
        key_url="https://d.example/linux/ubuntu/gpg",
        key_fingerprint=given.key_fingerprint,
    )
    own = Docker(key_url="https://k.example/key")
    assert docker_archive(own, UBUNTU_24).key_url == "https://k.example/key"


def test_the_container_toolkit_s() -> None:
    given = Nvidia(archive_url="https://n.example/deb")
    assert toolkit_archive(given, replace(DEBIAN_12, architecture="arm64")) == Archive(
        name="nvidia-container-toolkit",
        url="https://n.example/deb/arm64",
        suite="/",
        components="",
        architecture="arm64",
        key_url=given.key_url,
        key_fingerprint=given.key_fingerprint,
    )


@pytest.mark.parametrize(
    ("release", "architecture", "where", "key"),
    [
        (DEBIAN_12, "amd64", "debian12/x86_64", OTHER),
        (DEBIAN_13, "amd64", "debian13/x86_64", NEWER),
        (UBUNTU_22, "amd64", "ubuntu2204/x86_64", OTHER),
        (UBUNTU_24, "arm64", "ubuntu2404/sbsa", OTHER),
    ],
)
def test_the_driver_s(
    release: Release, architecture: str, where: str, key: tuple[str, str]
) -> None:
    given = Nvidia(driver_archive_url="https://n.example/cuda")
    url = f"https://n.example/cuda/{where}"
    assert driver_archive(given, replace(release, architecture=architecture)) == Archive(
        name="nvidia-cuda",
        url=url,
        suite="/",
        components="",
        architecture=architecture,
        key_url=f"{url}/{key[0]}",
        key_fingerprint=key[1],
    )


def test_a_key_of_one_s_own() -> None:
    own = Nvidia(driver_key_url="https://k.example/key", driver_key_fingerprint="A" * 40)
    found = driver_archive(own, DEBIAN_13)
    assert (found.key_url, found.key_fingerprint) == ("https://k.example/key", "A" * 40)


class TestInTheWay:
    """One file that nobody can switch off names all of them."""

    def problems(self, driver: bool = True, **given: Any) -> list[str]:
        host = settings(**given)
        wanted = {
            "docker": docker_archive(host.docker, DEBIAN_13),
            "toolkit": toolkit_archive(host.nvidia, DEBIAN_13),
            "driver": driver_archive(host.nvidia, DEBIAN_13),
        }
        refused: list[str] = []

        def in_the_way(files: object, url: str, *more: object, but: str) -> None:
            from vllm_hosts.errors import HostError

            assert files == {"/etc/a.list": "text"}
            [(name, one)] = [pair for pair in wanted.items() if pair[1].url == url]
            assert (*more, but) == (one.suite, one.architecture, one.source.path)
            refused.append(name)
            raise HostError("the same for two" if name != "driver" else "another")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vllm_hosts.host.archives.in_the_way", in_the_way)
            self.said = list(
                archive_problems(host, DEBIAN_13, {"/etc/a.list": "text"}, driver=driver)
            )
        return refused

    def test_each_that_will_be_added_is_looked_for(self) -> None:
        ours = {"driver_source": "nvidia"}
        assert self.problems(nvidia=ours) == ["docker", "toolkit", "driver"]
        assert self.said == ["the same for two", "another"]
        assert self.problems(driver=False, nvidia=ours) == ["docker", "toolkit"]
        assert self.problems(nvidia={"driver_source": "distro"}) == ["docker", "toolkit"]
        assert self.problems(docker={"source": "distro"}, driver=False) == ["toolkit"]
        assert self.problems(agents=[QWEN | {"gpus": []}], driver=False) == ["docker"]
