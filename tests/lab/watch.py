"""Watching the arguments of every process on this machine, which includes all lab hosts'."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from types import TracebackType


class ArgumentWatch:
    """Between enter and exit, looks at /proc/*/cmdline again and again for some texts.

    ``seen`` tells where one was found, without the text itself. ``rounds`` counts the looks.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = [text.encode() for text in texts]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[str] = []
        self.rounds = 0

    def __enter__(self) -> ArgumentWatch:
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
        known: dict[str, bytes] = {}
        while not self._stop.is_set():
            self.rounds += 1
            there = [entry for entry in os.listdir("/proc") if entry.isdigit()]
            for pid in there:
                self._look(pid, known)
            known = {pid: known[pid] for pid in there if pid in known}
            time.sleep(0.01)

    def _look(self, pid: str, known: dict[str, bytes]) -> None:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read()
        except OSError:
            return
        if known.get(pid) == arguments:
            return
        known[pid] = arguments
        if any(text in arguments for text in self._texts):
            self.seen.append(f"process {pid}: {arguments[:40]!r}...")
