"""All looks from outside at once: from this machine and, where there is one, from a neighbour.

A process of its own beside the hosts suite, since looking at every port takes half a minute:
request as JSON on standard input, what was seen as JSON on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shlex import quote
from typing import Any

_HERE = Path(__file__).resolve().parent
_ROOM = "ulimit -n 26000 2>/dev/null || ulimit -n $(ulimit -Hn) 2>/dev/null || :"
#: Promises for which ports are scanned, and those for which neighbours send single packets.
SCANS = {"NET-08", "NET-09", "NET-10"}
FRAMES = {"NET-11", "NET-12"}
#: Seconds in which each look must have ended, however many hosts there are.
_LIMIT = 900

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


def look(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Everything that can be seen from outside, by host.

    :param asked: ``inventory``, a path; ``promises`` that somebody wants to know about; ``ports``,
        first and last, for the scans over TCP; and ``hosts``: by name, ``addresses`` by family,
        ``targets`` behind the host, and ``edge`` with what the other modules here ask for.
    :returns: by host: ``controller`` and, by their names, neighbours, each with scans by family;
        ``frames`` by neighbour; ``tls``; ``shapes``. Where a look was not possible: ``error``.
    """
    hosts = asked["hosts"]
    edges = json.dumps({name: host["edge"] for name, host in hosts.items()})
    wanted = set(asked["promises"])
    # Every address of every host, in an order by which the answers are told apart again.
    places = [
        (name, family)
        for name, host in hosts.items()
        for family in host["addresses"]
        if wanted & SCANS
    ]
    scans = json.dumps(
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
    python = quote(sys.executable)
    running = {
        "scan": _start(f"{_ROOM}; exec {python} {quote(str(_HERE / 'scan.py'))} {quote(scans)}"),
        "tls": _start(f"exec {python} -m vllm_hosts.outside.tls", edges),
        "shapes": _start(
            f"exec {python} -m vllm_hosts.outside.shapes {' '.join(sorted(wanted))}", edges
        ),
    }
    seen: dict[str, dict[str, Any]] = {name: {"frames": {}, "scans": {}} for name in hosts}
    if wanted & (SCANS | FRAMES):
        # pyinfra's connections and processes of one's own do not go together in one process.
        request = json.dumps({"inventory": asked["inventory"], "scans": scans, "hosts": hosts})
        running["neighbours"] = _start(f"exec {python} -m vllm_hosts.outside.neighbours", request)
        for neighbour, answer in _finish(running["neighbours"], {"neighbours": None}).items():
            failed = not isinstance(answer, list)
            found = [answer for _ in places] if failed else answer[0]
            frames = dict.fromkeys(hosts, answer) if failed else answer[1]
            _sort_in(seen, places, neighbour, found)
            for name in hosts:
                seen[name]["frames"][neighbour] = frames[name]
    _sort_in(seen, places, "controller", _finish(running["scan"], places))
    for kind in ("tls", "shapes"):
        found = _finish(running[kind], hosts)
        for name in hosts:
            seen[name][kind] = found[name]
    return seen


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
        cwd=_HERE.parent.parent,
    )
    assert started.stdin is not None
    started.stdin.write(said)
    started.stdin.close()
    started.stdin = None
    return started


def _finish(process: subprocess.Popen[str], keys: Any) -> Any:
    """Its answer; where it gave none, an error for each of the keys."""
    try:
        out, err = process.communicate(timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = "", f"no answer after {_LIMIT} s"
    else:
        if process.returncode == 0:
            return json.loads(out)
    problem = {"error": err.strip()[-500:] or f"the look ended with {process.returncode}"}
    return [problem for _ in keys] if isinstance(keys, list) else dict.fromkeys(keys, problem)


if __name__ == "__main__":
    print(json.dumps(look(json.loads(sys.stdin.read()))))
