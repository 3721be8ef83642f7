"""Which headers of clients nginx sends on, from the configuration that it says it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import EDGE_CONF, EDGE_FOLDER

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
#: Header that may bring a client's key -> what may be in its place. A gateway's hosts need none.
_KEYS = {"authorization": ("INTERNAL", "EMPTY"), "x-api-key": ("EMPTY",)}
#: Headers by which a gateway says who asks -> what agents get, and what hosts get from gateways.
_NAMES = {"x-vllm-hosts-client": ("EMPTY",), "x-vllm-hosts-affinity": ("EMPTY",)}
_NAMES_AT_GATEWAYS = {
    "x-vllm-hosts-client": ("$vllm_hosts_client",),
    "x-vllm-hosts-affinity": ("$vllm_hosts_affinity",),
}


#: Included where gateways are answered: what it sends goes to agents, on every machine.
_FOR_GATEWAYS = f"{EDGE_FOLDER}/inner.conf"

Wanted = Mapping[str, tuple[str, ...]]


@dataclass
class _Block:
    """One block of nginx's, the file that has it, and what it says of headers itself."""

    name: str
    file: str
    headers: dict[str, str] = field(default_factory=dict)
    request_headers: str = ""
    passes: bool = False
    blocks: list[_Block] = field(default_factory=list)


def places_that_forward_keys(said: Iterable[str]) -> list[str]:
    """Blocks that send requests on with a header that may hold a client's key.

    :raises HostError: this is not what the script prints, or no block sends anything on.
    """
    return _places(said, _KEYS, _KEYS)


def places_that_forward_names(
    said: Iterable[str], *, gateway: bool, agents: bool = False
) -> list[str]:
    """Blocks that send on what a client itself says about who it is.

    :param gateway: whether this is one, which says so itself.
    :param agents: whether agents run there, for whom gateways have a server of their own.
    :raises HostError: as ``places_that_forward_keys``.
    """
    outside = _NAMES_AT_GATEWAYS if gateway else _NAMES
    return _places(said, outside, _NAMES if agents else outside)


def _places(said: Iterable[str], outside: Wanted, inside: Wanted) -> list[str]:
    """
    :param outside: what headers have to be replaced by where clients are answered; ``inside``:
        where gateways are.
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
    root = _Block("nginx", "")
    _read(files, next(iter(files)), [root])

    def wanted(block: _Block) -> Wanted:
        return inside if block.file == _FOR_GATEWAYS else outside

    found = list(_judged(root, wanted, {}, "on"))
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
                here.blocks.append(_Block(" ".join(rest.split()), name))
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
    block: _Block,
    wanted: Callable[[_Block], Wanted],
    headers: dict[str, str],
    request_headers: str,
) -> Iterator[tuple[str, bool]]:
    """Each block that sends requests on, and whether it has something else in a header than wanted.

    A block has its outer one's headers only if it sets none itself.
    """
    headers = block.headers or headers
    request_headers = block.request_headers or request_headers
    if block.passes:
        replaced = all(headers.get(name) in values for name, values in wanted(block).items())
        yield block.name, not replaced and request_headers != "off"
    for one in block.blocks:
        yield from _judged(one, wanted, headers, request_headers)
