"""Many rehearsals for the price of one import: a fork of this process answers for each.

Runs in vLLM's image and imports nothing of ours: ``python3 forks.py SCRIPT CASES FOLDER``. A line
of CASES is JSON: name, words, env, request. FOLDER gets an answer for each, and what it printed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path

#: What every rehearsal imports. The rest is each model's own.
_COMMON = (
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.launchers.launcher",
    "vllm.engine.arg_utils",
    "vllm.v1.engine.core",
    "vllm.v1.worker.gpu_model_runner",
    "vllm.model_executor.model_loader.base_loader",
)


#: SIOCSIFFLAGS with IFF_UP: linux/sockios.h, linux/if.h.
_SET_FLAGS, _UP = 0x8914, 0x1


def loopback() -> None:
    """A network namespace of its own begins without one, and gloo speaks to itself over it."""
    with socket.socket() as any_socket, contextlib.suppress(OSError):
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


def main(script: str, cases: str, folder: str) -> None:
    """Answer all cases that have no answer yet."""
    loopback()
    code = compile(Path(script).read_text(), script, "exec")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    for name in _COMMON:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in Path(cases).read_text().splitlines():
        case = json.loads(line)
        target = Path(folder) / f"{case['name']}.json"
        if target.exists():
            continue
        began = time.monotonic()
        end, start = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(start, 1)
            noise = Path(folder) / f"{case['name']}.err"
            os.dup2(os.open(noise, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            os.environ.update(case.get("env", {}))
            mark = {"mark": "@@", "seconds": 300, **case["request"]}
            sys.argv = ["-", json.dumps(mark), *case["words"]]
            exec(code, {"__name__": "__main__"})
        os.close(start)
        with os.fdopen(end) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        if text.count("@@") == 2:
            target.write_text(text.split("@@")[1])
        print(f"{case['name']}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
