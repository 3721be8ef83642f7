"""When a run has read a host's lists of packages: not anew before each of its installations.

Only this process knows, so nothing of it is on the host, and no clock of the host's counts.
"""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

from pyinfra.api.host import Host
from pyinfra.context import ctx_host, ctx_state

#: Seconds for which lists count as what the archives have. Where they do not, an installation
#: fails, and is tried again with new ones.
RECENT = 600.0

_read: WeakKeyDictionary[Host, float] = WeakKeyDictionary()


def have_been_read() -> None:
    """All lists of the current host have just been read."""
    if ctx_state.get().is_executing:
        _read[ctx_host.get()] = time.monotonic()


def changed() -> None:
    """The current host has other sources now, whose lists nobody has read."""
    _read.pop(ctx_host.get(), None)


def recent() -> bool:
    """Whether this run has read all lists of the current host a short while ago."""
    read = _read.get(ctx_host.get())
    return read is not None and time.monotonic() - read < RECENT
