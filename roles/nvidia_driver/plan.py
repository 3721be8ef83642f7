"""Which driver a host gets, and what speaks against it. Touches no host.

Sources: NVIDIA's Driver Installation Guide (docs.nvidia.com/datacenter/tesla/driver-installation-guide)
for kernel modules, package names and version locking; Debian's and Ubuntu's package lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_hosts.errors import HostError
from vllm_hosts.facts.gpu import GpuHost
from vllm_hosts.facts.release import Release
from vllm_hosts.gpus import silent
from vllm_hosts.nvidia_smi import reboot_helps
from vllm_hosts.operations.apt import Archive
from vllm_hosts.operations.driver import Install
from vllm_hosts.pci import ARCHITECTURES, PciDevice
from vllm_hosts.render import render
from vllm_hosts.settings import Nvidia
from vllm_hosts.tree import Entry, File

NOUVEAU = "/etc/modprobe.d/vllm-hosts-nouveau.conf"
UPGRADES = "/etc/apt/apt.conf.d/51vllm-hosts-nvidia"
PERSISTENCE_UNIT = "/etc/systemd/system/nvidia-persistenced.service"
#: Rebuilds what the kernel reads before the root file system is there; not every host has one.
INITRAMFS = "! command -v update-initramfs >/dev/null || update-initramfs -u -k all"

#: The last series that knows Maxwell, Pascal and Volta, and it knows Blackwell: it fits all cards.
USUAL_SERIES = 580
#: The series that a Debian release has, for as long as it lives.
DEBIAN_SERIES = {"12": 535, "13": 550}
#: First series that knows an architecture; older ones are known by everything that is offered here.
_FIRST_SERIES = {"blackwell": 570}
_LAST_SERIES = {"maxwell": 580, "pascal": 580, "volta": 580}
_PROPRIETARY = frozenset({"maxwell", "pascal", "volta"})
_COMPONENTS = {
    "debian": ("contrib", "non-free", "non-free-firmware"),
    "ubuntu": ("restricted", "multiverse"),
}
#: NVIDIA's key for each release's part of its archive, as the file beside it and its fingerprint
#: (github.com/NVIDIA/cuda-repo-management lists the files).
_KEYS = {
    ("debian", "13"): ("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
}
_OTHER_KEY = ("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")
_CUDA_ARCHITECTURES = {"amd64": "x86_64", "arm64": "sbsa"}


def flavour(cards: tuple[PciDevice, ...]) -> str:
    """``open`` or ``proprietary``: the kernel module that serves all these cards.

    The open one is required from Blackwell on and on Grace Hopper, recommended from Turing on, and
    does not know what is older; the proprietary one serves mixtures up to Hopper.

    :raises HostError: no single module serves them.
    """
    old = [card for card in cards if card.architecture in _PROPRIETARY]
    new = [
        card for card in cards if card.architecture in (None, "blackwell") or card.is_grace_hopper
    ]
    if old and new:
        raise HostError(
            f"no kernel module serves both {old[0]} ({old[0].architecture}) and {new[0]}"
            f" ({new[0].architecture or 'newer'}); take one of them out"
        )
    return "proprietary" if old else "open"


def series(nvidia: Nvidia, release: Release) -> int:
    """The driver series that the settings come to on this release."""
    if nvidia.driver_source == "distro" and release.os_id == "debian":
        return DEBIAN_SERIES[release.version]
    return nvidia.driver_series or USUAL_SERIES


def needs_install(nvidia: Nvidia, host: GpuHost) -> bool:
    """Whether packages have to be installed: nothing answers, or another series than asked for.

    A driver that works is kept, whoever installed it.
    """
    if host.smi.driver is None:
        return not reboot_helps(host.smi.message or "")
    return nvidia.driver_series not in (None, int(host.smi.driver.partition(".")[0]))


def refusals(nvidia: Nvidia, release: Release, host: GpuHost) -> list[str]:
    """Why no driver can be installed here, before anything is changed; empty: it can."""
    if not needs_install(nvidia, host):
        if host.smi.message and not nvidia.allow_reboot:
            return [_no_reboot(silent(host.smi.message, nvidia.driver))]
        return []
    if not host.cards:
        return ["the PCI bus shows no GPU of NVIDIA's; is one there, and passed to this machine?"]
    found = [*_cards(nvidia, release, host), *_settings(nvidia, release, host)]
    if not nvidia.allow_reboot and (host.nouveau or host.module):
        held = (
            "the free driver nouveau holds the GPUs"
            if host.nouveau
            else (f"driver {host.module} is loaded")
        )
        found.append(_no_reboot(f"{held}, and a new one is taken up at a reboot only"))
    return found


def _cards(nvidia: Nvidia, release: Release, host: GpuHost) -> Iterator[str]:
    try:
        flavour(host.cards)
    except HostError as error:
        yield str(error)
    chosen = series(nvidia, release)
    for architecture in sorted({card.architecture or "newer" for card in host.cards}):
        card = next(c for c in host.cards if (c.architecture or "newer") == architecture)
        known = "blackwell" if architecture == "newer" else architecture
        if architecture == "older":
            yield f"GPU {card} is older than Maxwell; no driver that vLLM can use knows it"
        elif chosen < _FIRST_SERIES.get(known, 0):
            yield (
                f"GPU {card} ({architecture}) needs driver {_FIRST_SERIES[known]} or newer, and"
                f" {_chosen(nvidia, release, chosen)}"
            )
        elif chosen > _LAST_SERIES.get(known, chosen):
            yield (
                f"GPU {card} ({architecture}) is not known to drivers after {_LAST_SERIES[known]};"
                f" set nvidia.driver_series = {_LAST_SERIES[known]}"
            )


def _chosen(nvidia: Nvidia, release: Release, chosen: int) -> str:
    if nvidia.driver_source == "distro" and release.os_id == "debian":
        return f"{release.name} has {chosen}; set nvidia.driver_source = 'nvidia'"
    return f"nvidia.driver_series is {chosen}; raise it"


def _settings(nvidia: Nvidia, release: Release, host: GpuHost) -> Iterator[str]:
    chosen = series(nvidia, release)
    if nvidia.driver_series not in (None, chosen):
        yield (
            f"{release.name} has driver {chosen} and no other; leave nvidia.driver_series out, or"
            " set nvidia.driver_source = 'nvidia'"
        )
    if host.nvswitch and nvidia.driver_source == "distro" and release.os_id == "debian":
        yield (
            f"this host has NVSwitches, and {release.name} has no Fabric Manager for them;"
            " set nvidia.driver_source = 'nvidia'"
        )
    if host.secure_boot and not host.key_enrolled and not _signed(nvidia, release):
        yield (
            "Secure Boot is on, and its firmware would reject the kernel module that is built here"
            " (Key was rejected by service); enrol a key of this host's (mokutil --import"
            " /var/lib/dkms/mok.pub, a reboot, and a confirmation at the console), or switch Secure"
            " Boot off in the firmware; see docs/driver.md"
        )


def _signed(nvidia: Nvidia, release: Release) -> bool:
    """Whether the modules come built, and signed with a key that the firmware trusts."""
    return nvidia.driver_source == "distro" and release.os_id == "ubuntu"


def _no_reboot(why: str) -> str:
    return f"{why}; set nvidia.allow_reboot = True, or reboot the host yourself after this run"


def install(nvidia: Nvidia, release: Release, host: GpuHost) -> Install:
    """What to install, and where it comes from.

    :raises HostError: no kernel module serves all cards.
    """
    kind, chosen = flavour(host.cards), series(nvidia, release)
    if nvidia.driver_source == "nvidia":
        return Install(
            archive=_archive(nvidia, release),
            first=(f"nvidia-driver-pinning-{chosen}",),
            packages=(*headers(release, host), *_NVIDIAS[release.os_id][kind]),
            headers=f"linux-headers-{host.kernel}",
            fabric=_fabric(host, chosen),
        )
    if release.os_id == "debian":
        packages = (*headers(release, host), *_DEBIANS[kind], *_DEBIANS_TOO)
        if release.version != "12":
            packages += ("libnvidia-nvvm4",)
    elif host.secure_boot and not host.key_enrolled:
        packages = (
            f"linux-modules-nvidia-{chosen}-server{_OPEN[kind]}-{kernel_flavour(host.kernel)}",
            f"nvidia-headless-no-dkms-{chosen}-server{_OPEN[kind]}",
            f"nvidia-utils-{chosen}-server",
        )
    else:
        packages = (
            *headers(release, host),
            f"nvidia-headless-{chosen}-server{_OPEN[kind]}",
            f"nvidia-utils-{chosen}-server",
        )
    return Install(
        components=_COMPONENTS[release.os_id],
        packages=packages,
        headers=next((name for name in packages if name.endswith(host.kernel)), None),
        fabric=_fabric(host, chosen),
    )


_OPEN = {"open": "-open", "proprietary": ""}
#: Without the graphical half: nvidia-driver would bring an X server.
_DEBIANS = {"open": ("nvidia-open-kernel-dkms",), "proprietary": ("nvidia-kernel-dkms",)}
_DEBIANS_TOO = ("libcuda1", "nvidia-smi", "nvidia-persistenced")
#: In NVIDIA's archive only Debian's part has a compute-only package under one name in all series.
_NVIDIAS = {
    "debian": {
        "open": ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"),
        "proprietary": ("nvidia-driver-cuda", "nvidia-kernel-dkms", "nvidia-persistenced"),
    },
    "ubuntu": {"open": ("nvidia-open",), "proprietary": ("cuda-drivers",)},
}


def headers(release: Release, host: GpuHost) -> tuple[str, ...]:
    """Headers of the kernel that runs, and on Debian those of the kernels that follow it."""
    names = () if host.has_headers else (f"linux-headers-{host.kernel}",)
    kind = re.search(r"-((cloud-|rt-)?(amd64|arm64))$", host.kernel)
    if release.os_id == "debian" and kind:
        names += (f"linux-headers-{kind[1]}",)
    return names


def kernel_flavour(kernel: str) -> str:
    """``generic`` of ``6.8.0-45-generic``; also ``aws``, ``nvidia-64k`` and so on."""
    return kernel.split("-", 2)[-1]


def _archive(nvidia: Nvidia, release: Release) -> Archive:
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


def _fabric(host: GpuHost, chosen: int) -> tuple[str, ...]:
    """Names that the Fabric Manager's package may have; none where there is no NVSwitch."""
    return (f"nvidia-fabricmanager-{chosen}", "nvidia-fabricmanager") if host.nvswitch else ()


def reboot_reason(host: GpuHost) -> str | None:
    """Why only a reboot helps, after everything was installed; None: it would not."""
    message = host.smi.message
    if message is None:
        return None
    if host.nouveau:
        return "the free driver nouveau holds the GPUs"
    return message if reboot_helps(message) else None


def driver_files() -> list[Entry]:
    """nouveau kept away, and the driver kept out of unattended upgrades."""
    return [
        File(NOUVEAU, render("nvidia_driver/nouveau.conf.j2").encode()),
        File(UPGRADES, render("nvidia_driver/unattended-upgrades.j2").encode()),
    ]


def persistence_unit() -> File:
    """The daemon's unit, in the place of the distribution's, some of which switch persistence off."""
    return File(PERSISTENCE_UNIT, render("nvidia_driver/nvidia-persistenced.service.j2").encode())


def holds(name: str) -> bool:
    """Whether a package is part of the driver, so that it must not be upgraded by itself."""
    return bool(_DRIVER_PACKAGE.fullmatch(name)) and "-container" not in name


_DRIVER_PACKAGE = re.compile(
    r"(lib)?nvidia-.+|libcuda1|libnv(cuvid|optix|fbc|encode).*|firmware-nvidia-.+|cuda-drivers.*"
    r"|linux-(modules|objects|signatures)-nvidia-.+|xserver-xorg-video-nvidia.*"
)
assert set(_FIRST_SERIES) | set(_LAST_SERIES) <= set(ARCHITECTURES)
