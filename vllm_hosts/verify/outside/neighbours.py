"""What a neighbour sees of hosts. A process of its own: request and answer as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shlex import quote
from typing import Any

# isort: off
import pyinfra_cli  # noqa: F401  replaces the socket module by gevent's: before anybody uses it

# isort: on
from vllm_hosts.bounded import parse_json
from vllm_hosts.connect import sudo
from vllm_hosts.connect.testinfra import Hosts
from vllm_hosts.errors import HostError
from vllm_hosts.project.inventory import load
from vllm_hosts.text import clean

_HERE = Path(__file__).resolve().parent
_SCAN, _FRAMES = _HERE / "scan.py", _HERE / "syn_packets.py"
_ROOM = "ulimit -n 26000 2>/dev/null || ulimit -n $(ulimit -Hn) 2>/dev/null || :"
_PYTHON = "PYTHONDONTWRITEBYTECODE=1 python3"


def scan_as_neighbour(asked: dict[str, Any]) -> dict[str, Any]:
    """What one neighbour sees.

    :param asked: ``inventory``, a path; ``neighbour``, its name; ``scans``, as scan.py takes them;
        and ``hosts`` as in :func:`vllm_hosts.verify.outside.all_scans.scan_from_everywhere`.
    :returns: ``scans``, in the order asked for; ``frames``: by host what answers behind it.
    :raises HostError: it cannot be reached, has no Python, or is not entered as root.
    """
    hosts = asked["hosts"]
    packets = [":"]
    for name, host in hosts.items():
        if "ipv4" in host["addresses"]:
            behind = {"via": host["addresses"]["ipv4"], "targets": host["targets"]}
            said = f'{_PYTHON} -c "$frames" {quote(json.dumps(behind))} 2>&1 | tail -n 1'
            packets.append(f'echo {name} "$({said})"')
    script = [
        f"{_ROOM}\nscan={quote(_SCAN.read_text())}\nframes={quote(_FRAMES.read_text())}",
        # Both mostly wait.
        "\n".join(["{", *packets, "} &"]),
        f'seen=$(nice -n 10 env {_PYTHON} -c "$scan" {quote(asked["scans"])}) || exit',
        "wait; printf '%s\\n' \"$seen\"",
    ]
    neighbour = Hosts(load(Path(asked["inventory"]))).get(asked["neighbour"])
    done = neighbour.run("\n".join(script))
    if done.rc != 0:
        raise HostError(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit {done.rc}")
    *frames, scan = done.stdout.strip().splitlines()
    seen: dict[str, Any] = {
        name: {"error": "the host has no IPv4 address to send packets through"} for name in hosts
    }
    for line in frames:
        name, _, said = line.partition(" ")
        seen[name] = parse_json(said) if said.startswith("{") else {"error": clean(said)}
    return {"scans": parse_json(scan), "frames": seen}


def main() -> None:
    """Request and answer as JSON; one sentence and exit code 1 where a check is not possible."""
    sudo.ask_nobody()
    try:
        print(json.dumps(scan_as_neighbour(json.loads(sys.stdin.read()))))
    except HostError as error:
        sys.exit(str(error))
    except ValueError as error:
        sys.exit(clean(f"its answer could not be understood: {error}"))


if __name__ == "__main__":
    main()
