"""Hosts with cards, and what a driver's plan has against them, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.samples import QWEN, settings
from tests.unit.test_gpu import smi
from vllm_hosts.host.gpus import GpuHost
from vllm_hosts.host.pci import PciDevice
from vllm_hosts.host.release import Release
from vllm_hosts.roles.nvidia_driver.plan import (
    refusals,
)

DEBIAN_12 = Release("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)", "amd64")
DEBIAN_13 = Release("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)", "amd64")
UBUNTU_22 = Release("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS", "amd64")
UBUNTU_24 = Release("ubuntu", "24.04", "noble", "Ubuntu 24.04.3 LTS", "amd64")
KERNELS = {"debian": "6.12.48+deb13-amd64", "ubuntu": "6.8.0-45-generic"}

V100, T4, H100, GH200, B200, RTX_5090 = 0x1DB1, 0x1EB8, 0x2330, 0x2342, 0x2901, 0x2B85
GTX_680, FUTURE, NVSWITCH = 0x1180, 0x3F00, 0x22A3


def card(device: int, driver: str = "", slot: int = 0x18) -> PciDevice:
    return PciDevice(f"0000:{slot:02x}:00.0", 0x030200, device, driver)


def bare(*devices: int, kernel: str = KERNELS["debian"], **changes: Any) -> GpuHost:
    """A host with cards and no driver."""
    host = GpuHost(
        kernel=kernel,
        has_headers=False,
        devices=tuple(card(device, slot=0x18 + n) for n, device in enumerate(devices)),
        module=None,
        secure_boot=None,
        key_enrolled=False,
        nvswitch=False,
        has_persistenced=False,
        smi=smi("not-installed"),
    )
    return replace(host, **changes)


def refused(
    host: GpuHost, release: Release = DEBIAN_13, gpus: tuple[int, ...] = (0,), **nvidia: Any
) -> list[str]:
    asked = settings(agents=[QWEN | {"gpus": list(gpus)}], nvidia={"driver": "install"} | nvidia)
    return refusals(asked, release, host)
