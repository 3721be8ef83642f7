"""Commands of the toolkit as processes of their own that need not import everything first.

Most of a short command's time goes to imports. So one process imports what the commands do and
forks for each: standard streams, folder, environment, exit code and state are the command's own,
as when a shell starts it. That the installed programs are there and start is for tests that start
those.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import IO, Any, NoReturn

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
# For the process that forks, before gevent puts others in their places.
_poll, _pidfd_open, _waitpid = select.poll, os.pidfd_open, os.waitpid
_socket = socket.socket
#: Where the process listens that several pytests share.
_SHARED = "VLLM_HOSTS_TESTS_STARTER"


class Starter:
    """The process that forks, as tests see it. It starts with the first command."""

    def __init__(self) -> None:
        self._process: _Forking | None = None
        self._one_by_one = threading.Lock()

    def run(
        self,
        *commands: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        timeout: float,
        killed: bool = False,
        apart: bool = False,
    ) -> list[subprocess.CompletedProcess[str]]:
        """These commands at once, each with its output and errors in one text, and no input.

        Each is one of the installed programs, a Python script (``*.py``), or any other program.

        :param killed: a command that still runs after that time is killed, and that is no error.
        :param apart: errors are a text of their own.
        """
        with tempfile.TemporaryDirectory() as answers:
            asked = {
                "commands": commands,
                "folder": str(folder),
                "environment": dict(environment),
                "umask": _umask(),
                "timeout": timeout,
                "answers": answers,
                "errors": ".errors" if apart else "",
            }
            with self._one_by_one:
                codes = self._ask(asked)
            done = []
            for number, (words, code) in enumerate(zip(commands, codes, strict=True)):
                said = [_text(answers, f"{number}{end}") for end in ("", ".errors")[: 1 + apart]]
                if code is None and not killed:
                    raise subprocess.TimeoutExpired(words, timeout, *said)
                code = -signal.SIGKILL if code is None else code
                done.append(subprocess.CompletedProcess(list(words), code, *said))
        return done

    def close(self) -> None:
        """It forks no more."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _ask(self, asked: dict[str, Any]) -> list[int | None]:
        self._process = process = self._process or _Forking()
        try:
            process.to.write(json.dumps(asked).encode() + b"\n")
            process.to.flush()
            codes: list[int | None] = json.loads(process.answers.readline())
        except BaseException:
            # Whatever it would answer is nobody's answer any more.
            self.close()
            raise
        return codes


class _Forking:
    """A process of its own, or a fork of the one that several pytests share."""

    def __init__(self) -> None:
        self._own: subprocess.Popen[bytes] | None = None
        if place := os.environ.get(_SHARED):
            self._line = socket.socket(socket.AF_UNIX)
            self._line.connect(place)
            self.to: IO[bytes] = self._line.makefile("wb")
            self.answers: IO[bytes] = self._line.makefile("rb")
            return
        words = [sys.executable, __file__]
        self._own = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._own.stdin is not None and self._own.stdout is not None
        self.to, self.answers = self._own.stdin, self._own.stdout
        atexit.register(self.end)

    def end(self) -> None:
        if self._own is None:
            for one in (self.to, self.answers, self._line):
                with suppress(OSError):
                    one.close()
            return
        self._own.kill()
        # So that its time counts as the tests'.
        self._own.wait()


starter = Starter()


@contextmanager
def shared(place: Path) -> Iterator[None]:
    """One process that forks for this one and those that it forks; it imports meanwhile."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        words = [sys.executable, __file__, str(listener.fileno())]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    assert process.stdin is not None
    os.environ[_SHARED] = str(place)
    try:
        yield
    finally:
        del os.environ[_SHARED]
        process.stdin.close()
        process.wait()


def _text(folder: str, name: str) -> str:
    """Nothing from one that was killed at once: it has not made its file yet."""
    file = Path(folder, name)
    return file.read_text() if file.exists() else ""


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _serve() -> Callable[[], object] | None:
    """Forks for what it is asked, until whoever asks has gone. A fork gets what it has to do."""
    # As for the installed programs, which stand there.
    sys.path[0] = str(BIN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    gc.freeze()
    # Commands end before there is much of it.
    gc.set_threshold(100_000, 20, 50)
    if sys.argv[1:] and not _answer(int(sys.argv[1])):
        return None
    programs: dict[str, Callable[[], object]] = {"pyinfra": pyinfra, "vllm-hosts": vllm_hosts}
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        started = []
        for number, words in enumerate(asked["commands"]):
            pid = _fork()
            if not pid:
                _become(words, asked, number)
                if words[0].endswith(".py"):
                    return partial(_run_script, words[0])
                if words[0] not in programs:
                    os.execvp(words[0], words)
                return programs[words[0]]
            started.append(pid)
        until = time.monotonic() + asked["timeout"]
        codes = [_code(pid, until) for pid in started]
        os.write(1, json.dumps(codes).encode() + b"\n")
    return None


def _answer(listening: int) -> bool:
    """A fork for each pytest that connects, with that as its input and output; False: all have
    gone."""
    any_ready = _poll()
    for descriptor in (0, listening):
        any_ready.register(descriptor)
    while 0 not in [ready for ready, _ in any_ready.poll()]:
        with _socket(fileno=os.dup(listening)) as listener:
            connection, _ = listener.accept()
            if not _fork():
                os.close(listening)
                # It has become a socket of gevent's.
                os.set_blocking(connection.fileno(), True)
                for descriptor in (0, 1):
                    os.dup2(connection.fileno(), descriptor)
                connection.close()
                return True
            connection.close()
    with suppress(ChildProcessError):
        while _waitpid(-1, 0):
            pass
    return False


def _fork() -> int:
    from gevent import get_hub
    from gevent.os import fork_gevent

    pid: int = fork_gevent()
    if not pid:
        # Whose clock stands where it stood when something waited last: minutes ago, perhaps, and
        # every wait with an end would end at once.
        get_hub().loop.update_now()
    return pid


def _become(words: list[str], asked: dict[str, Any], number: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDONLY)
    out = _appended(asked["answers"], str(number))
    errors = _appended(asked["answers"], f"{number}{asked['errors']}")
    for here, there in ((null, 0), (out, 1), (errors, 2)):
        os.dup2(here, there)
        os.close(here)
    os.chdir(asked["folder"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = [str(BIN / words[0]), *words[1:]]


def _appended(folder: str, name: str) -> int:
    return os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


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


def _code(pid: int, until: float) -> int | None:
    """How it ended; nothing if it had to be ended."""
    ended = _poll()
    handle = _pidfd_open(pid)
    ended.register(handle, select.POLLIN)
    late = not ended.poll(max(0.0, until - time.monotonic()) * 1000)
    if late:
        os.kill(pid, signal.SIGKILL)
    os.close(handle)
    _, status = _waitpid(pid, 0)
    return None if late else os.waitstatus_to_exitcode(status)


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
    _do = _serve()
    if _do is not None:
        _end_quickly(_do)
