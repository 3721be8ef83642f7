"""Commands of the toolkit as processes of their own that need not import everything first.

Most of a short command's time goes to imports. So one process imports what the commands do and
forks for each (forking.py): standard streams, folder, environment, terminal, exit code and state
are the command's own, as when a shell starts it. That the installed programs are there and start
is for tests that start those.
"""

from __future__ import annotations

import atexit
import json
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import gevent
from gevent.fileobject import FileObjectPosix

from tests.unit.forking import BIN

__all__ = ["BIN", "Begun", "Starter", "programs", "shared", "starter"]

_FORKING = Path(__file__).with_name("forking.py")
#: Where the process listens that several pytests share.
_SHARED = "VLLM_HOSTS_TESTS_STARTER"
#: Stands in for an installed program in shell scripts.
_PROGRAM = """#!{python} -IS
import _socket, marshal, os, sys
umask = os.umask(0o077)
asked = marshal.dumps({{
    "commands": [[os.path.basename(sys.argv[0]), *sys.argv[1:]]], "folder": os.getcwd(),
    "environment": dict(os.environ), "umask": umask, "timeout": None, "terminal": False,
}})
files = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
line = _socket.socket(_socket.AF_UNIX)
line.connect({place!r})
line.sendmsg([b"%08x" % len(asked)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
line.sendall(asked)
answers = b""
while answers.count(b"\\n") < 2:
    answers += line.recv(100) or sys.exit("nothing forks any more")
code = int(answers.split()[1].strip(b"[]"))
os._exit(code if code >= 0 else 128 - code)
"""


class Starter:
    """The process that forks, as tests see it. It starts with the first command."""

    def __init__(self) -> None:
        self._process: _Forking | None = None
        self._line: _Line | None = None
        self._one_by_one = threading.Lock()

    def run(
        self,
        *commands: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        timeout: float,
        killed: bool = False,
        apart: bool = False,
        typed: str = "",
    ) -> list[subprocess.CompletedProcess[str]]:
        """These commands at once, each with its output and errors in one text.

        Each is one of the installed programs, a Python script (``*.py``), or any other program.

        :param killed: a command that still runs after that time is killed, and that is no error.
        :param apart: errors are a text of their own.
        :param typed: what each reads.
        """
        done, streams = [], []
        with ExitStack() as files:
            for _ in commands:
                given, *said = (
                    files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2 + apart)
                )
                given.write(typed)
                given.seek(0)
                streams.append([given, said[0], said[-1]])
            with self._one_by_one:
                codes = self._ask(commands, folder, environment, streams, timeout)
            for words, code, (_, *said) in zip(commands, codes, streams, strict=True):
                texts = [_text(file) for file in said[: 1 + apart]]
                if code is None and not killed:
                    raise subprocess.TimeoutExpired(words, timeout, *texts)
                code = -signal.SIGKILL if code is None else code
                done.append(subprocess.CompletedProcess(list(words), code, *texts))
        return done

    def begin(
        self,
        *words: str,
        folder: Path,
        environment: Mapping[str, str],
        terminal: int | None = None,
        apart: bool = False,
    ) -> Begun:
        """One that goes on meanwhile: without input, or with this terminal as its own.

        :param apart: errors are not among its output, but this process's.
        """
        line = _Line(self._place())
        if terminal is not None:
            line.send([words], folder, environment, [terminal] * 3, terminal=True)
            return Begun(words, line, None)
        null, (reads, writes) = os.open(os.devnull, os.O_RDONLY), os.pipe()
        line.send([words], folder, environment, [null, writes, 2 if apart else writes])
        os.close(null)
        os.close(writes)
        return Begun(words, line, FileObjectPosix(reads, "r"))

    def close(self) -> None:
        """It forks no more."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            self._process.end()
            self._process = None

    def _place(self) -> str:
        if place := os.environ.get(_SHARED):
            return place
        if self._process is None:
            self._process = _Forking()
            atexit.register(self.close)
        return self._process.place

    def _ask(
        self,
        commands: Sequence[Sequence[str]],
        folder: Path,
        environment: Mapping[str, str],
        streams: Sequence[Sequence[IO[str]]],
        timeout: float,
    ) -> list[int | None]:
        self._line = self._line or _Line(self._place())
        files = [file.fileno() for three in streams for file in three]
        try:
            self._line.send(commands, folder, environment, files, timeout)
            self._line.answer()
            codes: list[int | None] = self._line.answer()
        except BaseException:
            # Whatever it would answer is nobody's answer any more.
            self._line.close()
            self._line = None
            raise
        return codes


class _Line:
    """To a fork that starts commands: what it is asked, and what it answers."""

    def __init__(self, place: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(place)
        self._answers = self._socket.makefile("rb")

    def send(
        self,
        commands: Sequence[Sequence[str]],
        folder: Path,
        environment: Mapping[str, str],
        files: Sequence[int],
        timeout: float | None = None,
        *,
        terminal: bool = False,
    ) -> None:
        asked = {
            "commands": [[*words] for words in commands],
            "folder": str(folder),
            "environment": dict(environment),
            "umask": _umask(),
            "timeout": timeout,
            "terminal": terminal,
        }
        data = marshal.dumps(asked)
        socket.send_fds(self._socket, [b"%08x" % len(data)], files)
        self._socket.sendall(data)

    def answer(self) -> Any:
        return json.loads(self._answers.readline())

    def ready(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


class Begun:
    """A command that runs, with what tests need of ``subprocess.Popen``."""

    def __init__(self, words: Sequence[str], line: _Line, output: IO[str] | None) -> None:
        self.args, self.stdout = words, output
        self._line = line
        [self.pid] = line.answer()
        self.returncode: int | None = None

    def __enter__(self) -> Begun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
        self.wait()
        if self.stdout is not None:
            self.stdout.close()

    def poll(self) -> int | None:
        return self.wait() if self.returncode is None and self._line.ready() else self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with gevent.Timeout(timeout, subprocess.TimeoutExpired(self.args, timeout or 0)):
                [self.returncode] = self._line.answer()
            self._line.close()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """The rest of its output and errors, in one text."""
        assert self.stdout is not None
        with gevent.Timeout(timeout, subprocess.TimeoutExpired(self.args, timeout or 0)):
            text = self.stdout.read()
            self.wait()
        return text, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Forking:
    """A process of this one's own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.place = str(Path(self._folder.name, "starter"))
        self._process = _listening(self.place)

    def end(self) -> None:
        """Its time counts as the tests'."""
        _ended(self._process)
        self._folder.cleanup()


starter = Starter()


@contextmanager
def shared(place: Path) -> Iterator[None]:
    """One process that forks for this one and those that it forks; it imports meanwhile."""
    process = _listening(str(place))
    before = os.environ.get(_SHARED)
    os.environ[_SHARED] = str(place)
    try:
        yield
    finally:
        del os.environ[_SHARED]
        if before is not None:
            os.environ[_SHARED] = before
        _ended(process)


def programs(folder: Path) -> Path:
    """A folder for PATH, with programs in the places of the installed ones that start quickly."""
    folder.mkdir(exist_ok=True)
    text = _PROGRAM.format(python=sys.executable, place=starter._place())
    for name in ("vllm-hosts", "pyinfra"):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def _listening(place: str) -> subprocess.Popen[bytes]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        words = [sys.executable, str(_FORKING), str(listener.fileno())]
        return subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])


def _ended(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
