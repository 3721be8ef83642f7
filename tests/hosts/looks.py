"""What the scan from outside is asked, and how its answers are read."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.host import probe
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.test_sockets import ssh_ports
from vllm_hosts.verify.outside.shapes import Shape, send

_ADDRESSES = (
    "ip -o addr show to %s 2>/dev/null | while read -r _ dev _; do"
    " ip -o -6 addr show dev $dev scope global -deprecated -tentative; done"
)
_BEHIND = (
    "docker ps -q | xargs -r docker inspect --format"
    " '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}'"
)


def asked_of(host: Host, settings: HostSettings, store: Path) -> dict[str, Any]:
    """A host as the scan from outside is asked about it: its addresses and what lies behind it.

    :param store: the inventory's private folder, which has the CA's certificate.
    :raises HostError: the host cannot be asked, or its name has no address here.
    """
    try:
        [*_, (family, _, _, _, (address, *_))] = socket.getaddrinfo(
            settings.address, settings.edge.https_port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise HostError(f"{settings.address} has no address: {error}") from error
    addresses = {"ipv6" if family == socket.AF_INET6 else "ipv4": address}
    for line in host.check_output(_ADDRESSES, address).splitlines():
        addresses.setdefault("ipv6", line.split()[3].partition("/")[0])
    ssh = sorted(ssh_ports(host))
    if not settings.runs_agents:
        # Nothing else of it listens on its loopback, where a closed door would say nothing.
        targets: list[list[object]] = [["127.0.0.1", port] for port in ssh]
    else:
        targets = [[container, 8000] for container in host.check_output(_BEHIND).split()]
        targets += [["127.0.0.1", agent.port] for agent in settings.agents]
    name = settings.edge_names[0]
    return {
        "addresses": addresses,
        "ssh_ports": ssh,
        # The edge itself shows that the look can see at all.
        "targets": [[address, settings.edge.https_port], *targets],
        "edge": {
            "address": address,
            "port": settings.edge.https_port,
            "server_name": name,
            "host": probe.host_header(name, settings.edge.https_port),
            "path": "/v1/models",
            "ca_file": client_ca_file(settings, store),
        },
    }


def edge_statuses(settings: HostSettings, path: str, count: int) -> tuple[int, ...]:
    """The edge's answers to so many requests, sent at once on one connection and without a key."""
    name = settings.edge_names[0]
    host = probe.host_header(name, settings.edge.https_port)
    one = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
    data = f"{one}\r\n" * (count - 1) + f"{one}Connection: close\r\n\r\n"
    shape = Shape("", "many requests", data.encode(), ())
    return send(settings.address, settings.edge.https_port, name, shape).statuses


@dataclass(frozen=True)
class Outside:
    """What was seen of one host. Every reading raises where nothing could be seen."""

    seen: dict[str, Any]

    def scans(self, family: str, must_see: set[int]) -> dict[str, dict[str, Any]]:
        """By who looked: open TCP ports and reached UDP ports; empty: the host has no such address.

        :param must_see: ports that are open to everybody: who does not see them is blind.
        :raises HostError: a check was not possible, or blind.
        """
        found = {}
        for who, scans in self._get("scans").items():
            if family not in scans:
                continue
            scan = self._good(scans[family])
            if missing := must_see - set(scan["tcp"]):
                raise HostError(
                    f"{who} does not even reach port {min(missing)} over {family}, so its scan"
                    " proves nothing; is there a route from there to the host?"
                )
            found[who] = scan
        return found

    def behind(self) -> dict[str, list[tuple[str, int]]]:
        """By neighbour: what accepts connections on or behind the host; empty: no neighbour.

        :raises HostError: a check was not possible.
        """
        return {
            who: [(address, port) for address, port in self._good(frames)["answering"]]
            for who, frames in self._get("frames").items()
        }

    @property
    def blind(self) -> str | None:
        """Why only a neighbour sees the host from outside; None: this machine sees it too."""
        found: str | None = self._get("blind")
        return found

    def besides_edge(self, https_port: int) -> dict[str, list[tuple[str, int]]]:
        """Like ``behind``, without the edge itself, which a look has to see.

        :raises HostError: a neighbour does not see the edge, so what it does not see says nothing.
        """
        found = {}
        for who, reached in self.behind().items():
            edge = [place for place in reached if place[1] == https_port]
            if not edge:
                raise HostError(f"{who} does not even reach the edge on port {https_port}")
            found[who] = [place for place in reached if place not in edge]
        return found

    def tls_issues(self) -> dict[str, str]:
        """What sslyze has against the edge."""
        issues: dict[str, str] = self._good(self._get("tls"))["issues"]
        return issues

    def not_refused(self, promise: str) -> list[str]:
        """Requests that the edge should have refused, and how it answered."""
        complaints: list[str] = self._good(self._get("shapes"))[promise]
        return complaints

    def _get(self, kind: str) -> Any:
        return self._good(self.seen)[kind]

    @staticmethod
    def _good(part: dict[str, Any]) -> dict[str, Any]:
        if "error" in part:
            raise HostError(str(part["error"]))
        return part
