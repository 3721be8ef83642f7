"""Which distribution a host runs, as facts and plans speak of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """As /etc/os-release and dpkg say it: ``debian``, ``13``, ``trixie``, ``amd64``."""

    os_id: str
    version: str
    codename: str
    name: str
    architecture: str
