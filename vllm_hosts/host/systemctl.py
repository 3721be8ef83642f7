"""What systemctl says of units: one way to ask, one type, one idea of what runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Shell; the unit follows. Used with ``-q`` as a condition, they agree with what is read here.
IS_ACTIVE = "systemctl is-active"
IS_ENABLED = "systemctl is-enabled"
#: Prints 0 where the unit does not run.
MAIN_PID = "systemctl show -p MainPID --value"
#: The same as ``IS_ACTIVE`` and ``MAIN_PID`` say, in one answer with names.
NOW = "systemctl show -p ActiveState -p MainPID"


class Active(StrEnum):
    """systemd's word for what a unit does now."""

    ACTIVE = "active"
    RELOADING = "reloading"
    REFRESHING = "refreshing"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    INACTIVE = "inactive"
    FAILED = "failed"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"
    #: systemctl said nothing.
    SILENT = ""

    @property
    def runs(self) -> bool:
        """Whether it serves. While it is told to read its files again, it does, and systemctl's own
        exit code says so too."""
        return self in (Active.ACTIVE, Active.RELOADING, Active.REFRESHING)


_ENABLED = re.compile(
    "(enabled|linked|masked)(-runtime)?|alias|static|indirect|disabled|generated|transient|bad"
    "|not-found"
)


@dataclass(frozen=True)
class UnitState:
    """Whether a unit runs now, and at boot."""

    enabled: bool
    active: bool


def query(unit: str) -> str:
    """Shell: a section for each of the two answers."""
    return (
        f"echo '== active'; {IS_ACTIVE} {unit} 2>/dev/null\n"
        f"echo '== enabled'; {IS_ENABLED} {unit} 2>/dev/null"
    )


def active(lines: Sequence[str]) -> Active:
    """From what ``IS_ACTIVE`` printed. :raises ValueError: that is none of systemd's words."""
    said = [line for line in lines if line in frozenset(Active)]
    return Active(_one(said, lines))


def enabled(lines: Sequence[str]) -> bool:
    """From what ``IS_ENABLED`` printed. :raises ValueError: that is none of systemd's words."""
    said = [line for line in lines if _ENABLED.fullmatch(line)]
    return _one(said, lines) == "enabled"


def _one(said: Sequence[str], lines: Sequence[str]) -> str:
    if len(said) != (1 if lines else 0):
        raise ValueError(f"systemctl reports {' '.join(lines)[:200]!r}")
    return "".join(said)
