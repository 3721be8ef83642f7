"""A run's first moments: signals count before all else is imported."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType


def install() -> None:
    """What ``config.py`` calls: have everything validated before the first connection.

    Until somebody listens, pyinfra ends with 0 where it is interrupted, as after a run.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # As under nohup.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    # Not above: it takes long to import.
    from vllm_hosts.project import run

    run.install()


def _end(number: int, frame: FrameType | None) -> None:
    """Nothing has begun anywhere, so there is nothing to put in order."""
    with suppress(OSError):
        os.write(2, b"\n--> The run is stopped before it has begun\n")
    os._exit(128 + number)
