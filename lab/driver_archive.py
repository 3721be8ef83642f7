"""Stands in for the archives that have NVIDIA's driver: Debian's and Ubuntu's, and NVIDIA's own.

Every package is empty but for the programs that the lab's hosts run: nvidia-smi and two daemons.
"""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

from lab import debs, recipe
from lab.layout import ARCHIVE_NAME

_STANDINS = Path(__file__).with_name("standins") / "driver"
#: The kernel of this machine is the kernel of all lab hosts.
_HEADERS = f"linux-headers-{platform.release()}"
_UNIT = "usr/lib/systemd/system/nvidia-fabricmanager.service"
_SMI = {"usr/bin/nvidia-smi": "nvidia-smi"}
_DAEMON = {"usr/bin/nvidia-persistenced": "nvidia-persistenced"}
_FABRIC = {"usr/bin/nv-fabricmanager": "nv-fabricmanager", _UNIT: "nvidia-fabricmanager.service"}
#: Package -> what is in it, by distribution, under the names of each.
_DEBIAN: dict[str, dict[str, str]] = {
    "nvidia-open-kernel-dkms": {},
    "nvidia-kernel-dkms": {},
    "libcuda1": {},
    "libnvidia-nvvm4": {},
    "nvidia-smi": _SMI,
    "nvidia-persistenced": _DAEMON,
    _HEADERS: {},
}
_UBUNTU: dict[str, dict[str, str]] = {
    "nvidia-headless-580-server-open": _DAEMON,
    "nvidia-headless-580-server": _DAEMON,
    "nvidia-utils-580-server": _SMI,
    "nvidia-fabricmanager-580": _FABRIC,
}
_NVIDIA: dict[str, dict[str, str]] = {
    "nvidia-driver-pinning-580": {},
    "nvidia-driver-cuda": _SMI,
    "nvidia-kernel-open-dkms": {},
    "nvidia-kernel-dkms": {},
    "nvidia-persistenced": _DAEMON,
    "nvidia-open": {**_SMI, **_DAEMON},
    "nvidia-fabricmanager-580": _FABRIC,
}
#: Two ways to the same programs: only one of them can be installed.
_CONFLICTS = {"nvidia-open": "nvidia-driver-cuda", "nvidia-driver-cuda": "nvidia-open"}
#: Debian's own has the same version without the end; apt would take the two for one.
_VERSIONS = {
    "debian": "550.163.01-2+lab1",
    "ubuntu": "580.95.05-0ubuntu0.24.04.1",
    "nvidia": "580.95.05-1",
}
#: What a Fabric Manager of another version would do is checked too: it comes first in the list.
_OTHER_FABRIC = {"ubuntu": "580.126.20-0ubuntu0.24.04.1", "nvidia": "580.126.20-1"}
NAMES = sorted({*_DEBIAN, *_UBUNTU, *_NVIDIA})
RECIPE: list[str | Path] = [
    json.dumps([_DEBIAN, _UBUNTU, _NVIDIA, _CONFLICTS, _VERSIONS, _OTHER_FABRIC]),
    "layout 1",
    *recipe.files_below(_STANDINS),
]
#: NVIDIA's names of its archives and of the keys beside them.
_PLACES = {"debian13": "8793F200.pub", "ubuntu2404": "3bf863cc.pub"}


def make(folder: Path, work: Path, keys: Path) -> None:
    """Fill ``folder/distro`` and ``folder/cuda``, signed with the key in gpg's home ``keys``."""
    work.mkdir()
    distro = folder / "distro"
    distro.mkdir()
    _fill(distro, work, _DEBIAN, "debian")
    _fill(distro, work, _UBUNTU, "ubuntu")
    debs.index(distro, ".", ".", keys)
    debs.export(keys, distro / "key.asc")
    for place, key in _PLACES.items():
        flat = folder / "cuda/repos" / place / "x86_64"
        flat.mkdir(parents=True)
        _fill(flat, work, _NVIDIA, "nvidia")
        debs.index(flat, ".", ".", keys)
        debs.export(keys, flat / key)


def _fill(target: Path, work: Path, packages: dict[str, dict[str, str]], which: str) -> None:
    for name, files in packages.items():
        _package(target, work, name, files, _VERSIONS[which])
        if _UNIT in files:
            _package(target, work, name, files, _OTHER_FABRIC[which])


def _package(target: Path, work: Path, name: str, files: dict[str, str], version: str) -> None:
    tree = work / f"{name}-{version}"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    upstream = version.partition("-")[0]
    for path, source in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        text = (_STANDINS / source).read_text().replace("@VERSION@", upstream)
        (tree / path).write_text(text)
        (tree / path).chmod(0o755 if path.startswith("usr/bin/") else 0o644)
    if "usr/bin/nvidia-smi" in files:
        (tree / "usr/share/lab-driver").mkdir(parents=True)
        (tree / "usr/share/lab-driver/version").write_text(f"{upstream}\n")
    debs.write_control(
        tree / "DEBIAN/control",
        {
            "Package": name,
            "Version": version,
            "Architecture": debs.ARCHITECTURE,
            "Maintainer": "lab <lab@localhost>",
            "Conflicts": _CONFLICTS.get(name, ""),
            "Description": f"stands in for the driver's {name}",
        },
    )
    debs.pack(tree, target)


def host_files() -> dict[str, str]:
    """What a lab host needs to take the driver from here instead of from its distribution.

    Text by path. The key still has to be put at ``/etc/apt/keyrings/lab-distro.asc``.
    """
    return {
        "etc/apt/sources.list.d/lab-distro.sources": (
            f"Types: deb\nURIs: https://{ARCHIVE_NAME}/distro\nSuites: /\n"
            "Signed-By: /etc/apt/keyrings/lab-distro.asc\n"
        ),
        "etc/apt/preferences.d/lab-distro": (
            "Package: nvidia-* libnvidia-* libcuda1 linux-headers-*\n"
            f'Pin: origin "{ARCHIVE_NAME}"\nPin-Priority: 1001\n'
        ),
    }
