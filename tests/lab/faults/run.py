"""A real deploy into which a fault is injected at a chosen moment, and what has to hold then.

The moment is drawn from a seed, so that a run that failed can be had again:
``FAULT_SEED=4711 pytest -k faults``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab import hosts as lab_hosts
from tests.lab.deploys import BIN, INVENTORY, ROOT

#: Folders that deploys write to.
_FOLDERS = "/etc /opt/vllm /var/lib/vllm-hosts /run"
LOCK, UNDO = "/run/vllm-hosts.lock", "/run/vllm-hosts-undo"
#: sshd's processes for connections, by their titles. That of the one that takes new ones begins
#: with its path: without it nobody could log in again, which is another fault.
CONNECTIONS = "^sshd(-session)?: [a-z]"
_ENDS = (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)
_LAST_WORDS = "--> Disconnecting from hosts..."


@dataclass(frozen=True)
class Stopped:
    """A deploy that a fault has met: its exit code, and what it printed.

    :param met: whether it was still at work at that moment.
    """

    code: int
    output: str
    met: bool = True


def seeded(name: str) -> random.Random:
    """The same numbers for the same fault and seed."""
    seed = os.environ.get("FAULT_SEED", "1")
    print(f"FAULT_SEED={seed} {name}")
    return random.Random(f"{seed} {name}")


def deploy_until(
    host: str, seconds: float, fault: Callable[[subprocess.Popen[str]], None], settings: str = ""
) -> Stopped:
    """Deploy to one host, and do something to that after some seconds."""
    environment = {**os.environ, "PYINFRA_PROGRESS": "off", "PYTHONUNBUFFERED": "1"}
    if settings:
        environment["LAB_SETTINGS"] = settings
    process = subprocess.Popen(
        [str(BIN / "pyinfra"), "-y", "-v", INVENTORY, "deploy.py", "--limit", host],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    met = False
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        met = True
        fault(process)
        said, _ = process.communicate(timeout=900)
    # Python takes its handlers away at its end: then a signal ends what has done all of its work.
    # So it does with one that has not begun, where Python itself is still imported.
    if process.returncode in _ENDS and (not said or said.rstrip().endswith(_LAST_WORDS)):
        return Stopped(0, said, met=False)
    return Stopped(process.returncode, said, met)


def sent(number: signal.Signals) -> Callable[[subprocess.Popen[str]], None]:
    """The controller gets a signal."""
    return lambda process: process.send_signal(number)


def dropped(host: str) -> Callable[[subprocess.Popen[str]], None]:
    """sshd ends every connection, as a link that breaks does; it takes new ones."""
    script = f"pkill -f '{CONNECTIONS}' || :"
    return lambda process: void(lab_hosts.run(host, script, check=False))


def docker_stopped(host: str) -> Callable[[subprocess.Popen[str]], None]:
    """Docker's daemon ends, and comes back when it is asked for."""
    return lambda process: void(lab_hosts.run(host, "systemctl stop docker.service"))


def void(_: object) -> None:
    """A function that is called for what it does."""


def agents(host: str) -> dict[str, str]:
    """The process of each agent that runs."""
    found = lab_hosts.run(
        host, "docker ps -q | xargs -r docker inspect -f '{{.Name}} {{.State.Pid}}'"
    ).stdout
    return dict(line.split() for line in found.splitlines())


def wait_free(host: str, seconds: float = 120) -> None:
    """Until nobody holds the host. Nobody has to do anything for that."""
    until = time.monotonic() + seconds
    while lab_hosts.run(host, f"flock -n -s {LOCK} true", check=False).returncode:
        assert time.monotonic() < until, lab_hosts.run(host, f"cat {LOCK}").stdout
        time.sleep(1)


def broken(host: str) -> list[str]:
    """What must be on no host, whatever has happened to a deploy there."""
    script = f"""
        find /opt/vllm/.env /etc/nginx/vllm-hosts/*.map -perm /077 2>/dev/null | sed 's/^/wide /'
        find {_FOLDERS} -xdev -name '*.vllm-hosts-new' -perm /077 2>/dev/null | sed 's/^/wide /'
        find /etc/nginx/conf.d /opt/vllm /etc/docker -xdev -type f -empty | sed 's/^/empty /'
        [ ! -e /opt/vllm/compose.yaml ] ||
            docker compose --project-directory /opt/vllm config -q 2>&1 | sed 's/^/compose /'
        nginx -t -q 2>&1 | sed 's/^/nginx /'
        apt-get indextargets >/dev/null 2>&1 || echo 'apt has entries that it refuses'
        """
    return lab_hosts.run(host, script, check=False).stdout.splitlines()


def left(host: str) -> list[str]:
    """What a whole run must leave nothing of."""
    script = f"""
        find {_FOLDERS} -xdev -name '*.vllm-hosts-???' 2>/dev/null
        ls -d /run/vllm-hosts.?????? /run/vllm-hosts-look.* /run/vllm-hosts-rehearsal.* 2>/dev/null
        ls -d {LOCK}.?????? /var/lib/vllm-hosts.removed 2>/dev/null
        systemctl list-units --plain --no-legend 'vllm-hosts-undo-*' vllm-hosts-unconfirmed.service
        ls -d /var/lib/vllm-hosts/unconfirmed 2>/dev/null
        find /etc/systemd -name 'vllm-hosts-unconfirmed*'
        [ ! -s {LOCK} ] || cat {LOCK}
        dpkg --audit
        """
    return lab_hosts.run(host, script, check=False).stdout.splitlines()
