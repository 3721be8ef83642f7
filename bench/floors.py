"""What nobody can do without: the programs that a deploy waits for, by themselves, in a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from bench.far import Far
from lab import layout

#: Waits for the agent at a port of loopback. A minimal Debian has no curl. Docker opens the port
#: before the agent does, and hangs up on who writes to it.
_HEALTHY = r"""
trap '' PIPE
healthy() { until
    { exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 &&
        head -1 <&3 | grep -q ' 200 '; } 2>/dev/null
do sleep 0.1; done; }
"""


def restart(agent: str, port: int) -> str:
    """vLLM's own restart, until it answers."""
    return f"{_HEALTHY}docker restart {shlex.quote(agent)} >/dev/null && healthy {port}"


def fresh(kept: Path, packages: list[str]) -> str:
    """apt, docker pull, and vLLM's own start, one after the other, from nothing.

    :param kept: what a deploy has written; a few of its files come on standard input.
    """
    compose = yaml.safe_load((kept / "opt/vllm/compose.yaml").read_text())["services"]
    images = {service["image"] for service in compose.values()}
    ports = [service["ports"][0].split(":")[-2] for service in compose.values()]
    mounts = [(one["user"], volume) for one in compose.values() for volume in one["volumes"]]
    folders = {volume["source"]: user for user, volume in mounts if not volume["read_only"]}
    others = {volume["source"] for _, volume in mounts if volume["read_only"]}
    lines = [
        f"set -eu; export DEBIAN_FRONTEND=noninteractive; {_HEALTHY}",
        "tar --no-same-owner -C / -xf -; apt-get -qq update",
        f"apt-get -qq install -y --no-install-recommends {shlex.join(packages)} >/dev/null",
        *(f"docker pull --quiet {shlex.quote(image)}" for image in images),
        *(f"install -d -o {u.partition(':')[0]} {shlex.quote(f)}" for f, u in folders.items()),
        *(f"[ -e {there} ] || mkdir -p {there}" for there in map(shlex.quote, sorted(others))),
        "docker compose --progress quiet --project-directory /opt/vllm up --detach",
        *(f"healthy {port}" for port in ports),
    ]
    return "\n".join(lines)


def sent(far: Far, host: layout.Host, script: str, *files: str) -> list[str]:
    """Run a script on a host as root, with files that the deploy has written as its input."""
    sudo = [] if host.ssh_user == "root" else ["sudo"]
    words = far.ssh(host, shlex.join([*sudo, "bash", "-c", script]))
    if not files:
        return words
    tar = shlex.join(["tar", "-C", str(far.files(host)), "-cf", "-", *files])
    return ["bash", "-o", "pipefail", "-c", f"{tar} | {shlex.join(words)}"]
