"""Which driver a host gets, and what would prevent that. Touches no host.

Sources: NVIDIA's Driver Installation Guide (docs.nvidia.com/datacenter/tesla); for which series
know which cards, NVIDIA's blog "NVIDIA Transitions Fully Towards Open-Source GPU Kernel Modules"
and the release notes of 570 (first with Blackwell) and 580 (last with Maxwell, Pascal and Volta).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vllm_hosts.errors import HostError
from vllm_hosts.host.files import Entry, File
from vllm_hosts.host.gpus import GpuHost
from vllm_hosts.host.nvidia_smi import Failure
from vllm_hosts.host.paths import NOUVEAU, PERSISTENCE_UNIT
from vllm_hosts.host.pci import ARCHITECTURES, PciDevice
from vllm_hosts.host.release import Release
from vllm_hosts.host.render import render
from vllm_hosts.settings import HostSettings, Nvidia

UPGRADES = "/etc/apt/apt.conf.d/51vllm-hosts-nvidia"

#: The last series for Maxwell, Pascal and Volta, which also supports Blackwell: it fits all cards.
USUAL_SERIES = 580
#: The series of a Debian release, which does not change.
DEBIAN_SERIES = {"12": 535, "13": 550}
#: First series for an architecture; every series offered here supports older architectures.
_FIRST_SERIES = {"blackwell": 570}
_LAST_SERIES = {"maxwell": 580, "pascal": 580, "volta": 580}
_PROPRIETARY = frozenset({"maxwell", "pascal", "volta"})


def flavour(cards: tuple[PciDevice, ...]) -> str:
    """``open`` or ``proprietary``: the kernel module that serves all these cards.

    The open one is required from Blackwell on and on Grace Hopper, recommended from Turing on, and
    does not support older cards; the proprietary one serves mixtures up to Hopper.

    :raises HostError: no single module serves all of them.
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
    """The driver series that the settings mean on this release."""
    if nvidia.driver_source == "distro" and release.os_id == "debian":
        return DEBIAN_SERIES[release.version]
    return nvidia.driver_series or USUAL_SERIES


def needs_install(nvidia: Nvidia, host: GpuHost) -> bool:
    """Whether packages have to be installed: there is no driver, or one of another series.

    A driver that answers, or whose module is loaded, is kept, whoever installed it and whatever it
    complains about: only a series that the settings name replaces it.
    """
    driver = host.smi.driver or host.module
    if driver is None and not host.loaded:
        return not _reboot_first(host)
    if nvidia.driver_series is None or (host.smi.driver is None and _reboot_first(host)):
        return False
    # If one of the same series does not answer, its own packages repair it.
    return host.smi.driver is None or _series(driver) != nvidia.driver_series


def _reboot_first(host: GpuHost) -> bool:
    return host.smi.failure is not None and host.smi.failure.reboot_helps


def _series(driver: str | None) -> int | None:
    number = (driver or "").partition(".")[0]
    return int(number) if number.isdecimal() else None


def refusals(settings: HostSettings, release: Release, host: GpuHost) -> list[str]:
    """Why there would be no working driver, before anything is changed; empty: go ahead."""
    nvidia, smi = settings.nvidia, host.smi
    if not needs_install(nvidia, host):
        trouble = smi.trouble(settings.gpus)
        if trouble is None or (trouble.reboot_helps and nvidia.allow_reboot):
            return []
        return [reboot_needed(trouble) if trouble.reboot_helps else _kept(host, trouble)]
    if not host.cards:
        return [
            "the PCI bus shows no GPU of NVIDIA's; check that there is one, and that it is passed"
            " through to this machine, or give its agents gpus = []"
        ]
    found = [*_cards(nvidia, release, host), *_settings(nvidia, release, host)]
    highest = max(gpu for agent in settings.agents for gpu in agent.gpus)
    if highest >= len(host.cards):
        found.append(
            f"an agent asks for GPU {highest}, and the PCI bus shows {len(host.cards)}, numbered"
            " from 0; correct the agent's gpus, or make sure that the card is passed through to"
            " this machine"
        )
    if host.loaded and not nvidia.allow_reboot:
        found.append(
            f"driver {smi.driver or host.module or '(of an unknown version)'} runs, and series"
            f" {nvidia.driver_series} in its place needs a reboot; set nvidia.allow_reboot = True,"
            " or leave nvidia.driver_series out"
        )
    return found


def _kept(host: GpuHost, why: Failure) -> str:
    """The sentence for a driver that is loaded, does not answer, and is not ours to replace."""
    version = f" {host.module}" if host.module else ""
    return (
        f"NVIDIA's kernel module{version} is loaded, and nvidia-smi does not answer:"
        f" {why.explained}; a driver that is loaded is replaced only on request: reboot the host or"
        " repair it, or set nvidia.driver_series and nvidia.allow_reboot to have that series in its"
        " place"
    )


def reboot_needed(why: Failure) -> str:
    """The sentence for a reboot that is not allowed."""
    return (
        f"a reboot is needed: {why.explained}; set nvidia.allow_reboot = True, or reboot the host"
        " yourself and run again"
    )


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
            yield (
                f"GPU {card} is older than Maxwell, and no driver that vLLM can use knows it; take"
                " the card out, or the host out of the inventory"
            )
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
            "Secure Boot is on, and would reject the kernel module that is built on this host (Key"
            " was rejected by service); enrol the host's own key, which needs somebody at its"
            " console, or disable Secure Boot; docs/driver.md says how"
        )


def _signed(nvidia: Nvidia, release: Release) -> bool:
    """Whether the modules are prebuilt, and signed with a key that the firmware trusts."""
    return nvidia.driver_source == "distro" and release.os_id == "ubuntu"


def reboot_reason(host: GpuHost, wanted: Collection[int] = ()) -> Failure | None:
    """Why only a reboot helps, after everything was installed; None: it would not.

    :param wanted: the cards that agents use.
    """
    failed = host.smi.trouble(wanted)
    if failed is None:
        return None
    if host.nouveau:
        return Failure("the open-source driver nouveau holds the GPUs", reboot_helps=True)
    return failed if failed.reboot_helps else None


def driver_files() -> list[Entry]:
    """Files that keep nouveau from loading, and the driver out of unattended upgrades."""
    return [
        File(NOUVEAU, render("nvidia_driver/nouveau.conf.j2").encode()),
        File(UPGRADES, render("nvidia_driver/unattended-upgrades.j2").encode()),
    ]


def persistence_unit() -> File:
    """The daemon's unit, instead of the distribution's: Ubuntu's switches persistence off."""
    return File(PERSISTENCE_UNIT, render("nvidia_driver/nvidia-persistenced.service.j2").encode())


assert set(_FIRST_SERIES) | set(_LAST_SERIES) <= set(ARCHITECTURES)
