"""A host for the command line's own tests: this machine, with programs that answer from files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.unit.projects import AGENT, Project, own_lock
from vllm_hosts.host.sockets import Socket
from vllm_hosts.host.sockets import read as read_sockets

#: Stands in for docker: answers from a folder of files, and writes down what it was asked to do.
_DOCKER = r"""#!/bin/sh
here=$(dirname "$0")/..
case "$1 $2 $3" in
    # Of a service's containers, those with a passing name.
    "ps --all --quiet")
        agent=two
        case "$*" in *'service=one --filter name=^/?[0-9a-f]{12}_') agent=one ;; esac
        cat "$here/$agent.half" 2>/dev/null; exit 0 ;;
esac
case "$1 $2" in
    "ps --all") cat "$here/names" ;;
    "ps --format") cat "$here/names" ;;
    "container inspect")
        if [ -e "$here/broken" ]; then cat "$here/broken" >&2; exit 1; fi
        for name in "$@"; do [ ! -e "$here/$name.json" ] || cat "$here/$name.json"; done ;;
    "inspect --format")
        shift 3
        for name in "$@"; do
            cat "$here/$name.state" || exit 1
            # How it is at the next look.
            [ ! -e "$here/$name.then" ] || {
                sed "s/.*\"state\":\"\([a-z]*\)\",\"health\":\"\([a-z]*\)\".*/seen $name \1 \2/" \
                    "$here/$name.state" >>"$here/asked"
                mv "$here/$name.then" "$here/$name.state"; }
        done ;;
    "logs "*) for name in "$@"; do :; done; echo "$*" >>"$here/asked"; cat "$here/$name.log" ;;
    "stats "*) cat "$here/stats" ;;
    "compose "*)
        echo "$*" >>"$here/asked"
        for name in "$@"; do :; done
        if [ -e "$here/$name.fails" ]; then cat "$here/$name.fails" >&2; exit 1; fi
        [ ! -e "$here/$name.after" ] || mv "$here/$name.after" "$here/$name.state" ;;
    *) echo "unknown: $*" >&2; exit 64 ;;
esac
"""


def inspected(
    name: str, state: str = "running", health: str | None = "healthy", restarts: int = 2
) -> dict[str, Any]:
    """What ``docker container inspect`` says of an agent, with the fields that are asked for."""
    running = state == "running"
    return {
        "name": f"/{name}",
        "id": "f" * 64,
        "state": state,
        "health": health,
        "started": "2026-11-25T07:01:02.123456789Z",
        "finished": "0001-01-01T00:00:00Z" if running else "2026-11-25T08:00:00.5Z",
        "exit_code": 0 if running else 137,
        "oom_killed": False,
        "error": "",
        "restarts": restarts,
        "image": "vllm/vllm-openai:v0.33.0",
        "image_id": f"sha256:{'a' * 64}",
        "command": ["org/model", "--served-model-name", name],
        "project": "vllm",
        "service": name,
        "hash": "abc",
    }


def inspect_line(
    name: str, state: str = "running", health: str | None = "healthy", **more: Any
) -> str:
    """The same as Docker prints it."""
    restarts = more.pop("restarts", 0)
    return json.dumps(inspected(name, state, health, restarts) | more, separators=(",", ":"))


def listening(where: str, users: str = "", protocol: str = "tcp", user: str = "") -> Socket:
    """A socket, from a line of ``ss`` about it."""
    [one] = read_sockets([f"{protocol} LISTEN 0 128 {where} 0.0.0.0:* {users} ino:9 sk:1"])
    return replace(one, user=user)


def docker(folder: Path, script: str) -> dict[str, str]:
    """An environment in which docker is this script."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/docker").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}


@dataclass
class LocalHost:
    """This machine as the host ``@local`` of a project, with two healthy agents."""

    project: Project
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> LocalHost:
        (folder / "project").mkdir()
        project = Project(folder / "project")
        two = dict(AGENT, name="two", port=8002, gpus=[1])
        project.write(
            "inventory/prod.py",
            f"{own_lock(folder)}gpu_hosts = [('@local', {{'ssh_hostname': '192.0.2.1'}})]\n",
        )
        fake = folder / "fake"
        (fake / "bin").mkdir(parents=True)
        (fake / "opt").mkdir()
        host = cls(project, fake)
        host.program("docker", _DOCKER)
        project.group(agents=[AGENT, two], vllm={"directory": str(fake / "opt")})
        search = f"{fake}/bin:{os.environ['PATH']}"
        project.environment = {"PATH": search, "HOME": str(folder)}
        host.file("names", "one\ntwo\nsomething-else\n")
        for name in ("one", "two"):
            host.agent(name)
        return host

    def two_hosts(self) -> None:
        """Another host comes first in the inventory: one that refuses connections."""
        self.project.write(
            "inventory/prod.py",
            f"{own_lock(self.folder.parent)}"
            "gpu_hosts = [('down', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1}),\n"
            "             ('@local', {'ssh_hostname': '192.0.2.1'})]\n",
        )

    def program(self, name: str, text: str) -> None:
        self.file(f"bin/{name}", text)
        (self.folder / "bin" / name).chmod(0o755)

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def agent(self, name: str, state: str = "running", health: str | None = "healthy") -> None:
        self.file(f"{name}.json", inspect_line(name, state, health, restarts=2) + "\n")
        self.becomes(name, state, health, restarts=2)

    def becomes(
        self, name: str, state: str, health: str | None = None, *, when: str = "state", **more: Any
    ) -> None:
        """How it is for whoever waits for it; ``when``: from its next start or look on."""
        # Somebody may be looking: the old state or the new one, and never half of it.
        new = self.file(f"{name}.new", inspect_line(name, state, health, **more) + "\n")
        new.rename(self.folder / f"{name}.{when}")

    def asked(self) -> list[str]:
        """What docker was asked to do, one command a line."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []
