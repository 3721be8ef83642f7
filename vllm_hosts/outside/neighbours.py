"""What neighbours see of hosts. A process of its own: request and answer as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shlex import quote
from typing import Any

import gevent
from pyinfra.api.inventory import Inventory

from vllm_hosts.errors import HostError
from vllm_hosts.inventory import load, neighbours
from vllm_hosts.testing import Hosts

_HERE = Path(__file__).resolve().parent
_SCAN, _FRAMES = _HERE / "scan.py", _HERE / "frames.py"
_ROOM = "ulimit -n 26000 2>/dev/null || ulimit -n $(ulimit -Hn) 2>/dev/null || :"
_PYTHON = "PYTHONDONTWRITEBYTECODE=1 python3"


def looks(asked: dict[str, Any]) -> dict[str, tuple[list[Any], dict[str, Any]]]:
    """By neighbour: its scans, in the order asked for, and by host what answers behind it."""
    inventory = load(Path(asked["inventory"]))
    found = {}
    for neighbour in neighbours(inventory):
        try:
            found[neighbour] = _patiently(inventory, neighbour, asked)
        except (HostError, ValueError) as error:
            problem = {"error": f"neighbour {neighbour} could not look: {error}"}
            found[neighbour] = (
                [problem for _ in json.loads(asked["scans"])],
                dict.fromkeys(asked["hosts"], problem),
            )
    return found


def _patiently(
    inventory: Inventory, neighbour: str, asked: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """A connection that falls silent, as happens under the load of a scan, is made a second time.

    :raises HostError: both fell silent, or the neighbour could not look.
    """
    limit = 45 + 10 * len(json.loads(asked["scans"]))
    for _ in range(2):
        with gevent.Timeout(limit, False):
            return _from_neighbour(Hosts(inventory), neighbour, asked["scans"], asked["hosts"])
    raise HostError(f"no answer within {limit} s, twice")


def _from_neighbour(
    connections: Hosts, neighbour: str, scans: str, hosts: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """What one neighbour sees: its scans, and by host what answers behind it.

    :raises HostError: it cannot be reached, has no Python, or is not entered as root.
    """
    script = [f"{_ROOM}\nscan={quote(_SCAN.read_text())}\nframes={quote(_FRAMES.read_text())}"]
    for name, host in hosts.items():
        if "ipv4" in host["addresses"]:
            asked = {"via": host["addresses"]["ipv4"], "targets": host["targets"]}
            said = f'{_PYTHON} -c "$frames" {quote(json.dumps(asked))} 2>&1 | tail -n 1'
            script.append(f'echo {name} "$({said})"')
    script.append(f'{_PYTHON} -c "$scan" {quote(scans)}')
    done = connections.get(neighbour).run("\n".join(script))
    if done.rc != 0:
        raise HostError(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit {done.rc}")
    *frames, scan = done.stdout.strip().splitlines()
    behind: dict[str, Any] = {
        name: {"error": "the host has no IPv4 address to look through"} for name in hosts
    }
    for line in frames:
        name, _, said = line.partition(" ")
        behind[name] = json.loads(said) if said.startswith("{") else {"error": said}
    return json.loads(scan), behind


if __name__ == "__main__":
    print(json.dumps(looks(json.loads(sys.stdin.read()))))
