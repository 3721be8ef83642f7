"""This machine in the place of a host, for what the hosts suite runs there."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from vllm_hosts.errors import HostError


@dataclass(frozen=True)
class Ended:
    rc: int
    stdout: str
    stderr: str


class Here:
    """Runs commands as testinfra's host does, with some programs of a folder in front."""

    def __init__(self, programs: Path) -> None:
        self._path = f"{programs}:{os.environ['PATH']}"
        self._programs = programs

    def program(self, name: str, script: str) -> None:
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, command: str, *words: str) -> Ended:
        # As testinfra puts words into a command.
        script = command % tuple(map(quote, words)) if words else command
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": self._path},
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def check_output(self, command: str, *words: str) -> str:
        done = self.run(command, *words)
        if done.rc:
            raise HostError(f"exit code {done.rc}: {done.stderr}")
        return done.stdout.rstrip("\r\n")
