"""What lies at some paths, and which version of them a service last took up."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.tree import NOTHING, Found

#: One small file per service: the digest of the files that it last took up.
STAMPS = "/var/lib/vllm-hosts/stamps"

_KINDS = {
    "regular file": "f",
    "regular empty file": "f",
    "directory": "d",
    "symbolic link": "l",
}


@dataclass(frozen=True)
class TreeFound:
    """``paths`` has an entry for every path asked for; ``stamp`` is empty where there is none."""

    paths: dict[str, Found]
    stamp: str


class TreeState(HostFact[TreeFound]):
    """Kind, mode, owner and digest of paths, without reading what is in them."""

    what = "the state of files"

    def command(self, paths: list[str], stamp: str | None = None) -> str:
        words = " ".join(quote(path) for path in paths)
        return ending(
            f"""
            echo '== stat'; stat -c '%F|%a|%U|%u|%G|%g|%n' -- {words} 2>/dev/null
            echo '== sha256'
            # Opens no link and no FIFO, and nothing that is not there.
            find {words} -maxdepth 0 -type f -exec sha256sum -- {{}} + 2>/dev/null
            echo '== stamp'; cat {quote(f"{STAMPS}/{stamp or '-'}")} 2>/dev/null; echo
            echo '== asked'; printf '%s\\n' {words}
            """
        )

    def parse(self, lines: list[str]) -> TreeFound:
        parts = sections(lines)
        digests = {line[66:]: line[:64] for line in parts["sha256"]}
        paths = dict.fromkeys(parts["asked"], NOTHING)
        for line in parts["stat"]:
            kind, mode, user, uid, group, gid, path = line.split("|", 6)
            letter = _KINDS.get(kind, "o")
            paths[path] = Found(
                kind=letter,
                mode=int(mode, 8),
                owner=(user, uid),
                group=(group, gid),
                sha256=digests[path] if letter == "f" else "",
            )
        return TreeFound(paths, "".join(parts["stamp"]))
