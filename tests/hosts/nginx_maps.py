"""Who nginx lets in, read from the configuration that it says it has. No key leaves the host."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from vllm_hosts.errors import HostError
from vllm_hosts.host.paths import EDGE_FOLDER

#: How the two headers that may bring a key become one form: all that the map from them may have.
_RULES = frozenset(
    hashlib.sha256(line.encode()).hexdigest()
    for line in (
        r'"~^\n(?i:bearer) +(?<vllm_hosts_key>\S+)\z" "Bearer $vllm_hosts_key";',
        r'"~^(?<vllm_hosts_key>\S+)\n\z" "Bearer $vllm_hosts_key";',
        r'"~^(?<vllm_hosts_key>\S+)\n(?i:bearer) +\k<vllm_hosts_key>\z" "Bearer $vllm_hosts_key";',
    )
)

#: `nginx -T` prints every file that it includes. Of those, and of every map from a key, one line
#: for each entry: its file, the digest of the key as it is presented, and the client. Of a map from
#: the headers the digest of each line. Scopes have no secrets. A key passes from awk to sha256sum
#: by a pipe.
SCRIPT = r"""
set -euo pipefail
LC_ALL=C nginx -T 2>/dev/null | LC_ALL=C awk '
function show(what, text) {
    printf "%s %s ", what, file; fflush()
    command = "sha256sum | cut -c 1-64"
    printf "%s", text | command
    close(command)
}
/^# configuration file .*:$/ { file = $4; sub(/:$/, "", file); inside = rules = 0; next }
{ line = $0; sub(/^[ \t]+/, "", line); sub(/[ \t]+$/, "", line) }
line == "" || line ~ /^#/ { next }
# What makes a key of the headers.
tolower(line) ~ /^map[ \t].*\$\{?http_(authorization|x_api_key)/ {
    rules = 1; print "headers " file; next
}
# The map from a key: in it only where the entries are, and that there is none by default.
line ~ /^map[ \t].*\$\{?vllm_hosts_presented/ && line !~ /^map "\$vllm_hosts_entry\|/ {
    inside = 1; print "map " file; next
}
(inside || rules) && line ~ /^}/ { inside = rules = 0; next }
rules && line ~ /^default[ \t]+"";$/ { next }
rules { show("rule", line); next }
inside && line ~ /^include[ \t]/ { print "include " file " " line; next }
inside && line ~ /^default[ \t]+"";$/ { next }
inside || file ~ /\/clients[^\/]*\.map$/ {
    # "Bearer KEY" "CLIENT Bearer KEY"; # until SECONDS
    if (match(line, /^"[^"]*" "[a-z0-9-]+ [^"]*";/)) {
        split(substr(line, 1, RLENGTH), part, "\"")
        client = part[4]; sub(/ .*/, "", client)
        if (part[4] == client " " part[2] && line !~ /^"[~]/) {
            printf "client %s ", client; show("key", part[2]); next
        }
    }
    show("strange", line); next
}
file ~ /\/scopes[^\/]*\.map$/ { print "scope " file " " line; next }
# Another place that knows a key. What asks for one, and what is sent on, names no key.
tolower(line) ~ /bearer / && line !~ /^add_header WWW-Authenticate Bearer/ &&
    line !~ /^proxy_set_header Authorization "Bearer \$[a-z_]+";$/ { show("strange", line); next }
END { print "end" }'
"""


def _read(entries: Iterable[str]) -> Iterator[list[str]]:
    lines = list(entries)
    maps = any(line.startswith(("map ", "headers ")) for line in lines)
    if not maps or lines[-1] != "end":
        raise HostError("nginx does not show which clients it accepts; is the edge installed?")
    yield from (line.split(" ") for line in lines[:-1])


def clients(entries: Iterable[str]) -> list[tuple[str, str]]:
    """Digest of the key as it is presented, and client, for each entry.

    :raises HostError: this is not what the script prints.
    """
    return [(words[4], words[1]) for words in _read(entries) if words[0] == "client"]


def strange(entries: Iterable[str]) -> list[str]:
    """Places, as sentences, that let somebody in otherwise, or could.

    :raises HostError: this is not what the script prints.
    """
    found = [f"an entry in {words[1]}" for words in _read(entries) if words[0] == "strange"]
    ours = f"include {EDGE_FOLDER}/clients*.map;"
    found += [
        f"{words[1]} has {' '.join(words[2:])}"
        for words in _read(entries)
        if words[0] == "include" and " ".join(words[2:]) != ours
    ]
    found += [
        f"a rule for headers in {words[1]}"
        for words in _read(entries)
        if words[0] == "rule" and words[2] not in _RULES
    ]
    for kind, what in (("map", "keys"), ("headers", "the headers")):
        maps = [words[1] for words in _read(entries) if words[0] == kind]
        found += [f"a second map from {what} in {path}" for path in maps[1:]]
    return found


def refused(entries: Iterable[str]) -> set[tuple[str, str]]:
    """Agent and client, for each that a client may not use.

    :raises HostError: this is not what the script prints, or an entry of a scope cannot be read.
    """
    found = set()
    for words in _read(entries):
        if words[0] == "scope":
            entry = re.fullmatch(r'"([a-z0-9-]+) ([a-z0-9-]+)" 1;', " ".join(words[2:]))
            # One that says otherwise, such as 0, changes what others say.
            found.add((entry[1], entry[2]) if entry else (" ".join(words[2:]), ""))
    return found
