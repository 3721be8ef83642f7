"""Names of a driver's packages that only some hosts get, and where they come from."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.driver_hosts import (
    DEBIAN_13,
    H100,
    KERNELS,
    UBUNTU_22,
    UBUNTU_24,
    V100,
    bare,
)
from vllm_hosts.host.archives import driver_archive
from vllm_hosts.host.driver import Install
from vllm_hosts.host.release import Release
from vllm_hosts.roles.nvidia_driver.packages import install
from vllm_hosts.roles.nvidia_driver.plan import series
from vllm_hosts.settings import Nvidia

UBUNTU = KERNELS["ubuntu"]
OWN = Nvidia(driver="install")
UPSTREAM = Nvidia(driver="install", driver_source="nvidia")


def test_components_of_the_distribution() -> None:
    debian = install(OWN, DEBIAN_13, bare(H100))
    assert debian.components == ("contrib", "non-free", "non-free-firmware")
    assert install(OWN, UBUNTU_24, bare(H100, kernel=UBUNTU)).components == (
        "restricted", "multiverse",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("release", "device", "kernel", "modules"),
    [
        (UBUNTU_24, H100, UBUNTU, "580-server-open-generic"),
        (UBUNTU_24, V100, UBUNTU, "580-server-generic"),
        (UBUNTU_24, H100, "6.14.0-29-generic", "580-server-open-generic-hwe-24.04"),
        (UBUNTU_22, H100, "5.15.0-1-aws", "580-server-open-aws"),
    ],
)
def test_firmware_that_trusts_ubuntu_alone_gets_signed_modules(
    release: Release, device: int, kernel: str, modules: str
) -> None:
    end = modules[: modules.index("server") + 6] + ("-open" if "open" in modules else "")
    signed = Install(
        components=("restricted", "multiverse"),
        packages=(
            f"linux-modules-nvidia-{modules}",
            f"nvidia-headless-no-dkms-{end}",
            "nvidia-utils-580-server",
        ),
    )
    strict: dict[str, Any] = {"kernel": kernel, "secure_boot": True}
    assert install(OWN, release, bare(device, **strict)) == signed
    # Where it trusts this host's own key, modules are built here.
    built = install(OWN, release, bare(device, **strict, key_enrolled=True))
    assert built.packages == (
        f"linux-headers-{kernel}", f"nvidia-headless-{end}", "nvidia-utils-580-server",
    )  # fmt: skip
    assert install(OWN, release, bare(device, kernel=kernel)) == built


@pytest.mark.parametrize(
    ("release", "device", "packages"),
    [
        (DEBIAN_13, H100, "nvidia-driver-cuda nvidia-kernel-open-dkms nvidia-persistenced"),
        (DEBIAN_13, V100, "nvidia-driver-cuda nvidia-kernel-dkms nvidia-persistenced"),
        (UBUNTU_24, H100, "nvidia-open"),
        (UBUNTU_24, V100, "cuda-drivers"),
    ],
)
def test_nvidia_s_own_archive(release: Release, device: int, packages: str) -> None:
    kernel = KERNELS[release.os_id]
    made = install(UPSTREAM, release, bare(device, kernel=kernel, has_headers=True))
    kept = ("linux-headers-amd64",) if release is DEBIAN_13 else ()
    assert made == Install(
        archive=driver_archive(UPSTREAM, release),
        first=(f"nvidia-driver-pinning-{series(UPSTREAM, release)}",),
        packages=(*kept, *packages.split()),
    )
