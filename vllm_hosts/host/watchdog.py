"""What the watchdog of a host notes of an agent, as values. Touches no host.

It is written by ``data/watchdog.sh``, a file for each agent in ``paths.WATCHDOG``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

#: Why it restarts an agent, by its own word.
REASONS = {
    "stalled": "a request for one token did not come back, and no token moved",
    "failed": "a request for one token got an error of the server, and no token moved",
    "stuck": "requests run, and no token moved",
    "silent": "nothing answers on its port",
}
_NUMBER = re.compile(r"[0-9]{1,11}")


@dataclass(frozen=True)
class Restart:
    """One restart, or since when there are none any more, with the reason in words."""

    at: datetime
    why: str


@dataclass(frozen=True)
class Watched:
    """``total``: restarts since the watchdog was installed; ``restarts``: the last ones, the latest
    at the end; ``gave_up``: since when the agent is left as it is, and why."""

    total: int = 0
    restarts: tuple[Restart, ...] = ()
    gave_up: Restart | None = None


def watched(lines: Iterable[str]) -> Watched:
    """Of the lines of an agent's file. What is not written as it should be counts as nothing, as it
    does for the watchdog itself."""
    total, restarts, gave_up = 0, [], None
    for line in lines:
        word, _, value = line.partition(" ")
        if word == "total" and _NUMBER.fullmatch(value):
            total = int(value)
        elif word in ("restart", "gave-up") and (found := _restart(value)) is not None:
            if word == "restart":
                restarts.append(found)
            else:
                gave_up = found
    return Watched(total, tuple(restarts), gave_up)


def _restart(value: str) -> Restart | None:
    seconds, _, verdict = value.partition(" ")
    if not (_NUMBER.fullmatch(seconds) and verdict in REASONS):
        return None
    return Restart(datetime.fromtimestamp(int(seconds), UTC), REASONS[verdict])
