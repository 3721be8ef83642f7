"""Who gets requests, as a gateway's HAProxy sees it, and what agents are busy with."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.rotation import BY_HAND, SOCKET, UNIT, Balancer, balancer

#: Seconds in which HAProxy and an agent answer, and bytes of an agent's answer.
_PATIENCE = 20
_SIZE = 16 << 20


class BalancerSeen(HostFact[Balancer | None]):
    """Agents as this gateway sees them; None: no HAProxy of ours runs, so that nothing passes."""

    what = "HAProxy's view of the agents"

    def command(self) -> str:
        ask = f"timeout {_PATIENCE} socat -t 10 - UNIX-CONNECT:{SOCKET}"
        return ending(f"""
            if systemctl -q is-active {UNIT}; then
                echo '== stat'; echo 'show stat' | {ask} || exit 1
                echo '== states'; echo 'show servers state' | {ask} || exit 1
                echo '== by hand'; [ ! -d {BY_HAND} ] || ls -1 {BY_HAND}
            else
                echo '== none'
            fi
        """)

    def parse(self, lines: list[str]) -> Balancer | None:
        parts = sections(lines)
        if "none" in parts:
            return None
        return balancer(parts["stat"], parts["states"], parts["by hand"])


_COUNT = r"""
    NR == 1 { if ($0 !~ /^HTTP\/1\.[01] 200 /) exit; next }
    /^vllm:num_requests_(running|waiting)[{ ]/ && $NF ~ /^[0-9]+([.]0)?$/ { sum += $NF; found = 1 }
    END { if (found) print sum; else print "-" }
"""
_ASK = (
    r"exec 3<>/dev/tcp/127.0.0.1/$0 &&"
    r" printf 'GET /metrics HTTP/1.0\r\nHost: agent\r\nConnection: close\r\n\r\n' >&3 && cat <&3"
)


class AgentsBusy(HostFact[Mapping[str, int]]):
    """By agent, how many requests run or wait there; without those that do not say.

    Gateways know only the requests that their present process has: one that was told to read its
    configuration again leaves those of before to the old one.
    """

    what = "the agents' requests"

    def command(self, ports: Mapping[str, int]) -> str:
        """:param ports: by agent, on the host's 127.0.0.1."""
        self.asked = frozenset(ports)
        return ending(
            "\n".join(
                f"said=$(timeout {_PATIENCE} bash -c {quote(_ASK)} {port} 2>/dev/null </dev/null |"
                f" head -c {_SIZE} | tr -d '\\r' | awk {quote(_COUNT)}); echo {agent} ${{said:--}}"
                for agent, port in ports.items()
            )
        )

    def parse(self, lines: list[str]) -> Mapping[str, int]:
        found = {}
        for line in filter(None, lines):
            agent, number = line.split(" ")
            if agent not in self.asked:
                raise ValueError(line[:200])
            if number != "-":
                found[agent] = int(number)
        return found
