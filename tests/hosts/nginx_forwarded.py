"""Which headers with keys nginx sends on to agents, from the configuration that it says it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch

from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import EDGE_CONF

#: Blocks and the few directives that matter here, one a line. Quoted text is gone before anything
#: is printed, and maps, which hold keys, are left out.
SCRIPT = r"""
set -euo pipefail
LC_ALL=C nginx -T 2>/dev/null | LC_ALL=C awk '
/^# configuration file .*:$/ { file = $4; sub(/:$/, "", file); text = ""; print "file " file; next }
file ~ /\.map$/ { next }
{
    line = $0; sub(/^[ \t]*#.*/, "", line)
    while (match(line, /"([^"\\]|\\.)*"|\047([^\047\\]|\\.)*\047/)) {
        quoted = substr(line, RSTART, RLENGTH)
        kind = "TEXT"
        if (quoted == "\"\"") kind = "EMPTY"
        if (quoted == "\"Bearer $vllm_hosts_internal\"") kind = "INTERNAL"
        line = substr(line, 1, RSTART - 1) kind substr(line, RSTART + RLENGTH)
    }
    sub(/[ \t]#.*/, "", line)
    text = text " " line
    while (match(text, /[;{}]/)) {
        said = substr(text, 1, RSTART - 1); mark = substr(text, RSTART, 1)
        text = substr(text, RSTART + 1)
        sub(/^[ \t]+/, "", said)
        split(said, word, /[ \t]+/)
        if (mark == "{") print "open", word[1], word[1] == "location" ? word[2] " " word[3] : ""
        else if (mark == "}") print "close"
        else if (word[1] == "include") print "include " word[2]
        else if (word[1] == "proxy_pass_request_headers") print "request_headers " word[2]
        else if (word[1] == "proxy_set_header") print "header " tolower(word[2]) " " word[3]
        else if (word[1] ~ /_pass$/ && said ~ /vllm_hosts/) print "pass agent"
        else if (word[1] ~ /_pass$/) print "pass other"
    }
}
END { print "end" }'
"""
#: Header that may bring a client's key -> what may be in its place.
_REPLACED = {"authorization": "INTERNAL", "x-api-key": "EMPTY"}


@dataclass
class _Block:
    """One block of nginx's, and what it says of headers itself."""

    name: str
    headers: dict[str, str] = field(default_factory=dict)
    request_headers: str = ""
    passes: bool = False
    blocks: list[_Block] = field(default_factory=list)


def places_that_forward_keys(said: Iterable[str]) -> list[str]:
    """Blocks that send requests to agents with a header that may hold a client's key.

    :raises HostError: this is not what the script prints, or no block sends anything to an agent.
    """
    lines = list(said)
    if not lines or lines[-1] != "end" or not lines[0].startswith("file "):
        raise HostError("nginx does not show its configuration; is the edge installed?")
    files: dict[str, list[str]] = {}
    for line in lines[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "file":
            statements = files.setdefault(rest, [])
        else:
            statements.append(line)
    root = _Block("nginx")
    _read(files, next(iter(files)), [root])
    found = list(_judged(root, {}, "on"))
    if not found:
        raise HostError("nginx sends nothing to an agent; is the edge installed?")
    return [name for name, wrong in found if wrong]


def _read(files: dict[str, list[str]], name: str, inside: list[_Block]) -> None:
    """Everything that a file says, with what it includes in its place."""
    for statement in files[name]:
        kind, _, rest = statement.partition(" ")
        here = inside[-1]
        match kind:
            case "open":
                here.blocks.append(_Block(" ".join(rest.split())))
                inside.append(here.blocks[-1])
            case "close" if len(inside) > 1:
                inside.pop()
            case "include":
                pattern = rest if rest.startswith("/") else f"/etc/nginx/{rest}"
                for other in files:
                    if other != name and fnmatch(other, pattern):
                        _read(files, other, inside)
            case "header":
                header, _, value = rest.partition(" ")
                here.headers[header] = value
            case "request_headers":
                here.request_headers = rest
            case "pass":
                here.passes = here.passes or rest == "agent" or name == EDGE_CONF


def _judged(
    block: _Block, headers: dict[str, str], request_headers: str
) -> Iterator[tuple[str, bool]]:
    """Each block that asks an agent, and whether a client's key may go with it.

    A block has its outer one's headers only if it sets none itself.
    """
    headers = block.headers or headers
    request_headers = block.request_headers or request_headers
    if block.passes:
        replaced = all(headers.get(name) == value for name, value in _REPLACED.items())
        yield block.name, not replaced and request_headers != "off"
    for one in block.blocks:
        yield from _judged(one, headers, request_headers)
