"""Running the toolkit's own commands as a user would, and reading what they did."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import layout
from lab.settings import AGENTS

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
INVENTORY = "inventory/lab.py"
#: Two agents with the same model and name: each can answer for the other.
_SAME = {"model": layout.MODEL_FOLDER, "revision": None, "served_model_name": "twin"}
TWINS = [agent | _SAME for agent in AGENTS]
_NOTHING = re.compile(r"No changes| \| .*(\s+(\d+|-)){4}\s*$")
_STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Run:
    """One finished command: exit code, everything it printed (without colours), seconds."""

    code: int
    output: str
    seconds: float

    @property
    def told(self) -> str:
        """All but the lines of operations that did nothing, and the table at the end."""
        lines = self.output.splitlines()
        return "\n".join(one for one in lines if not _NOTHING.search(one))

    def of_host(self, name: str) -> str:
        """The lines about one host."""
        return "\n".join(line for line in self.output.splitlines() if f"[{name}]" in line)


def command(
    *words: str,
    settings: dict[str, Any] | None = None,
    timeout: float = 1500,
    brief: bool = False,
) -> Run:
    """Run one of the toolkit's commands in the project's folder.

    :param brief: a deploy prints what users see; else all that pyinfra prints of each operation.
    :param settings: replaces the lab's group data of the same names, for this run.
    """
    environment = os.environ | {"PYINFRA_PROGRESS": "off", "PYTHONUNBUFFERED": "1"}
    if settings is not None:
        environment["LAB_SETTINGS"] = json.dumps(settings)
    program, *options = words
    if (
        program == "pyinfra"
        and not brief
        and not any(word.startswith(("-v", "--dry")) for word in options)
    ):
        options.insert(0, "-v")
    started = time.monotonic()
    done = subprocess.run(
        [str(BIN / program), *options],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    )
    output = _STYLE.sub("", done.stdout)
    return Run(done.returncode, output, time.monotonic() - started)


def deploy(*options: str, settings: dict[str, Any] | None = None) -> Run:
    """The main job on the lab's hosts, without questions."""
    return command("pyinfra", "-y", *options, INVENTORY, "deploy.py", settings=settings)


def changes(run: Run) -> dict[str, int]:
    """Operations that changed something, by host, from the lines that pyinfra prints of each."""
    counts: dict[str, int] = {}
    for match in re.finditer(
        r"^\s*\[(?P<host>[@\w.-]+)\]\s+(?P<what>Success|No changes)", run.output, re.M
    ):
        counts.setdefault(match["host"], 0)
        counts[match["host"]] += match["what"] == "Success"
    return counts
