"""Programs that are started without a copy of the process that starts them.

gevent's ``Popen`` forks in Python: for each program the kernel copies the tables of all memory that
the tests have by then, which takes ten times as long as the program. Python's own ``Popen`` lends
the memory to the child until that runs the program (``vfork``). This joins that start to gevent's
wait for the end.
"""

from __future__ import annotations

import _posixsubprocess
import os
import subprocess
from inspect import signature
from types import FunctionType, SimpleNamespace
from typing import Any

import gevent.subprocess
from gevent.monkey import get_original
from gevent.os import fork_and_watch

_THERE: Any = gevent.subprocess.Popen
_PLAIN: Any = get_original("subprocess", "Popen")
#: What only gevent's start is given.
_GEVENT_S = "universal_newlines"


def install() -> None:
    """Versions that do this in another way are left alone. A second call changes nothing."""
    takes = list(signature(_THERE._execute_child).parameters)
    place = takes.index(_GEVENT_S) if _GEVENT_S in takes else -1
    if place < 0 or takes[:place] + takes[place + 1 :] != [
        *signature(_PLAIN._execute_child).parameters
    ]:
        return
    start = _as_before_gevent(_PLAIN._execute_child)

    def execute_child(self: Any, *words: Any) -> None:
        # The first word is self, and the last a process group, which gevent calls None if there is
        # none.
        *given, group = *words[: place - 1], *words[place:]
        # Before it can end.
        self._loop.install_sigchld()
        start(self, *given, -1 if group is None else group)
        # Nothing of the loop runs in between that could take its end away.
        fork_and_watch(self._on_child, self._loop, True, lambda: self.pid)
        # A wait for it with an end begins now, and not when something waited last.
        self._loop.update_now()

    _THERE._execute_child = execute_child
    for name in ("_close_pipe_fds", "_posix_spawn"):
        setattr(_THERE, name, _as_before_gevent(getattr(_PLAIN, name)))


def _as_before_gevent(function: FunctionType) -> FunctionType:
    """A method of the plain ``Popen`` that calls what gevent has put others in the places of."""
    plain = {name: get_original("os", name) for name in ("close", "read", "waitpid")}
    known = {
        **vars(subprocess),
        "os": SimpleNamespace(**{**vars(os), **plain}),
        "_fork_exec": _posixsubprocess.fork_exec,
    }
    return FunctionType(function.__code__, known, function.__name__, function.__defaults__)
