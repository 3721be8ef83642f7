"""Names of a driver's packages, and the archives that offer them. Touches no host.

Sources: NVIDIA's Driver Installation Guide (docs.nvidia.com/datacenter/tesla), its chapters about
kernel modules, compute-only installation and version locking; Debian's and Ubuntu's package lists.
"""

from __future__ import annotations

import re

from vllm_hosts.host.archives import driver_archive
from vllm_hosts.host.driver import Install
from vllm_hosts.host.gpus import GpuHost
from vllm_hosts.host.release import Release
from vllm_hosts.roles.nvidia_driver.plan import flavour, series
from vllm_hosts.settings import Nvidia

_COMPONENTS = {
    "debian": ("contrib", "non-free", "non-free-firmware"),
    "ubuntu": ("restricted", "multiverse"),
}


def install(nvidia: Nvidia, release: Release, host: GpuHost) -> Install:
    """What to install, and where it comes from.

    :raises HostError: no kernel module serves all cards.
    """
    kind, chosen = flavour(host.cards), series(nvidia, release)
    kernel = headers(release, host)
    running = kernel[0] if kernel and kernel[0].endswith(host.kernel) else None
    if nvidia.driver_source == "nvidia":
        return Install(
            archive=driver_archive(nvidia, release),
            first=(f"nvidia-driver-pinning-{chosen}",),
            packages=(*kernel, *_NVIDIAS[release.os_id][kind]),
            headers=running,
        )
    if release.os_id == "debian":
        names = (*kernel, *_DEBIANS[kind], *_DEBIANS_TOO[release.version])
        return Install(components=_COMPONENTS["debian"], packages=names, headers=running)
    end = f"{chosen}-server{'-open' if kind == 'open' else ''}"
    utils = f"nvidia-utils-{chosen}-server"
    if host.secure_boot and not host.key_enrolled:
        # Ubuntu builds and signs these itself, so the firmware trusts them.
        signed = f"linux-modules-nvidia-{end}-{kernel_flavour(release, host.kernel)}"
        names = (signed, f"nvidia-headless-no-dkms-{end}", utils)
        return Install(components=_COMPONENTS["ubuntu"], packages=names)
    names = (*kernel, f"nvidia-headless-{end}", utils)
    return Install(components=_COMPONENTS["ubuntu"], packages=names, headers=running)


#: Without the graphical part: nvidia-driver would install an X server.
_DEBIANS = {"open": ("nvidia-open-kernel-dkms",), "proprietary": ("nvidia-kernel-dkms",)}
_DEBIANS_TOO = {
    "12": ("libcuda1", "nvidia-smi", "nvidia-persistenced"),
    "13": ("libcuda1", "libnvidia-nvvm4", "nvidia-smi", "nvidia-persistenced"),
}
#: In NVIDIA's archive, only for Debian the compute-only package has one name in all series.
_NVIDIAS: dict[str, dict[str, tuple[str, ...]]] = {
    "debian": {
        "open": ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"),
        "proprietary": ("nvidia-driver-cuda", "nvidia-kernel-dkms", "nvidia-persistenced"),
    },
    "ubuntu": {"open": ("nvidia-open",), "proprietary": ("cuda-drivers",)},
}
#: The kernel that each Ubuntu was released with; packages for newer ones have another suffix.
_FIRST_KERNEL = {"22.04": "5.15.", "24.04": "6.8."}


def headers(release: Release, host: GpuHost) -> tuple[str, ...]:
    """Headers of the running kernel, and on Debian of the kernels that follow it."""
    names: tuple[str, ...] = () if host.has_headers else (f"linux-headers-{host.kernel}",)
    kind = re.search(r"-((cloud-|rt-)?(amd64|arm64))$", host.kernel)
    if release.os_id == "debian" and kind:
        names += (f"linux-headers-{kind[1]}",)
    return names


def kernel_flavour(release: Release, kernel: str) -> str:
    """``generic`` of ``6.8.0-45-generic``, ``generic-hwe-24.04`` of a newer one; also ``aws``..."""
    name = kernel.split("-", 2)[-1]
    newer = not kernel.startswith(_FIRST_KERNEL[release.version])
    return f"{name}-hwe-{release.version}" if newer and name == "generic" else name


def fabric_manager(host: GpuHost) -> tuple[str, ...]:
    """Possible names of the Fabric Manager's package; none if there is no NVSwitch."""
    if not host.nvswitch or host.smi.driver is None:
        return ()
    return (f"nvidia-fabricmanager-{host.smi.driver.partition('.')[0]}", "nvidia-fabricmanager")


def holds(name: str) -> bool:
    """Whether a package is part of the driver, so that it must not be upgraded alone."""
    return bool(_DRIVER_PACKAGE.fullmatch(name)) and "-container" not in name


_DRIVER_PACKAGE = re.compile(
    r"(lib)?nvidia-.+|libcuda1|libnv(cuvid|optix|fbc|encode).*|firmware-nvidia-.+|cuda-drivers.*"
    r"|linux-(modules|objects|signatures)-nvidia-.+|xserver-xorg-video-nvidia.*"
)
