"""Which distribution a host runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """From /etc/os-release and dpkg: ``debian``, ``13``, ``trixie``, ``amd64``."""

    os_id: str
    version: str
    codename: str
    name: str
    architecture: str
