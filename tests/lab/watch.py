"""Watching processes of this machine, which include all lab hosts', and files of a lab host: what
texts they show."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self


class _Watch:
    """Looks again and again between enter and exit, in a thread of its own.

    ``seen`` tells where a text was found, without the text itself; ``rounds`` counts the looks.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[str] = []
        self.rounds = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._look()
            self.rounds += 1
            time.sleep(self._pause)

    def _look(self) -> None:
        raise NotImplementedError


class ArgumentWatch(_Watch):
    """Between enter and exit, looks at /proc/*/cmdline again and again for some texts.

    ``seen`` tells where one was found, without the text itself. ``rounds`` counts the looks, and
    ``commands`` the arguments that were new.

    :param host_of: a process of the lab host whose processes alone are watched, and whose
        environments are too; whoever runs the test has the text in theirs.
    """

    def __init__(self, texts: Iterable[str], *, host_of: int | None = None) -> None:
        self._texts = [text.encode() for text in texts]
        self._space = None if host_of is None else os.readlink(f"/proc/{host_of}/ns/pid")
        super().__init__(pause=0.01)
        self.commands = 0
        self._arguments: dict[str, bytes] = {}

    def _look(self) -> None:
        there = [entry for entry in os.listdir("/proc") if entry.isdigit()]
        for pid in there:
            self._read(pid, self._arguments)
        known = self._arguments
        self._arguments = {pid: known[pid] for pid in there if pid in known}

    def _read(self, pid: str, known: dict[str, bytes]) -> None:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read()
            if known.get(pid) == arguments:
                return
            known[pid] = arguments
            environment = b""
            if self._space is not None:
                if os.readlink(f"/proc/{pid}/ns/pid") != self._space:
                    return
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environment = file.read()
        except OSError:
            return
        self.commands += 1
        for where, shown in (("arguments", arguments), ("environment", environment)):
            if any(text in shown for text in self._texts):
                self.seen.append(f"{where} of process {pid}: {arguments[:40]!r}...")


class FileWatch(_Watch):
    """Between enter and exit, looks again and again for a text in small files of a lab host that
    are new or changed, where programs put what they need for a moment.

    ``seen`` tells in which, and ``rounds`` counts the looks.

    :param host_of: a process of the host.
    """

    FOLDERS = ("dev/shm", "etc/vllm-hosts", "home", "root", "run", "tmp", "var/tmp")

    def __init__(self, text: str, host_of: int) -> None:
        self._text = text.encode()
        self._root = Path(f"/proc/{host_of}/root")
        super().__init__(pause=0.02)
        self._known: dict[str, tuple[int, int, int]] = {}

    def __enter__(self) -> Self:
        # What is there already is no news.
        self._look()
        self.seen.clear()
        return super().__enter__()

    def _look(self) -> None:
        for folder in self.FOLDERS:
            for entry in _regular(str(self._root / folder)):
                self._read(entry)

    def _read(self, entry: os.DirEntry[str]) -> None:
        try:
            about = entry.stat(follow_symlinks=False)
            version = (about.st_ino, about.st_mtime_ns, about.st_size)
            if self._known.get(entry.path) == version or about.st_size > 1 << 20:
                return
            self._known[entry.path] = version
            content = Path(entry.path).read_bytes()
        except OSError:
            return
        if self._text in content:
            self.seen.append("/" + str(Path(entry.path).relative_to(self._root)))


def _regular(folder: str) -> Iterator[os.DirEntry[str]]:
    """Regular files below a folder. It may change meanwhile."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _regular(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry
        except OSError:
            continue
