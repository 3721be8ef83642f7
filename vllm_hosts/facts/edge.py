"""Whether the edge is there to be told anything."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, is_active, sections
from vllm_hosts.host.nginx import INTERNAL_MAP


class EdgeRuns(HostFact[bool]):
    """Whether the host has an edge of ours that serves clients now."""

    what = "the edge"

    def command(self) -> str:
        return ending(
            f"echo '== edge'; [ ! -s {INTERNAL_MAP} ] || systemctl is-active nginx.service"
        )

    def parse(self, lines: list[str]) -> bool:
        return is_active(sections(lines)["edge"])
