"""Lab tests in two labs beside each other: ``python -m tests.lab.in_lanes -m "not nightly"``.

In one, where there is not enough memory for two.

Tests of a lab wait for most of their time, and all of them use the same two hosts. A second lab has
hosts, addresses and a bridge of its own; a pytest in each takes the next file that nobody has. The
second one works in a copy of this checkout, as a second operator would: keys and locks of an
inventory are beside it. Its hosts begin with the agents' image, if an earlier run has kept that.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Thread
from typing import IO

from tests.together import together

#: Set where hosts begin with the agents' image: a first deploy that pulls is another lane's.
WITH_IMAGE = "LANES_WITH_IMAGE"
ROOT = Path(__file__).resolve().parents[2]
LABS = 2
#: Bytes of memory that each takes: three agents with 2.1 GB, hosts, and files that are read often.
_OF_A_LAB = 10_000_000_000
#: Seconds for a lane to take its hosts down once it is told to end.
_PATIENCE = 60
#: What a checkout has and a copy of it does not need.
_NOT_COPIED = (".venv", ".vllm-hosts", "__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis")


def main(options: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="vllm-hosts-lanes-") as folder:
        taken = Path(folder, "taken")
        taken.mkdir()
        first = int(os.environ.get("VLLM_HOSTS_LAB_NUMBER", "0"))
        lanes = [
            _Lane(first + lane, taken, _checkout(lane, folder), options, with_image=lane > 0)
            for lane in range(max(1, min(LABS, _available() // _OF_A_LAB)))
        ]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            codes = [lane.wait() for lane in lanes]
        finally:
            for lane in lanes:
                lane.interrupt()
            for lane in lanes:
                lane.end()
    print(together([lane.last_line for lane in lanes]))
    return max(abs(code) for code in codes)


def _available() -> int:
    """Bytes of memory that are not used."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, size = line.partition(":")
        if name == "MemAvailable":
            return int(size.split()[0]) * 1024
    return 0


def _checkout(lane: int, folder: str) -> Path:
    if lane == 0:
        return ROOT
    copy = Path(folder, f"checkout-{lane}")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


class _Lane:
    """A pytest, whose lines are printed with its number in front."""

    def __init__(
        self, number: int, taken: Path, checkout: Path, options: list[str], with_image: bool
    ) -> None:
        self.last_line = ""
        self._env = os.environ | {
            "LANES_TAKEN": str(taken),
            "VLLM_HOSTS_LAB_NUMBER": str(number),
            **({WITH_IMAGE: "1"} if with_image else {}),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "tests.lab.lane", "tests/lab", *options],
            cwd=checkout,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert self._process.stdout is not None
        self._reader = Thread(target=self._tell, args=(number, self._process.stdout), daemon=True)
        self._reader.start()

    def _tell(self, number: int, output: IO[str]) -> None:
        for line in output:
            self.last_line = line.strip() or self.last_line
            print(f"{number} | {line}", end="", flush=True)

    def wait(self) -> int:
        code = self._process.wait()
        self._reader.join()
        return code

    def interrupt(self) -> None:
        """As Ctrl-C would; nothing happens if it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Leave nothing of it behind."""
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            subprocess.run([sys.executable, "-m", "lab", "down"], env=self._env, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
