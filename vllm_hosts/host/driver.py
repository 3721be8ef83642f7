"""What has to be installed for a driver."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.host.archives import Archive

#: Rebuilds the initial RAM disk, which not every host has.
INITRAMFS = "! command -v update-initramfs >/dev/null || update-initramfs -u -k all"


@dataclass(frozen=True)
class Install:
    """What to install for a driver.

    It comes from ``archive``, or else from further ``components`` of the distribution's own
    archives. ``first`` are packages to install before ``packages``, such as a pin of versions;
    ``headers`` is the package that must match the running kernel.
    """

    packages: tuple[str, ...]
    first: tuple[str, ...] = ()
    archive: Archive | None = None
    components: tuple[str, ...] = ()
    headers: str | None = None
