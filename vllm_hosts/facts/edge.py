"""Whether the edge is there to be told anything."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.nginx import INTERNAL_MAP
from vllm_hosts.host.systemctl import IS_ACTIVE, active


class EdgeRuns(HostFact[bool]):
    """Whether the host has an edge of ours that serves clients now."""

    what = "the edge"

    def command(self) -> str:
        return ending(f"echo '== edge'; [ ! -s {INTERNAL_MAP} ] || {IS_ACTIVE} nginx.service")

    def parse(self, lines: list[str]) -> bool:
        return active(sections(lines)["edge"]).runs
