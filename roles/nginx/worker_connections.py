"""How many connections nginx may have, in the distribution's own nginx.conf. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_hosts.errors import HostError
from vllm_hosts.host.files import Absent, Entry, File
from vllm_hosts.host.nginx import LIMITS_CONF, MAIN_CONF, MainConf
from vllm_hosts.settings.edge import Edge
from vllm_hosts.settings.fleet import GatewayHost

_MODULES = "/etc/nginx/modules-enabled/*.conf"
#: For connections without a key, also unfinished ones. The firewall limits those of one source.
_STRANGERS = 8192

#: A comment, a quoted word, a bare word, or one of ; { }
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s;{}"'#][^\s;{}]*|[;{}]""")


@dataclass(frozen=True)
class _Directive:
    """A directive: the blocks around it, its words, and the position of its first value."""

    blocks: tuple[str, ...]
    words: tuple[str, ...]
    start: int
    end: int


def worker_connections(
    edge: Edge, gateways: Sequence[GatewayHost] = (), *, both: bool = False
) -> int:
    """Connections that each worker must be able to hold, since one worker may get all of them.

    A request that is forwarded to an agent takes two: the client's and the agent's.

    :param gateways: those in front, which let clients in by settings of their own.
    :param both: the host is one of them, and passes its clients' requests on besides.
    """
    passed_on = sum(one.requests for one in gateways)
    most = edge.requests + passed_on if both else max(edge.requests, passed_on)
    return 2 * most + _STRANGERS


def open_files(connections: int) -> int:
    """Open files: one for each connection, and one for each large body that is buffered on disk."""
    return 2 * connections


_KINDS = {"d": "directory", "l": "symbolic link"}


def connection_entries(
    edge: Edge,
    found: MainConf | None,
    gateways: Sequence[GatewayHost] = (),
    *,
    both: bool = False,
) -> list[Entry]:
    """nginx.conf with its numbers raised if they are too small, otherwise byte for byte as it is.

    :param found: the host's; None: nginx is not installed yet.
    :raises HostError: its numbers cannot be found.
    """
    if found is None:
        return []
    if found.kind != "f":
        kind = _KINDS.get(found.kind, "special file")
        raise HostError(
            f"{MAIN_CONF} is a {kind}, so its worker_connections cannot be raised; make it a"
            " regular file"
        )
    connections = worker_connections(edge, gateways, both=both)
    text = found.content.decode("latin-1")
    text, has_limit = raised(text, connections)
    main = File(
        MAIN_CONF, text.encode("latin-1"), found.mode, found.owner, found.group, partly=True
    )
    if has_limit:
        return [main, Absent(LIMITS_CONF)]
    limit = f"worker_rlimit_nofile {open_files(connections)};\n"
    head = "# Managed by vllm-hosts. Every connection of a worker is an open file.\n"
    return [main, File(LIMITS_CONF, (head + limit).encode())]


def raised(text: str, connections: int) -> tuple[str, bool]:
    """The text of nginx.conf with this many connections, and whether it limits open files.

    :raises HostError: a number cannot be raised where it is.
    """
    directives = list(_directives(text))
    wanted = {"worker_connections": connections, "worker_rlimit_nofile": open_files(connections)}
    found = [
        one
        for one in directives
        if (one.blocks, one.words[0])
        in ((("events",), "worker_connections"), ((), "worker_rlimit_nofile"))
    ]
    if [one.words[0] for one in found].count("worker_connections") != 1:
        raise HostError(
            f"{MAIN_CONF} has no block 'events' with one worker_connections in it, so nginx cannot"
            " be given room for all clients; write 'events { worker_connections 768; }' there"
        )
    has_limit = any(one.words[0] == "worker_rlimit_nofile" for one in found)
    if not has_limit and not any(
        one.blocks == () and one.words == ("include", _MODULES) for one in directives
    ):
        raise HostError(
            f"{MAIN_CONF} neither sets worker_rlimit_nofile nor includes {_MODULES}, so nginx"
            f" cannot be given enough open files; write 'include {_MODULES};' there"
        )
    for one in reversed(found):
        name, *values = one.words
        if len(values) != 1 or not values[0].isdigit():
            raise HostError(f"{MAIN_CONF}: {name} is {' '.join(values)!r}, which is not a number")
        if int(values[0]) < wanted[name]:
            text = f"{text[: one.start]}{wanted[name]}{text[one.end :]}"
    return text, has_limit


def _directives(text: str) -> Iterator[_Directive]:
    """All simple directives, with the blocks around them."""
    blocks: list[str] = []
    words: list[re.Match[str]] = []
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "{":
                blocks.append(words[0][0] if words else "")
                words = []
            case "}":
                blocks = blocks[:-1]
                words = []
            case ";":
                if words:
                    value = words[1] if len(words) > 1 else words[0]
                    plain = tuple(word[0].strip("\"'") for word in words)
                    yield _Directive(tuple(blocks), plain, value.start(), value.end())
                words = []
            case word if not word.startswith("#"):
                words.append(token)
