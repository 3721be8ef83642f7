"""How often something was done at a host that may have changed it.

Whatever reaches a host through pyinfra counts, but for what a fact asks there: nobody has to tell
that a command changes something, and none can be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host

#: All ways of pyinfra's to a host. A new connection counts: the host may have been rebooted.
_WAYS = ("run_shell_command", "put_file", "get_file", "rsync", "connect", "disconnect")

_times: WeakKeyDictionary[Host, int] = WeakKeyDictionary()
#: Hosts that are being asked. pyinfra does one thing at a time at a host.
_asked: WeakKeyDictionary[Host, int] = WeakKeyDictionary()


def times(host: Host) -> int:
    """How often by now. As long as it stays the same, nobody here has changed the host."""
    return _times.get(host, 0)


@contextmanager
def asking(host: Host) -> Iterator[None]:
    """What is run at the host meanwhile only looks."""
    _asked[host] = _asked.get(host, 0) + 1
    try:
        yield
    finally:
        _asked[host] -= 1


def install() -> None:
    """Count from now on. A second call changes nothing."""
    if getattr(FunctionCommand.execute, "counts", False):
        return
    for name in _WAYS:
        setattr(Host, name, _counting(getattr(Host, name)))
    FunctionCommand.execute = _counting_functions(FunctionCommand.execute)  # type: ignore[method-assign]


def _count(host: Host) -> None:
    if not _asked.get(host):
        _times[host] = times(host) + 1


def _counting(way: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(way)
    def counted(host: Host, *args: Any, **kwargs: Any) -> Any:
        _count(host)
        try:
            return way(host, *args, **kwargs)
        finally:
            # Whoever looked meanwhile saw half of it.
            _count(host)

    return counted


def _counting_functions(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A function may reach its host in ways of its own, such as another connection."""

    @wraps(execute)
    def counted(command: FunctionCommand, state: Any, host: Host, arguments: Any) -> Any:
        _count(host)
        try:
            return execute(command, state, host, arguments)
        finally:
            _count(host)

    counted.counts = True  # type: ignore[attr-defined]
    return counted
