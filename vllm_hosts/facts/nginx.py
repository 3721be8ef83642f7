"""Which nginx a host has, and whether it runs."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.facts.base import HostFact, ending, sections


@dataclass(frozen=True)
class Nginx:
    """``version_text`` is what ``nginx -V`` prints; empty where nginx is not installed."""

    version_text: str
    active: bool
    enabled: bool


class NginxState(HostFact[Nginx]):
    """Version and unit of nginx."""

    what = "nginx"

    def command(self) -> str:
        return ending(
            """
            echo '== version'; ! command -v nginx >/dev/null || nginx -V 2>&1
            echo '== active'; systemctl is-active nginx.service 2>/dev/null
            echo '== enabled'; systemctl is-enabled nginx.service 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> Nginx:
        parts = sections(lines)
        return Nginx(
            version_text="\n".join(parts["version"]),
            active=parts["active"] == ["active"],
            enabled=parts["enabled"] == ["enabled"],
        )
