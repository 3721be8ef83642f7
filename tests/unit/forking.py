"""The process that has imported what commands of the toolkit do, and forks for each of them.

It is a program of its own, with the number of a socket on which it listens; its callers and what
they send stand in started.py. Whoever connects gets a fork that starts commands for it.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import marshal
import os
import runpy
import select
import signal
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import Any, NoReturn

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
# Before gevent puts others in their places: its close() waits for its loop.
_close, _poll, _pidfd_open, _waitpid = os.close, select.poll, os.pidfd_open, os.waitpid
_socket = socket.socket
#: The length of what is asked comes first, in this many digits, and with it the open files: the
#: kernel passes no more of them at once.
_DIGITS, _FILES = 8, 253
_Do = Callable[[], object]


def serve(listening: int) -> _Do | None:
    """Forks until standard input ends. A fork gets what it has to do."""
    # As for the installed programs, which stand there.
    sys.path[0] = str(BIN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    programs = _import_all()
    gc.freeze()
    # Commands end before there is much of it.
    gc.set_threshold(100_000, 20, 50)
    any_ready = _poll()
    for descriptor in (0, listening):
        any_ready.register(descriptor)
    while 0 not in [ready for ready, _ in any_ready.poll()]:
        with _socket(fileno=os.dup(listening)) as listener:
            # accept() would make it a socket of gevent's.
            connection, _ = listener._accept()  # type: ignore[attr-defined]
        with _socket(fileno=connection) as line:
            if not _fork():
                _close(listening)
                return _commands(line, programs)
    with suppress(ChildProcessError):
        while _waitpid(-1, 0):
            pass
    return None


def _import_all() -> dict[str, _Do]:
    """The installed programs, each with all that it may come to need."""
    from pyinfra_cli.main import main as pyinfra

    from vllm_hosts.cli import verify
    from vllm_hosts.cli.main import main as vllm_hosts

    for name in vllm_hosts.commands:
        assert vllm_hosts.commands[name]
    # The suite's pytest is a fork too; only behind gevent.
    import_module("testinfra.plugin")
    from pyinfra.api.connectors import get_all_connectors

    from vllm_hosts.connect import pyinfra_speed

    sys.path.insert(0, str(ROOT))
    import_module("tests.unit.spawning").install()
    del sys.path[0]
    # Which connectors are installed is known to all forks then.
    pyinfra_speed.install()
    get_all_connectors()
    # What they would import as soon as they run or ask for something.
    for module in ("gevent.fileobject", "gevent.resolver.thread", "encodings.idna", "anyio.abc"):
        import_module(module)
    for found in iter_modules(import_module("vllm_hosts.roles").__path__):
        import_module(f"vllm_hosts.roles.{found.name}")
    vars(verify)["subprocess"] = SimpleNamespace(run=_run_suite)
    return {"pyinfra": pyinfra, "vllm-hosts": vllm_hosts}


def _commands(line: socket.socket, programs: dict[str, _Do]) -> _Do | None:
    """Starts what it is asked for, until whoever asks has gone: all commands of a request at once.

    The answer is a line with their processes, and when they have ended one with their codes.
    """
    while (request := _next(line)) is not None:
        asked, files = request
        pids = []
        for number, words in enumerate(asked["commands"]):
            pid = _fork()
            if not pid:
                line.close()
                _become(words, asked, files, number)
                if words[0].endswith(".py"):
                    return partial(_run_script, words[0])
                if words[0] not in programs:
                    os.execvp(words[0], words)
                return programs[words[0]]
            pids.append(pid)
        for file in files:
            _close(file)
        with suppress(BrokenPipeError):
            line.sendall(json.dumps(pids).encode() + b"\n")
        timeout = asked["timeout"]
        until = None if timeout is None else time.monotonic() + timeout
        codes = [_code(pid, until, line) for pid in pids]
        with suppress(BrokenPipeError):
            line.sendall(json.dumps(codes).encode() + b"\n")
    return None


def _next(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """What is asked, and the open files that came with it: three for each command."""
    head, files, _, _ = socket.recv_fds(line, _DIGITS, _FILES, socket.MSG_WAITALL)
    if not head:
        return None
    return marshal.loads(line.recv(int(head, 16), socket.MSG_WAITALL)), files


def _fork() -> int:
    from gevent import get_hub
    from gevent.os import fork_gevent

    pid: int = fork_gevent()
    if not pid:
        # Whose clock stands where it stood when something waited last: minutes ago, perhaps, and
        # every wait with an end would end at once.
        get_hub().loop.update_now()
    return pid


def _become(words: list[str], asked: dict[str, Any], files: list[int], number: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # With nohup it has been ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for stream in (0, 1, 2):
        os.dup2(files[3 * number + stream], stream)
    for file in files:
        _close(file)
    if asked["terminal"]:
        # The controlling one: Ctrl-C is a signal until it says otherwise.
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # What it says it flushes itself, but at a terminal.
    for opened, buffered in ((sys.stdout, not os.isatty(1)), (sys.stderr, False)):
        assert isinstance(opened, TextIOWrapper)
        opened.reconfigure(line_buffering=not buffered)
    os.chdir(asked["folder"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = [str(BIN / words[0]), *words[1:]]


def _code(pid: int, until: float | None, line: socket.socket) -> int | None:
    """How it ended; nothing if it had to be ended: it was late, or nobody waits for it any more."""
    ended = _poll()
    handle = _pidfd_open(pid)
    ended.register(handle, select.POLLIN)
    # Without events it is the end of the line only.
    ended.register(line.fileno(), 0)
    left = None if until is None else max(0.0, until - time.monotonic()) * 1000
    late = handle not in [ready for ready, _ in ended.poll(left)]
    if late:
        os.kill(pid, signal.SIGKILL)
    _close(handle)
    _, status = _waitpid(pid, 0)
    return None if late else os.waitstatus_to_exitcode(status)


def _run_script(path: str) -> None:
    """As Python does with a script: what stands beside it can be imported."""
    sys.argv[0], sys.path[0] = path, str(Path(path).resolve().parent)
    runpy.run_path(path, run_name="__main__")


def _run_suite(words: list[str], check: bool) -> SimpleNamespace:
    """``python -P -m pytest``, of a command that is a fork."""
    import pytest

    assert words[:4] == [sys.executable, "-P", "-m", "pytest"] and not check, words
    if not (pid := _fork()):
        sys.argv = ["pytest", *words[4:]]
        # Asserts of what is imported already are not the suite's.
        quiet = "-Wignore::pytest.PytestAssertRewriteWarning"
        _end_quickly(lambda: int(pytest.main([*words[4:], quiet])))
    return SimpleNamespace(returncode=os.waitstatus_to_exitcode(_waitpid(pid, 0)[1]))


def _end_quickly(do: Callable[[], object]) -> NoReturn:
    """As ``sys.exit(do())``, but nothing is taken apart: that would copy all that was imported."""
    code: object = 0
    try:
        code = do()
    except SystemExit as end_of_it:
        code = end_of_it.code
    end(code)


def end(code: object) -> NoReturn:
    """As ``sys.exit`` in a fork."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _do = serve(int(sys.argv[1]))
    if _do is not None:
        _end_quickly(_do)
