"""Shell that masks a host's keys in text, before the text leaves the host.

``settings/masks.py`` is for secrets that the host does not know. Nothing secret is an argument:
awk reads the keys from the files in which the host has them.
"""

from __future__ import annotations

from shlex import quote
from typing import Final

from vllm_hosts.host.paths import EDGE_FOLDER
from vllm_hosts.settings.masks import MASK

#: awk: a line without what is in ``secret``, longer values first, so that nothing is left of one
#: that has another one within. It goes on behind what it has put there, so that a key which is a
#: part of that ends too. Shorter values are no keys, and would mask half of the text.
FUNCTIONS: Final = rf"""
    function keep(value,   at) {{
        sub(/^Bearer /, "", value)
        if (length(value) < 8 || (value in kept)) return
        kept[value]
        for (at = ++secrets; at > 1 && length(secret[at - 1]) < length(value); at--)
            secret[at] = secret[at - 1]
        secret[at] = value
    }}
    function masked(line,   number, value, done, at) {{
        for (number = 1; number <= secrets; number++) {{
            value = secret[number]; done = ""
            while (at = index(line, value)) {{
                done = done substr(line, 1, at - 1) "{MASK}"
                line = substr(line, at + length(value))
            }}
            line = done line
        }}
        return line
    }}
"""
_PROGRAM: Final = rf"""{FUNCTIONS}
    from == "env" {{ if ($0 !~ /^#/ && (at = index($0, "="))) keep(substr($0, at + 1)); next }}
    from == "map" {{ if (split($0, part, "\"") > 1) keep(part[2]); next }}
    {{ print masked($0) }}
"""
#: The filter itself: a command of a pipe, once ``keys`` has run.
MASKED: Final = f'awk {quote(_PROGRAM)} "$@" from=text -'


def keys(directory: str, edge_folder: str = EDGE_FOLDER) -> str:
    """Shell: where the host has its keys, as ``MASKED`` takes it: in the place of the arguments.

    :param directory: holds .env.
    """
    files = [("env", f"{directory}/.env")]
    files += [("map", f"{edge_folder}/{name}.map") for name in ("clients", "internal")]
    lines = ["set --"]
    for kind, path in files:
        lines.append(f'[ ! -f {quote(path)} ] || set -- "$@" from={kind} {quote(path)}')
    return "\n".join(lines)
