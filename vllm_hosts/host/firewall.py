"""What a host's firewall has to live with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Surroundings:
    """What the rules depend on besides settings.

    ``edge_user``: numeric user as which nginx's workers run, or will run. ``uplinks``: bridges over
    which the host itself is connected, so that what comes from them comes from outside.
    """

    edge_user: int
    uplinks: tuple[str, ...] = ()
