"""What a driver's installation takes."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.host.archives import Archive


@dataclass(frozen=True)
class Install:
    """What a driver is made of.

    ``archive`` or else further ``components`` of the distribution's own archives; packages to have
    ``first``, such as a pin of versions, and then ``packages``; ``headers`` is the one among them
    that must fit the running kernel.
    """

    packages: tuple[str, ...]
    first: tuple[str, ...] = ()
    archive: Archive | None = None
    components: tuple[str, ...] = ()
    headers: str | None = None
