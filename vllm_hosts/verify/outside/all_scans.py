"""All scans from outside at once: from this machine and, if there is one, from a neighbour.

A process of its own beside the hosts suite, since scanning every port takes a while:
request as JSON on standard input, results as JSON on standard output.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from vllm_hosts.bounded import parse_json
from vllm_hosts.text import clean
from vllm_hosts.verify.outside.scan import family_of

_HERE = Path(__file__).resolve().parent
_ROOM = "ulimit -n 26000 2>/dev/null || ulimit -n $(ulimit -Hn) 2>/dev/null || :"
#: Promises for which ports are scanned, and those for which neighbours send single packets.
SCANS = {"NET-08", "NET-09", "NET-10"}
FRAMES = {"NET-11", "NET-12"}
#: Seconds in which each look must have ended, however many hosts there are.
_LIMIT = 900
#: Seconds for one neighbour's look: to connect and look behind hosts, and more for each address.
_CONNECT, _PER_ADDRESS = 45, 10

#: UDP services that hosts often have without anybody's decision, and Docker's and VPNs' own.
UDP_PORTS = (
    53,  # DNS
    67,  # DHCP server
    69,  # TFTP
    111,  # portmapper
    123,  # NTP
    137,  # NetBIOS
    161,  # SNMP
    389,  # CLDAP
    443,  # QUIC
    500,  # IKE
    623,  # IPMI
    1194,  # OpenVPN
    1900,  # SSDP
    2049,  # NFS
    4789,  # VXLAN
    5353,  # mDNS
    5355,  # LLMNR
    7946,  # Docker Swarm
    8472,  # VXLAN of Linux and flannel
    11211,  # memcached
    51820,  # WireGuard
)


def scan_from_everywhere(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Everything that can be seen from outside, by host.

    :param asked: ``inventory``, a path; names of ``neighbours``; ``promises`` that somebody wants
        to know about; ``ports``, first and last, for the scans over TCP; and ``hosts``: by name,
        ``addresses`` by family, ``targets`` behind the host, and ``edge`` with what the other
        modules here ask for.
    :returns: by host: ``controller`` and, by their names, neighbours, each with scans by family;
        ``frames`` by neighbour; ``tls``; ``shapes``. Where a check was not possible: ``error``.
        ``blind``: why only another machine sees this host from outside, or None.
    """
    hosts = asked["hosts"]
    here = {name for name, host in hosts.items() if any(map(is_here, host["addresses"].values()))}
    edges = json.dumps({name: host["edge"] for name, host in hosts.items()})
    wanted = set(asked["promises"])
    # Every address of every host, in an order by which the answers are told apart again.
    places = [
        (name, family)
        for name, host in hosts.items()
        for family in host["addresses"]
        if wanted & SCANS
    ]
    from_here = [place for place in places if place[0] not in here]

    def scans_of(places: list[tuple[str, str]]) -> str:
        return json.dumps(
            [
                {
                    "address": hosts[name]["addresses"][family],
                    "tcp": asked["ports"],
                    "skip": hosts[name]["ssh_ports"],
                    "udp": UDP_PORTS,
                }
                for name, family in places
            ]
        )

    scans = scans_of(places)
    scan = f"{quote(str(_HERE / 'scan.py'))} {quote(scans_of(from_here))}"
    python = quote(sys.executable)
    running = {
        # It has time: who waits for other answers goes first.
        "scan": _start(f"{_ROOM}; exec nice -n 10 {python} {scan}"),
        "tls": _start(f"exec {python} -m vllm_hosts.verify.outside.tls_grades", edges),
        "shapes": _start(
            f"exec {python} -m vllm_hosts.verify.outside.shapes {' '.join(sorted(wanted))}", edges
        ),
    }
    seen: dict[str, dict[str, Any]] = {
        name: {"frames": {}, "scans": {}, "blind": None} for name in hosts
    }
    for name in here:
        families = hosts[name]["addresses"]
        why = from_elsewhere(scans_of([(name, family) for family in families]))
        seen[name]["blind"] = why
        if not asked["neighbours"]:
            seen[name]["scans"]["controller"] = {key: {"error": why} for key in families}
    if wanted & (SCANS | FRAMES):
        request = {"inventory": asked["inventory"], "scans": scans, "hosts": hosts}
        limit = _CONNECT + _PER_ADDRESS * len(places)
        for neighbour, saw in _ask(asked["neighbours"], request, limit).items():
            _sort_in(seen, places, neighbour, saw["scans"])
            for name in hosts:
                seen[name]["frames"][neighbour] = saw["frames"][name]
    _sort_in(seen, from_here, "controller", _finish(running["scan"], from_here))
    for kind in ("tls", "shapes"):
        found = _finish(running[kind], hosts)
        for name in hosts:
            seen[name][kind] = found[name]
    return seen


def is_here(address: str) -> bool:
    """Whether an address is this machine's own: what goes there passes no firewall for others."""
    with socket.socket(family_of(address), socket.SOCK_STREAM) as one:
        try:
            one.bind((address, 0))
        except OSError:
            return False
        return True


def from_elsewhere(scans: str) -> str:
    """Why this machine cannot see itself from outside, and how another one can.

    :param scans: what scan.py is to be asked.
    """
    return (
        "cannot be checked from the host itself; name another machine in the inventory's group"
        " neighbours, or scan from one with Python 3, where only SSH's and the edge's ports may be"
        f" open: ssh OTHER python3 - {quote(scans.replace(', ', ',').replace(': ', ':'))}"
        f" < {os.path.relpath(_HERE / 'scan.py')}"
    )


def _sort_in(
    seen: dict[str, dict[str, Any]], places: list[tuple[str, str]], who: str, scans: list[Any]
) -> None:
    for (name, family), scan in zip(places, scans, strict=True):
        seen[name]["scans"].setdefault(who, {})[family] = scan


def _start(command: str, said: str = "") -> subprocess.Popen[str]:
    started = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_HERE.parents[2],
    )
    assert started.stdin is not None
    # One that ended before it read says why when it is waited for.
    with suppress(BrokenPipeError):
        started.stdin.write(said)
        started.stdin.close()
    started.stdin = None
    return started


def _ask(neighbours: list[str], request: dict[str, Any], limit: float) -> dict[str, dict[str, Any]]:
    """What each neighbour saw. One that falls silent, or breaks off, is queried a second time.

    Each has a process of its own: pyinfra's connections can hang for ever, a process can be ended.
    """

    def ask(neighbour: str) -> dict[str, Any]:
        command = f"exec {quote(sys.executable)} -m vllm_hosts.verify.outside.neighbours"
        said = json.dumps(request | {"neighbour": neighbour})
        for _ in range(2):
            saw, problem = _end(_start(command, said), limit)
            if problem is None:
                return dict(saw)
        failed = {"error": f"neighbour {neighbour} could not scan: {problem}"}
        scans = json.loads(request["scans"])
        return {
            "scans": [failed for _ in scans],
            "frames": dict.fromkeys(request["hosts"], failed),
        }

    if not neighbours:
        return {}
    with ThreadPoolExecutor(len(neighbours)) as pool:
        return dict(zip(neighbours, pool.map(ask, neighbours), strict=True))


def _finish(process: subprocess.Popen[str], keys: Any) -> Any:
    """Its answer; where it gave none, an error for each of the keys."""
    saw, problem = _end(process, _LIMIT)
    if problem is None:
        return saw
    failed = {"error": problem}
    return [failed for _ in keys] if isinstance(keys, list) else dict.fromkeys(keys, failed)


def _end(process: subprocess.Popen[str], limit: float) -> tuple[Any, str | None]:
    """Its answer, and why there is none."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f"no answer after {limit:.0f} s"
    if process.returncode == 0:
        try:
            return parse_json(out), None
        except ValueError as error:
            return None, clean(f"the answer could not be understood: {error}")
    # The last line of what Python prints about an error is the error.
    words = err.strip().splitlines()
    return None, clean(words[-1]) if words else f"the scan ended with {process.returncode}"


if __name__ == "__main__":
    print(json.dumps(scan_from_everywhere(json.loads(sys.stdin.read()))))
