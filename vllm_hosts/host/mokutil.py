"""What mokutil says of Secure Boot. Touches no host."""

from __future__ import annotations

from collections.abc import Sequence

#: Shell.
SB_STATE = "mokutil --sb-state 2>&1"


def secure_boot(lines: Sequence[str]) -> bool | None:
    """From ``SB_STATE``. None: the host has no UEFI firmware, or nobody could say.

    Where shim itself checks nothing, any module may be loaded.
    """
    if any("validation is disabled in shim" in line for line in lines):
        return False
    if "SecureBoot enabled" in lines:
        return True
    return False if "SecureBoot disabled" in lines else None
