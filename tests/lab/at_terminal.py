"""Somebody at a terminal of a lab host, who types one answer when asked."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time

from lab import hosts as lab_hosts
from lab import layout
from tests.lab.deploys import Run

_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def at_terminal(
    host: str, user: str, command: str, *, asked: str, answer: str, timeout: float = 1500
) -> tuple[Run, int]:
    """Run a shell command over SSH with a terminal.

    :param asked: words of the question that ``answer`` is typed at.
    :returns: how it ended, and how often it was asked.
    """
    address = str(lab_hosts.host(host).ipv4)
    ours, theirs = pty.openpty()
    started = time.monotonic()
    process = subprocess.Popen(
        ["ssh", "-tt", "-F", "none", "-i", str(layout.SSH_KEY), "-o", "LogLevel=ERROR"]
        + ["-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no"]
        + [f"{user}@{address}", command],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    output, times = "", 0
    try:
        while time.monotonic() < started + timeout:
            if select.select([ours], [], [], 1)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # the last one who had the terminal open is gone
                    break
                output += data.decode(errors="replace")
                if output.count(asked) > times:
                    times += 1
                    os.write(ours, f"{answer}\n".encode())
        code = process.wait(timeout=10)
    finally:
        process.kill()
        os.close(ours)
    text = _STYLE.sub("", output).replace("\r", "")
    return Run(code, text, time.monotonic() - started), times
