"""What a host can go back to."""

from __future__ import annotations

import re

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.paths import FIREWALL_RULES, WAY_BACK
from vllm_hosts.host.way_back import Guarded, KeptDefinition, Stored, Undone, WayBack

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Bytes of a definition.
_MOST = 256 << 10


class WayBackFound(HostFact[WayBack]):
    """The definitions that deploys have seen healthy, and what the firewall guards."""

    what = f"what was kept for a way back (remove {WAY_BACK} to go on without it)"
    steady = True

    def command(self, directory: str) -> str:
        """:param directory: holds compose.yaml."""
        return ending(
            f"""
            digest() {{ [ ! -f "$1" ] || {{ sum=$(sha256sum <"$1"); echo "${{sum%% *}}"; }}; }}
            at() {{ date -u -r "$1" '+%Y-%m-%d %H:%M:%S UTC'; }}
            echo '== present'; digest {directory}/compose.yaml
            for one in now before; do
                echo "== $one"
                # Half of one is none, and the next deploy writes it again.
                cd {WAY_BACK}/$one 2>/dev/null && [ -f definition.json ] && [ -f compose.yaml ] ||
                    continue
                digest compose.yaml; at definition.json; head -c {_MOST} definition.json
            done
            echo '== undone'
            [ ! -f {WAY_BACK}/undone ] || {{
                head -c 100 {WAY_BACK}/undone; echo; at {WAY_BACK}/undone; }}
            echo '== guarded'
            # The file alone keeps nobody out: somebody may have flushed what it loads.
            ! nft list table inet vllm_hosts >/dev/null 2>&1 ||
                sed -n 's/.*ip daddr \\([^ ]*\\) meta skuid.*/network \\1/p
                    s/.*oif "lo" .*tcp dport {{ \\(.*\\) }} meta skuid.*/ports \\1/p' \\
                    {FIREWALL_RULES} 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> WayBack:
        parts = sections(lines)
        present = "".join(parts["present"])
        guarded = dict(line.split(" ", 1) for line in parts["guarded"])
        undone = parts["undone"]
        return WayBack(
            _digest(present) if present else "",
            _stored(parts["now"]),
            _stored(parts["before"]),
            Undone(_digest(undone[0]), undone[1]) if undone else None,
            Guarded(
                guarded.get("network", ""),
                frozenset(int(port) for port in guarded.get("ports", "").split(", ") if port),
            ),
        )


def _stored(lines: list[str]) -> Stored | None:
    if not lines:
        return None
    digest, at, text = lines
    definition = KeptDefinition.read(text)
    return None if definition is None else Stored(definition, _digest(digest), at)


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError(text[:100])
    return text
