"""Which nginx a host has, whether it runs, and its main configuration."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass

from vllm_hosts.facts.base import END, HostFact, ending, sections
from vllm_hosts.facts.nginx_sites import NginxSites
from vllm_hosts.facts.tree import TreeFound, TreeState
from vllm_hosts.host import stat, systemctl
from vllm_hosts.host.nginx import MAIN_CONF, MainConf
from vllm_hosts.host.nginx_sites import Sites


@dataclass(frozen=True)
class Nginx:
    """``version_text`` is what ``nginx -V`` prints; empty where nginx is not installed.

    ``ipv6``: whether the kernel speaks it; ``names_bucket``: the server_names_hash_bucket_size that
    a file other than ours sets for the whole of it.
    """

    version_text: str
    active: bool
    enabled: bool
    ipv6: bool = True
    names_bucket: int | None = None


class NginxState(HostFact[Nginx]):
    """Version and unit of nginx."""

    what = "nginx"
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            echo '== version'; ! command -v nginx >/dev/null || nginx -V 2>&1
            {systemctl.query("nginx.service")}
            echo '== ipv6'; [ ! -e /proc/net/if_inet6 ] || echo present
            echo '== names'
            for file in /etc/nginx/nginx.conf /etc/nginx/conf.d/*.conf /etc/nginx/sites-enabled/*
            do
                [ -f "$file" ] && [ "${{file##*/}}" != vllm-hosts.conf ] || continue
                sed -n 's/^[[:space:]]*server_names_hash_bucket_size[[:space:]]*//p' "$file"
            done
            """
        )

    def parse(self, lines: list[str]) -> Nginx:
        parts = sections(lines)
        return Nginx(
            version_text="\n".join(parts["version"]),
            active=systemctl.active(parts["active"]).runs,
            enabled=systemctl.enabled(parts["enabled"]),
            ipv6=parts["ipv6"] == ["present"],
            names_bucket=next(map(_size, parts["names"]), None),
        )


def _size(text: str) -> int:
    """nginx's sizes: ``128``, ``1k``; a semicolon ends them, and a comment may follow."""
    found = re.match(r"([0-9]{1,9})([kKmM]?)\s*;", text)
    if found is None:
        raise ValueError(f"server_names_hash_bucket_size is {text[:80]!r}")
    return int(found[1]) << {"": 0, "k": 10, "m": 20}[found[2].lower()]


class NginxMainConf(HostFact[MainConf | None]):
    """The distribution's nginx.conf; None where there is none."""

    what = MAIN_CONF
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            echo '== stat'; {stat.query(MAIN_CONF)}
            echo '== content'; [ ! -f {MAIN_CONF} ] || base64 -w 0 {MAIN_CONF}
            """
        )

    def parse(self, lines: list[str]) -> MainConf | None:
        parts = sections(lines)
        if not parts["stat"]:
            return None
        [found] = stat.read(parts["stat"]).values()
        content = b64decode("".join(parts["content"]), validate=True)
        return MainConf(found.kind, content, found.mode, found.owner[0], found.group[0])


@dataclass(frozen=True)
class EdgeFound:
    """All that the edge's plan depends on, and what lies at its paths."""

    nginx: Nginx
    main: MainConf | None
    sites: Sites
    files: TreeFound


class EdgeState(HostFact[EdgeFound]):
    """Four looks in one command, for a question that every run asks."""

    what = "the edge's files"
    steady = True

    def command(self, paths: list[str]) -> str:
        parts = [
            NginxState().command(),
            NginxMainConf().command(),
            NginxSites().command(),
            TreeState().command(paths),
        ]
        return "\n".join(f"(\n{part}\n)" for part in parts)

    def parse(self, lines: list[str]) -> EdgeFound:
        first = lines.index(END)
        second = lines.index(END, first + 1)
        third = lines.index(END, second + 1)
        return EdgeFound(
            NginxState().process(lines[: first + 1]),
            NginxMainConf().process(lines[first + 1 : second + 1]),
            NginxSites().process(lines[second + 1 : third + 1]),
            TreeState().process([*lines[third + 1 :], END]),
        )
