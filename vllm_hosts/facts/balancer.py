"""What HAProxy of a gateway says of the agents behind it."""

from __future__ import annotations

from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import balancer


class BalancerState(HostFact[balancer.Servers]):
    """All servers of all pools: whether they are alive and drained, and what they have to do.

    Requests of processes that a reload has replaced count, until they are answered.
    """

    what = "HAProxy's runtime socket, as root (check ssh_user, _sudo and the sudo password),"
    seconds = 120

    def command(self) -> str:
        return ending(f"echo '== user'; id -u\n{balancer.query()}")

    def parse(self, lines: list[str]) -> balancer.Servers:
        parts = sections(lines)
        if parts["user"] != ["0"]:
            raise HostError("commands do not run as root; connect as root, or set _sudo = True")
        if not any(parts["admin"]):
            raise HostError(
                "HAProxy does not answer on its runtime socket; see systemctl status"
                " vllm-hosts-balancer.service there, or deploy to this gateway first"
            )
        return balancer.servers(parts)
