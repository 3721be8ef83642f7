"""Links of a lab host that are cut, slow, or lead to somebody else, by rules of its own kernel.

Hosts and containers on them are met alike: what a host sends itself, and what it forwards.
"""

from __future__ import annotations

from lab.layout import BRIDGE_V4

_CUT, _SLOW, _OTHER = "lab_cut", "lab_slow", "lab_other"


def cut(port: int) -> str:
    """Shell: whoever is asked at a port of the lab's servers refuses, and says so at once."""
    rule = f"ip daddr {BRIDGE_V4.ip} tcp dport {port} reject with tcp reset"
    return _table(_CUT, output=rule, forward=rule)


def slow(port: int, kilobytes: int) -> str:
    """Shell: from a port come at most so many kilobytes a second; what is more is lost."""
    rule = f"tcp sport {port} limit rate over {kilobytes} kbytes/second burst 64 kbytes drop"
    return _table(_SLOW, prerouting=rule)


def elsewhere(port: int, other: int) -> str:
    """Shell: who asks for one port of the lab's servers gets another."""
    rule = f"ip daddr {BRIDGE_V4.ip} tcp dport {port} dnat ip to {BRIDGE_V4.ip}:{other}"
    return _table(_OTHER, kind="nat", output=rule)


#: Shell: all links are as they were.
WELL = "; ".join(f"nft delete table inet {name} 2>/dev/null || :" for name in (_CUT, _SLOW, _OTHER))


def _table(name: str, kind: str = "filter", **rules: str) -> str:
    """Anew, in one transaction, whether it is there or not."""
    priority = "-100" if kind == "nat" else "-300"
    chains = "".join(
        f" chain {hook} {{ type {kind} hook {hook} priority {priority}; {rule}; }};"
        for hook, rule in rules.items()
    )
    return (
        f"echo 'table inet {name}; delete table inet {name}; table inet {name} {{{chains} }}' |"
        " nft -f -"
    )
