"""Keys from a terminal, whose state is restored whatever happens."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent.event import Event

#: q, and Ctrl-C, which arrives as a character while keys are read one by one.
_QUIT = (b"q", b"Q", b"\x03")


class Keys:
    """Whether somebody wants to quit."""

    def __init__(self, terminal: int, ended: Event) -> None:
        self._terminal = terminal
        self._ended = ended

    def quits(self, seconds: float) -> bool:
        """Wait for a key, at most this long. True: it was one that quits, or a signal came."""
        # gevent's, which lets hosts be asked meanwhile.
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        if self._ended.is_set():
            return True
        if not ready:
            return False
        typed = os.read(self._terminal, 64)
        return not typed or any(key in typed for key in _QUIT)


@contextmanager
def keys(terminal: int) -> Iterator[Keys]:
    """Read a terminal key by key, without an echo. Its settings come back at the end, also after
    SIGINT, SIGTERM and SIGHUP.

    :param terminal: its file descriptor.
    """
    before = termios.tcgetattr(terminal)
    ended = Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [gevent.signal_handler(number, ended.set) for number in signals]
    try:
        tty.setcbreak(terminal)
        # Ctrl-C and Ctrl-Z become characters: neither may leave the screen as it is.
        mode = termios.tcgetattr(terminal)
        mode[3] &= ~termios.ISIG
        termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
        yield Keys(terminal, ended)
    finally:
        for handler in handlers:
            handler.cancel()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
