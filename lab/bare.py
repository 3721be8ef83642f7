"""Lab hosts as they come from a rack: with cards and without a driver; and back."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

from lab import archive, debs, driver_archive, gpu, hosts

_UBUNTU = """PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.3 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
"""
_UBUNTU_ARCHIVE = "/usr/share/lab-ubuntu"
_UBUNTU_COMPONENTS = ("main", "restricted", "universe", "multiverse")
#: What a deploy with a driver leaves on a host, besides packages.
_LEFT = (
    "/etc/modprobe.d/vllm-hosts-nouveau.conf",
    "/etc/apt/apt.conf.d/51vllm-hosts-nvidia",
    "/etc/apt/sources.list.d/vllm-hosts-driver.sources",
    "/etc/apt/sources.list.d/nvidia-cuda.sources",
    "/etc/systemd/system/nvidia-persistenced.service",
    "/etc/systemd/system/multi-user.target.wants/nvidia-persistenced.service",
    "/var/lib/vllm-hosts/stamps/nouveau",
    gpu.MODE_FILE,
)


def without_driver(
    name: str, kind: str = "h200", *, cards: int = 2, switches: int = 0, nouveau: bool = False
) -> None:
    """Take the driver off a running host, and offer it one as its distribution would.

    :param kind: a key of ``gpu.CARDS``.
    :param nouveau: the free driver holds the cards until the next boot without it.
    """
    root = hosts.root(name)
    (root / "usr/bin/nvidia-smi").unlink(missing_ok=True)
    gpu.write_cards(root, cards, name, kind, switches)
    if nouveau:
        gpu.held_by_nouveau(root)
    for path, text in driver_archive.host_files().items():
        (root / path).write_text(text)
    keyrings = root / "etc/apt/keyrings"
    keyrings.mkdir(exist_ok=True)
    shutil.copy(archive.build() / "distro/key.asc", keyrings / "lab-distro.asc")


def failing(name: str, mode: str, *, until_reboot: bool = False) -> None:
    """Make a host's driver fail in one of ``gpu.MODES``; the empty word ends it."""
    boot = "$(cat /proc/sys/kernel/random/boot_id)" if until_reboot else ""
    hosts.run(name, f'echo "{mode} {boot}" >{gpu.MODE_FILE}' if mode else f"rm -f {gpu.MODE_FILE}")


def with_driver(name: str) -> None:
    """Give a running host back what the lab's hosts come with."""
    left = [*_LEFT, *(f"/{path}" for path in driver_archive.host_files())]
    hosts.run(
        name,
        "systemctl stop nvidia-persistenced nvidia-fabricmanager 2>/dev/null;"
        f" dpkg --purge --force-all {' '.join(driver_archive.NAMES)} >/dev/null 2>&1;"
        f" rm -f {' '.join(left)}; systemctl daemon-reload;"
        " systemctl reset-failed 2>/dev/null; true",
    )
    gpu.install(hosts.root(name), hosts.host(name).gpus, name)


def as_ubuntu(name: str) -> None:
    """Have a running host say that it is Ubuntu 24.04. What is installed stays Debian's, and
    Ubuntu's archive is an empty one on its own disk."""
    root = hosts.root(name)
    release = root / "etc/os-release"
    release.unlink()
    release.write_text(_UBUNTU)
    (root / "etc/apt/sources.list.d/ubuntu.sources").write_text(
        f"Types: deb\nURIs: file:{_UBUNTU_ARCHIVE}\nSuites: noble\nComponents: main universe\n"
        "Trusted: yes\n"
    )
    suite = root / _UBUNTU_ARCHIVE[1:] / "dists/noble"
    for component in _UBUNTU_COMPONENTS:
        (suite / component / f"binary-{debs.ARCHITECTURE}").mkdir(parents=True)
        (suite / component / f"binary-{debs.ARCHITECTURE}/Packages").touch()
    (suite / "Release").write_text(
        "Origin: Ubuntu\nLabel: Ubuntu\nSuite: noble\nCodename: noble\n"
        f"Date: {datetime.now(UTC):%a, %d %b %Y %H:%M:%S} UTC\n"
        f"Architectures: {debs.ARCHITECTURE}\nComponents: {' '.join(_UBUNTU_COMPONENTS)}\n"
    )
