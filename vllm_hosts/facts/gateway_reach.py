"""Whether a gateway has a way to the hosts behind it."""

from __future__ import annotations

from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.gateway_reach import CONTROL, Ways, ways
from vllm_hosts.settings.virtual import parsed

#: Seconds for a name: as long as a resolver takes that tries two servers, once each.
_SECONDS = 10


class WaysToHosts(HostFact[Ways]):
    """What names stand for on a gateway, and which of the addresses it has a route to.

    The kernel and the resolver are asked; no host is sent anything.
    """

    what = "the gateway's routes to hosts"
    steady = True
    seconds = 60

    def command(self, hosts: list[str]) -> str:
        names = " ".join(quote(one) for one in hosts if not parsed(one))
        routes = [f"route get {one}" for one in (str(CONTROL), *filter(parsed, hosts))]
        lookup = (
            f"""named=$(for name in {names}; do
                timeout {_SECONDS} getent ahosts "$name" | while read -r address _; do
                    echo "$name $address"
                done &
            done; wait)"""
            if names
            else "named="
        )
        return ending(
            f"""
            {lookup}
            echo '== named'; echo "$named"
            echo '== routes'
            {{
                printf '%s\\n' {" ".join(map(quote, routes))}
                echo "$named" | sed -n 's/^[^ ]* \\(..*\\)$/route get \\1/p'
            }} | ip -j -force -batch - 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> Ways:
        parts = sections(lines)
        return ways(parts["named"], parts["routes"])
