"""Which packages a driver is, for each system, card and archive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.driver_hosts import (
    B200,
    DEBIAN_12,
    DEBIAN_13,
    H100,
    KERNELS,
    UBUNTU_22,
    UBUNTU_24,
    V100,
    bare,
    refused,
)
from tests.unit.test_gpu import smi
from vllm_hosts.host.release import Release
from vllm_hosts.operations.driver import matching, upstream
from vllm_hosts.roles.nvidia_driver.packages import (
    fabric_manager,
    headers,
    holds,
    install,
    kernel_flavour,
)
from vllm_hosts.settings import Nvidia

DEBIAN_USER = ("libcuda1", "libnvidia-nvvm4", "nvidia-smi", "nvidia-persistenced")
HEADERS = ("linux-headers-6.12.48+deb13-amd64", "linux-headers-amd64")


@pytest.mark.parametrize(
    ("release", "device", "nvidia", "packages"),
    [
        (DEBIAN_13, H100, {}, (*HEADERS, "nvidia-open-kernel-dkms", *DEBIAN_USER)),
        (DEBIAN_13, V100, {}, (*HEADERS, "nvidia-kernel-dkms", *DEBIAN_USER)),
        (
            DEBIAN_12,
            H100,
            {},
            (*HEADERS, "nvidia-open-kernel-dkms", "libcuda1", "nvidia-smi", "nvidia-persistenced"),
        ),
        (
            UBUNTU_24,
            H100,
            {},
            (
                "linux-headers-6.8.0-45-generic",
                "nvidia-headless-580-server-open",
                "nvidia-utils-580-server",
            ),
        ),
        (
            UBUNTU_22,
            V100,
            {"driver_series": 570},
            (
                "linux-headers-6.8.0-45-generic",
                "nvidia-headless-570-server",
                "nvidia-utils-570-server",
            ),
        ),
        (
            DEBIAN_13,
            B200,
            {"driver_source": "nvidia"},
            (*HEADERS, "nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"),
        ),
        (
            UBUNTU_24,
            B200,
            {"driver_source": "nvidia"},
            ("linux-headers-6.8.0-45-generic", "nvidia-open"),
        ),
        (
            UBUNTU_24,
            V100,
            {"driver_source": "nvidia"},
            ("linux-headers-6.8.0-45-generic", "cuda-drivers"),
        ),
    ],
)
def test_packages_by_system_card_and_source(
    release: Release, device: int, nvidia: dict[str, Any], packages: tuple[str, ...]
) -> None:
    host = bare(device, kernel=KERNELS[release.os_id])
    assert refused(host, release, **nvidia) == []
    found = install(Nvidia(**nvidia), release, host)
    assert found.packages == packages
    assert found.headers == packages[0]
    if nvidia.get("driver_source") == "nvidia":
        assert found.first == ("nvidia-driver-pinning-580",)
        assert found.components == ()
    else:
        assert found.archive is None
        assert "non-free" in found.components or "restricted" in found.components


@pytest.mark.parametrize(
    ("release", "url", "key", "fingerprint"),
    [
        (DEBIAN_13, "debian13/x86_64", "8793F200.pub", "8793F200"),
        (DEBIAN_12, "debian12/x86_64", "3bf863cc.pub", "3BF863CC"),
        (replace(UBUNTU_24, architecture="arm64"), "ubuntu2404/sbsa", "3bf863cc.pub", "3BF863CC"),
        (UBUNTU_22, "ubuntu2204/x86_64", "3bf863cc.pub", "3BF863CC"),
    ],
)
def test_nvidias_archive_of_each_release_has_its_key(
    release: Release, url: str, key: str, fingerprint: str
) -> None:
    base = "https://developer.download.nvidia.com/compute/cuda/repos"
    archive = install(Nvidia(driver_source="nvidia"), release, bare(H100)).archive
    assert archive is not None
    assert archive.url == f"{base}/{url}"
    assert archive.key_url == f"{base}/{url}/{key}"
    assert archive.key_fingerprint.endswith(fingerprint)


def test_a_mirror_may_have_a_key_of_its_own() -> None:
    mirror = Nvidia(
        driver_source="nvidia",
        driver_archive_url="https://mirror.example.org/cuda",
        driver_key_url="https://mirror.example.org/key.asc",
        driver_key_fingerprint="A" * 40,
    )
    archive = install(mirror, DEBIAN_13, bare(H100)).archive
    assert archive is not None
    assert archive.url == "https://mirror.example.org/cuda/debian13/x86_64"
    assert (archive.key_url, archive.key_fingerprint) == (mirror.driver_key_url, "A" * 40)


def test_headers_that_are_there_are_not_asked_for() -> None:
    found = install(Nvidia(), UBUNTU_24, bare(H100, kernel="6.8.0-45-generic", has_headers=True))
    assert found.headers is None
    assert not any("headers" in name for name in found.packages)


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        ("6.12.48+deb13-cloud-amd64", ["linux-headers-cloud-amd64"]),
        ("6.1.0-40-rt-amd64", ["linux-headers-rt-amd64"]),
        ("6.12.48+deb13-arm64", ["linux-headers-arm64"]),
        ("6.18.44-custom", []),
    ],
)
def test_debian_also_gets_the_headers_of_later_kernels(kernel: str, names: list[str]) -> None:
    assert headers(DEBIAN_13, bare(H100, kernel=kernel)) == (f"linux-headers-{kernel}", *names)


@pytest.mark.parametrize(
    ("release", "kernel", "name"),
    [
        (UBUNTU_24, "6.8.0-45-generic", "generic"),
        (UBUNTU_24, "6.14.0-33-generic", "generic-hwe-24.04"),
        (UBUNTU_22, "6.8.0-45-generic", "generic-hwe-22.04"),
        (UBUNTU_22, "5.15.0-119-generic", "generic"),
        (UBUNTU_24, "6.14.0-1015-aws", "aws"),
        (UBUNTU_24, "6.8.0-1012-nvidia-64k", "nvidia-64k"),
    ],
)
def test_ubuntus_kernels_by_flavour(release: Release, kernel: str, name: str) -> None:
    assert kernel_flavour(release, kernel) == name


class TestFabricManager:
    def test_only_where_there_are_switches(self) -> None:
        assert fabric_manager(bare(H100, smi=smi("eight"))) == ()
        assert fabric_manager(bare(H100, smi=smi("eight"), nvswitch=True)) == (
            "nvidia-fabricmanager-580",
            "nvidia-fabricmanager",
        )

    def test_it_is_of_exactly_the_drivers_version(self) -> None:
        names = ("nvidia-fabricmanager-580", "nvidia-fabricmanager")
        offered = {
            "nvidia-fabricmanager-580": ("580.126.20-0ubuntu0.24.04.1", "580.95.05-0ubuntu1"),
            "nvidia-fabricmanager": ("580.95.05-1",),
        }
        assert matching(offered, names, "580.95.05") == (names[0], "580.95.05-0ubuntu1")
        assert matching({names[1]: ("1:580.95.05-1",)}, names, "580.95.05") == (
            names[1],
            "1:580.95.05-1",
        )
        assert matching(offered, names, "580.95") is None
        assert matching(offered, names, "") is None

    def test_upstream_versions(self) -> None:
        assert upstream("580.95.05-0ubuntu0.24.04.1") == "580.95.05"
        assert upstream("590.48.01") == "590.48.01"


class TestHolds:
    @pytest.mark.parametrize(
        "name",
        [
            *("nvidia-smi", "nvidia-open-kernel-dkms", "libnvidia-compute-580-server", "libcuda1"),
            *("firmware-nvidia-gsp", "linux-modules-nvidia-580-server-open-generic"),
            *("cuda-drivers", "nvidia-fabricmanager-580", "libnvcuvid1"),
        ],
    )
    def test_every_part_of_the_driver_is_held(self, name: str) -> None:
        assert holds(name)

    @pytest.mark.parametrize(
        "name",
        [
            *("nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container1"),
            *(
                "cuda-toolkit-13-0",
                "linux-headers-amd64",
                "linux-image-amd64",
                "libc6",
                "docker-ce",
            ),
        ],
    )
    def test_nothing_else_is(self, name: str) -> None:
        assert not holds(name)
