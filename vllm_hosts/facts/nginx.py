"""Which nginx a host has, whether it runs, and its main configuration."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass

from vllm_hosts.facts.base import HostFact, ending, sections

#: The distribution's own file.
MAIN_CONF = "/etc/nginx/nginx.conf"


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


@dataclass(frozen=True)
class MainConf:
    """nginx.conf, byte for byte. ``kind`` in stat's words; ``content`` of regular files only."""

    kind: str
    content: bytes
    mode: int
    owner: str
    group: str


class NginxMainConf(HostFact[MainConf | None]):
    """The distribution's nginx.conf; None where there is none."""

    what = MAIN_CONF

    def command(self) -> str:
        return ending(
            f"""
            echo '== stat'; stat -c '%F|%a|%U|%G' {MAIN_CONF} 2>/dev/null
            echo '== content'; [ ! -f {MAIN_CONF} ] || base64 -w 0 {MAIN_CONF}
            """
        )

    def parse(self, lines: list[str]) -> MainConf | None:
        parts = sections(lines)
        if not parts["stat"]:
            return None
        [stat] = parts["stat"]
        kind, mode, owner, group = stat.split("|")
        content = b64decode("".join(parts["content"]), validate=True)
        return MainConf(kind, content, int(mode, 8), owner, group)
