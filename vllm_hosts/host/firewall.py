"""What a host's firewall depends on, besides settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Surroundings:
    """What the rules depend on, besides settings.

    ``edge_user``: numeric id of the user that nginx's workers run as, or will. ``uplinks``: bridges
    that connect the host itself, so that packets from them come from outside.
    """

    edge_user: int
    uplinks: tuple[str, ...] = ()
