"""Long-lived processes of the lab: started once, recognised again, stopped for good."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.layout import STATE

_RUN = STATE / "run"
LOGS = STATE / "log"


def start(name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
    """Start a process that outlives this one; its output goes to ``STATE/log/NAME.log``.

    :return: its process id; that of the running one if it runs already.
    """
    if (running := alive(name)) is not None:
        return running
    _RUN.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
            cwd="/",
            start_new_session=True,
        )
    record = {"pid": process.pid, "born": _born(process.pid)}
    (_RUN / f"{name}.json").write_text(json.dumps(record))
    return process.pid


def alive(name: str) -> int | None:
    """The process id, if the process that was started under this name still runs.

    A number that was given to another process since then does not count.
    """
    try:
        record = json.loads((_RUN / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    pid = int(record["pid"])
    return pid if record["born"] is not None and _born(pid) == record["born"] else None


def stop(name: str, patience: float = 10.0) -> None:
    """End a process and what it started; nothing happens if it does not run."""
    if (pid := alive(name)) is not None:
        terminate(pid, patience)
    (_RUN / f"{name}.json").unlink(missing_ok=True)


def terminate(pid: int, patience: float = 10.0) -> None:
    """SIGTERM to the process group, and SIGKILL after ``patience`` seconds."""
    born = _born(pid)
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            _reap(pid)
            if _born(pid) is None or _born(pid) != born:
                return
            time.sleep(0.05)


def command_lines() -> dict[int, list[str]]:
    """Arguments of every process on this machine, by process id."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found[int(entry)] = [word.decode(errors="replace") for word in words if word]
    return found


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _born(pid: int) -> int | None:
    """Start time in clock ticks since boot (proc(5), field 22); None: gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
