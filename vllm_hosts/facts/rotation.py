"""Who gets requests, as a gateway's HAProxy sees it, and who was drained by hand."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.balancer import query
from vllm_hosts.host.paths import BALANCER_UNIT
from vllm_hosts.host.rotation import BY_HAND, Balancer, balancer


class BalancerSeen(HostFact[Balancer | None]):
    """Agents as this gateway sees them; None: no HAProxy of ours runs, so that nothing passes."""

    what = "HAProxy's view of the agents"
    seconds = 120

    def command(self) -> str:
        return ending(f"""
            if systemctl -q is-active {BALANCER_UNIT}; then
                {query()}
                echo '== by hand'; [ ! -d {BY_HAND} ] || ls -1 {BY_HAND}
            else
                echo '== none'
            fi
        """)

    def parse(self, lines: list[str]) -> Balancer | None:
        parts = sections(lines)
        if "none" in parts:
            return None
        return balancer(parts, [name for name in parts["by hand"] if name])
