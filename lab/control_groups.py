"""A control group for each lab host.

systemd in a host takes the group that it is started in for all there is. Two hosts in the same one
would remove each other's, and find processes of the other's services in their own.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from shlex import quote

#: Below the hierarchy's root, for all labs of this machine.
_NAME = "vllm-hosts-lab"


def script(machine: str) -> str:
    """Shell: the process that runs this, and what it starts, belong to a machine's groups."""
    places = " ".join(quote(str(folder)) for folder in _folders(machine))
    return f"for at in {places}; do mkdir -p $at && echo $$ >$at/cgroup.procs || exit; done; "


def remove(machine: str) -> None:
    """Remove a machine's groups, once its processes are gone: the kernel may need a moment."""
    until = time.monotonic() + 2
    for folder in _folders(machine):
        while folder.exists() and not _removed(folder) and time.monotonic() < until:
            time.sleep(0.05)


def _removed(folder: Path) -> bool:
    with suppress(OSError):
        for below in sorted(folder.rglob("*/"), key=lambda path: -len(path.parts)):
            below.rmdir()
        folder.rmdir()
        return True
    return False


def _folders(machine: str) -> list[Path]:
    """In the hierarchies by which systemd knows its services: version 2, and its own of version 1
    where a machine has both."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, at, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(at, _NAME, machine))
    return found
