"""A program in a terminal of its own, as a person at a keyboard has it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
#: What a terminal is told to switch to the other screen and back, and to hide the cursor and back.
OTHER_SCREEN, FIRST_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
HIDDEN_CURSOR, CURSOR = "\x1b[?25l", "\x1b[?25h"


class Process(Protocol):
    """What is asked of a program that runs."""

    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


#: Words, folder, environment, and the terminal that becomes the controlling one.
Begin = Callable[[list[str], Path, Mapping[str, str], int], Process]


def _begin(argv: list[str], cwd: Path, environment: Mapping[str, str], terminal: int) -> Process:
    return subprocess.Popen(
        # Ctrl-C is a signal until it says otherwise. A test that runs in the background has been
        # told to ignore it.
        ["env", "--default-signal=INT", "setsid", "--ctty", *argv],
        cwd=cwd,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )


class Terminal:
    """Between enter and exit, a program with a terminal of 80 columns and 24 lines."""

    def __init__(
        self,
        argv: list[str],
        cwd: Path,
        environment: Mapping[str, str],
        begin: Begin = _begin,
    ) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.modes = termios.tcgetattr(self._slave)
        self.output = ""
        without = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")}
        self.process = begin(argv, cwd, {**without, "TERM": "xterm-256color"}, self._slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    @property
    def text(self) -> str:
        """Everything printed so far, without colours and movements."""
        return _ESCAPES.sub("", self.output)

    def wait_for(self, text: str, times: int = 1, timeout: float = 30) -> None:
        """Read until this text was printed, so many times since the start."""
        deadline = time.monotonic() + timeout
        while self.text.count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.text[-3000:]!r}"
            self._read(0.2)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait(self, timeout: float = 20) -> int:
        """Read until the program ends; its exit code."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.text[-2000:]!r}"
            self._read(0.1)
        self._read(0.1)
        assert self.process.returncode is not None
        return self.process.returncode

    def assert_restored(self) -> None:
        """Modes, screen and cursor are as they were."""
        assert termios.tcgetattr(self._slave) == self.modes
        assert self.output.count(OTHER_SCREEN) == self.output.count(FIRST_SCREEN) == 1
        assert self.output.rindex(FIRST_SCREEN) > self.output.rindex(OTHER_SCREEN)
        assert self.output.rindex(CURSOR) > self.output.rindex(HIDDEN_CURSOR)

    def _read(self, seconds: float) -> None:
        ready, _, _ = select.select([self._master], [], [], seconds)
        if ready:
            self.output += os.read(self._master, 65536).decode(errors="replace")
