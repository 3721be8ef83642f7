"""H6: an entry of apt's that cannot give way is named by preflight, before anything is written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_preflight import GOOD, GOOD_RELEASE
from vllm_hosts.host.archives import docker_archive, driver_archive, toolkit_archive
from vllm_hosts.host.nvidia_smi import NOT_INSTALLED
from vllm_hosts.roles.preflight.plan import archives

FOLDER = "/etc/apt/sources.list.d/"
DOCKER = "https://download.docker.com/linux/debian"
TOOLKIT = "https://nvidia.github.io/libnvidia-container/stable/deb"
CUDA = "https://developer.download.nvidia.com/compute/cuda/repos/debian13"
ON_GPUS = settings(agents=[QWEN, CODER])
WITHOUT_A_DRIVER = replace(GOOD, gpus=(), gpu_failure=NOT_INSTALLED)


def entry(*uris: str, suite: str = "/") -> str:
    return f"Types: deb\nURIs: {' '.join(uris)}\nSuites: {suite}\n"


def test_the_addresses_are_those_of_the_settings() -> None:
    assert docker_archive(ON_GPUS.docker, GOOD_RELEASE).url == DOCKER
    assert toolkit_archive(ON_GPUS.nvidia, GOOD_RELEASE).url == f"{TOOLKIT}/amd64"
    assert driver_archive(ON_GPUS.nvidia, GOOD_RELEASE).url == f"{CUDA}/x86_64"


@pytest.mark.parametrize(
    "text",
    [
        entry(DOCKER, suite="trixie bookworm"),
        entry(DOCKER, "https://mirror.example.com/docker", suite="trixie"),
        entry(f"{TOOLKIT}/$(ARCH)", "https://mirror.example.com/toolkit/"),
    ],
)
def test_an_entry_for_several_archives_refuses_the_host(text: str) -> None:
    path = FOLDER + "all.sources"
    [problem] = archives(ON_GPUS, GOOD_RELEASE, GOOD, {path: text})
    assert problem.startswith(f"{path}, line 1: one entry names ")
    assert problem.endswith("make it an entry of its own, or remove it there")
    assert archives(ON_GPUS, GOOD_RELEASE, GOOD, {f"{path}.save": text}) == []
    assert archives(ON_GPUS, GOOD_RELEASE, GOOD, {path: f"Enabled: no\n{text}"}) == []


def test_only_archives_that_will_be_added_matter() -> None:
    toolkit = {FOLDER + "a.sources": entry(f"{TOOLKIT}/amd64", "https://mirror.example.com/x/")}
    docker = {FOLDER + "a.sources": entry(DOCKER, suite="trixie bookworm")}
    without = settings(agents=[QWEN | {"gpus": []}])
    assert archives(without, GOOD_RELEASE, GOOD, toolkit) == []
    assert len(archives(without, GOOD_RELEASE, GOOD, docker)) == 1
    distro = settings(agents=[QWEN], docker={"source": "distro"})
    assert archives(distro, GOOD_RELEASE, GOOD, docker) == []


def test_nvidia_s_archive_of_drivers_matters_where_one_will_be_installed() -> None:
    files = {FOLDER + "a.sources": entry(f"{CUDA}/x86_64", "https://mirror.example.com/x/")}
    asked = settings(agents=[QWEN], nvidia={"driver": "install", "driver_source": "nvidia"})
    assert len(archives(asked, GOOD_RELEASE, WITHOUT_A_DRIVER, files)) == 1
    # A driver that answers is not replaced.
    assert archives(asked, GOOD_RELEASE, GOOD, files) == []
    for nvidia in ({"driver": "present"}, {"driver": "install", "driver_source": "distro"}):
        other = settings(agents=[QWEN], nvidia=nvidia)
        assert archives(other, GOOD_RELEASE, WITHOUT_A_DRIVER, files) == []


def test_entries_that_give_way_and_others_stop_nobody() -> None:
    files = {
        FOLDER + "docker.list": f"deb {DOCKER} trixie stable\n",
        FOLDER + "both.sources": entry("http://deb.debian.org/debian", suite="trixie sid"),
    }
    assert archives(ON_GPUS, GOOD_RELEASE, GOOD, files) == []


def test_a_file_that_apt_cannot_read_is_said_once() -> None:
    [problem] = archives(ON_GPUS, GOOD_RELEASE, GOOD, {FOLDER + "a.sources": "what is this\n"})
    assert problem == f"apt cannot read {FOLDER}a.sources, line 1: it is not a field; correct it"
