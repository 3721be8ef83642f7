"""The program that fetches models as a fork of a process that has imported the hub's client.

Most of its time goes to that import. What the client takes from the environment then, it takes
again: that is ``huggingface_hub.constants``.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module, reload
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROGRAM = Path(__file__).resolve().parents[2] / "vllm_hosts" / "hub" / "fetch.py"


def run(
    *words: str, environment: Mapping[str, str], text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The program, or another text of Python, with these words."""
    process = _forking()
    assert process.stdin is not None and process.stdout is not None
    with TemporaryDirectory() as folder:
        asked = {
            "words": ["-", *words],
            "environment": dict(environment),
            "folder": folder,
            "text": text,
        }
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        said = [Path(folder, name).read_text() for name in ("1", "2")]
    return subprocess.CompletedProcess(list(words), code, *said)


@cache
def _forking() -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.unit.hub_program"]
    root = PROGRAM.parents[2]
    process = subprocess.Popen(
        words,
        cwd=root,
        # The one thing that its constants are not asked for again.
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    """So that its time counts as the tests'."""
    process.kill()
    process.wait()


def _serve() -> None:
    import_module("vllm_hosts.hub.fetch")
    constants = import_module("huggingface_hub.constants")
    program = compile(PROGRAM.read_text(), "<stdin>", "exec")
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if pid := os.fork():
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        for stream in (1, 2):
            file = os.open(Path(asked["folder"], str(stream)), os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(file, stream)
        os.environ.clear()
        os.environ.update(asked["environment"])
        reload(constants)
        sys.argv = asked["words"]
        code = program if asked["text"] is None else compile(asked["text"], "<text>", "exec")
        exec(code, {"__name__": "__main__"})
        return


if __name__ == "__main__":
    _serve()
