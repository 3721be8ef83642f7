"""Ctrl-C where a command waits."""

from __future__ import annotations

import subprocess
import sys

_WAITS = """
import os, signal, threading, time
import pyinfra_cli
from vllm_hosts.connect import connections
import gevent
gevent.get_hub().loop.timer(0.2).start(os.kill, os.getpid(), signal.SIGINT)
try:
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_nothing_is_printed_about_where_the_program_was() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WAITS], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
