"""What stat says of paths: one way to ask, one type. Nothing here touches a host."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_hosts.host.files import Found

_FORMAT = "%F|%a|%U|%u|%G|%g|%n"
#: Of an empty file, stat has another word.
_KINDS = {
    "regular file": "f",
    "regular empty file": "f",
    "directory": "d",
    "symbolic link": "l",
}


def query(words: str) -> str:
    """Shell: a line for each of these paths that is there. No link is followed.

    :param words: the paths, quoted.
    """
    return f"stat -c '{_FORMAT}' -- {words} 2>/dev/null"


def read(lines: Iterable[str]) -> dict[str, Found]:
    """By path, what is there, without its digest.

    :raises ValueError: a line is not one of stat.
    """
    found = {}
    for line in lines:
        kind, mode, user, uid, group, gid, path = line.split("|", 6)
        found[path] = Found(_KINDS.get(kind, "o"), int(mode, 8), (user, uid), (group, gid))
    return found
