"""What is at some paths, and which version of them a service last loaded."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import stat
from vllm_hosts.host.files import NOTHING, READ_AT_MOST, Found
from vllm_hosts.host.masks import MASKED, keys
from vllm_hosts.host.paths import DEPLOYED, EDGE_FOLDER, STAMPS

_NOTED = re.compile(r"([0-9a-f]{64}|-)  (/.*)")


@dataclass(frozen=True)
class TreeFound:
    """``paths`` has an entry for every path asked for; ``stamp`` is empty where there is none."""

    paths: dict[str, Found]
    stamp: str


class TreeState(HostFact[TreeFound]):
    """Kind, mode, owner and digest of paths, without reading what is in them."""

    what = "the state of files"
    steady = True
    _content = True

    def command(self, paths: list[str], stamp: str | None = None, content: bool = True) -> str:
        """:param content: whether digests are wanted; of a log they cost as much as it is long."""
        self._content = content
        words = " ".join(quote(path) for path in paths)
        noted = f"{STAMPS}/{stamp}"
        read_stamp = f"[ ! -f {quote(noted)} ] || cat {quote(noted)}" if stamp else ":"
        return ending(
            f"""
            echo '== stat'; {stat.query(words)}
            echo '== sha256'
            # Opens no link and no FIFO, and nothing that is not there.
            set --
            for path in {words if content else ""}; do
                [ ! -f "$path" ] || [ -L "$path" ] || set -- "$@" "$path"
            done
            [ $# = 0 ] || sha256sum -- "$@" 2>/dev/null
            echo '== stamp'; {read_stamp} 2>/dev/null; echo
            echo '== deployed'
            [ ! -e {DEPLOYED} ] || {{
                echo noted
                awk 'BEGIN {{ for (n = 2; n < ARGC; n++) asked[ARGV[n]]; ARGC = 2 }} $2 in asked' \
                    {DEPLOYED} {words}
            }}
            echo '== asked'; printf '%s\\n' {words}
            """
        )

    def parse(self, lines: list[str]) -> TreeFound:
        parts = sections(lines)
        digests = {line[66:]: line[:64] for line in parts["sha256"]}
        paths = dict.fromkeys(parts["asked"], NOTHING)
        for path, found in stat.read(parts["stat"]).items():
            read = found.kind == "f" and self._content
            paths[path] = replace(found, sha256=digests[path] if read else "")
        if noted := parts["deployed"]:
            digests_of: dict[str, list[str]] = {path: [] for path in paths}
            for line in noted[1:]:
                if not (note := _NOTED.fullmatch(line)):
                    raise ValueError(line[:200])
                digests_of[note[2]].append(note[1].removeprefix("-"))
            for path, known in digests_of.items():
                paths[path] = replace(paths[path], deployed=tuple(known))
        return TreeFound(paths, "".join(parts["stamp"]))


class FileTexts(HostFact[dict[str, str | None]]):
    """What stands in some files that are not secret, with every key of the host masked.

    None for what is no regular file, is not text, or is larger than ``READ_AT_MOST``. Only for
    paths in folders that nobody but root can write.
    """

    what = "the content of files"

    def command(self, paths: Sequence[str], directory: str, edge_folder: str = EDGE_FOLDER) -> str:
        """:param directory: holds .env, with keys to mask."""
        script = [keys(directory, edge_folder)]
        for path in paths:
            script += [
                f"echo {quote(f'== {path}')}",
                f"if [ -f {quote(path)} ] && [ ! -L {quote(path)} ] &&"
                f' [ "$(stat -c %s {quote(path)})" -le {READ_AT_MOST} ]; then',
                # A byte that is in no text stands for the one at which awk would stop.
                f"echo text; tr '\\0' '\\1' <{quote(path)} | {MASKED} | base64 || exit 1; fi",
            ]
        return ending("\n".join(script))

    def parse(self, lines: list[str]) -> dict[str, str | None]:
        return {path: _text(read) for path, read in sections(lines).items()}


def _text(read: list[str]) -> str | None:
    if not read:
        return None
    content = base64.b64decode("".join(read[1:]), validate=True)
    # A host may lie about sizes; awk ends a last line that had no end.
    if len(content) > READ_AT_MOST + 1:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\x01" in text else text
