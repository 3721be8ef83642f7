"""What a signal raises reaches the greenlet that waits for all others, whichever one runs.

Python calls the handler of a signal in the greenlet that happens to run. What is raised there ends
that one: a thread of paramiko's does so without a word, and its connection with it.
"""

from __future__ import annotations

import atexit
import signal
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any

import gevent
from gevent import Greenlet, GreenletExit
from gevent.hub import Hub

# Who types Ctrl-C knows it. gevent would print where the program was, and the time.
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)

#: Seconds for which a greenlet may go on without waiting for anything, or blocked as a whole
#: process is, such as by a prompt for a password.
_PATIENCE = 0.5


@dataclass(eq=False)
class _OnItsWay:
    """``before``: who had the timer, and when it was due."""

    main: Any
    error: BaseException
    before: tuple[Any, tuple[float, float]]

    def arrive(self) -> None:
        """Called by gevent's loop, as soon as no greenlet runs."""
        if _on_its_way is self:
            settle()
            self.main.throw(self.error)


_on_its_way: _OnItsWay | None = None
#: Whether somebody has stopped what runs: connections are closed then under what is at work.
stopped = False


def reach(main: Any, error: BaseException) -> None:
    """Raise this in a greenlet, from the handler of a signal: at once if it is the one that runs.

    :raises BaseException: the error.
    """
    global _on_its_way, stopped
    settle()
    stopped = True
    if gevent.getcurrent() is main:
        raise error
    handler = signal.signal(signal.SIGALRM, _late)
    timer = signal.setitimer(signal.ITIMER_REAL, _PATIENCE, _PATIENCE)
    _on_its_way = _OnItsWay(main, error, (handler, timer))
    gevent.get_hub().loop.run_callback(_on_its_way.arrive)


def settle() -> None:
    """Forget what is on its way."""
    global _on_its_way
    if _on_its_way is not None:
        handler, timer = _on_its_way.before
        _on_its_way = None
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


# Python has no handlers any more when it ends, and SIGALRM would end it in another way.
atexit.register(settle)


def _late(number: int, frame: FrameType | None) -> None:
    if (waiting := _on_its_way) is None:
        return
    here = gevent.getcurrent()
    if here is waiting.main:
        settle()
        raise waiting.error
    if isinstance(here, Greenlet) and not _is_thread():
        # It ends as if it were killed, and the loop goes on.
        raise GreenletExit


def _is_thread() -> bool:
    return not isinstance(threading.current_thread(), threading._DummyThread)


def interruptible() -> None:
    """Have Ctrl-C reach the greenlet that calls this, where Python's own handler is in force."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _is_main():
        return
    main = gevent.getcurrent()
    signal.signal(signal.SIGINT, lambda number, frame: reach(main, KeyboardInterrupt()))


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
