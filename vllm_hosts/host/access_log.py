"""What the edge's access log says of tokens: added up on the host, which has it, and read here.

Logs may be hundreds of megabytes, so a host's own awk and gzip do that, and what leaves it is a
line for each client, model or day.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from shlex import quote

from vllm_hosts.text import clean

#: Of what is counted, by its name on the command line: how awk finds it in a line.
KEYS = {"client": 'word("client")', "model": 'word("model")', "day": "day"}
#: What clients, models and days look like. Spreadsheets, which compute "=1+1", get it too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")
#: More lines than people read, or clients that anybody has.
MOST_ROWS = 5000
#: Seconds for all logs of a host.
LIMIT = 900


@dataclass(frozen=True)
class Counts:
    """``uncounted``: requests that were answered, and nobody knows with how many tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True)
class TokenSums:
    """What a host's logs say: from when on they reach, and the counts by client, model or day."""

    since: str | None
    counts: dict[str, Counts]


def script(folder: str, by: str, since: str) -> str:
    """Shell: add up the logs in ``folder`` by one of ``KEYS``, from the day ``since`` on.

    While logs are rotated they change their names, and one could be read twice, or not at all; then
    all are read again.
    """
    return f"""
        cd {quote(folder)}
        names() {{ ls -1i -- access.log*; }}
        for _ in 1 2 3; do
            before=$(names)
            found=$(
                for file in access.log*; do
                    case "$file" in
                        *.gz) nice -n 19 gzip -dc -- "$file" ;;
                        *) cat -- "$file" ;;
                    esac
                    echo # A full disk may have cut its last line.
                done | nice -n 19 timeout {LIMIT} awk -v since={quote(since)} '{_awk(by)}'
            )
            [ "$before" != "$(names)" ] || break
            found='changed'
        done
        printf '%s\\n' "$found"
    """


def _awk(by: str) -> str:
    # Numbers beyond 31 bits are not %d for every awk.
    return f"""
        function word(name,    at, rest) {{
            at = index($0, "\\"" name "\\":\\"")
            if (!at) return ""
            rest = substr($0, at + length(name) + 4, 300)
            return substr(rest, 1, index(rest, "\\"") - 1)
        }}
        function number(name,    at, rest) {{
            at = index($0, "\\"" name "\\":")
            if (!at) return -1
            rest = substr($0, at + length(name) + 3, 16)
            return rest ~ /^[0-9]/ ? rest + 0 : -1
        }}
        {{
            day = substr(word("time"), 1, 10)
            if (day !~ /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]$/) next
            if (first == "" || day < first) first = day
            # What came through a gateway is counted there.
            if (index($0, "\\"gateway\\":\\"")) next
            if (day < since || index($0, "\\"client\\":\\"\\"")) next
            prompt = number("prompt_tokens"); completion = number("completion_tokens")
            if (prompt < 0 && completion < 0) {{
                if (!index($0, "\\"method\\":\\"POST\\"") || number("status") != 200) next
                if (word("path") ~ /count_tokens$|cancel$/) next
                key = {KEYS[by]}; uncounted[key]++; keys[key]; next
            }}
            key = {KEYS[by]}; keys[key]; requests[key]++
            cached = number("cached_tokens")
            if (prompt > 0) prompts[key] += prompt
            if (cached > 0) caches[key] += cached
            if (completion > 0) completions[key] += completion
        }}
        END {{
            print "since " first
            for (key in keys) {{
                if (++rows > {MOST_ROWS}) {{ print "many"; exit }}
                printf "%.0f %.0f %.0f %.0f %.0f %s\\n", requests[key], prompts[key], caches[key],
                    completions[key], uncounted[key], key
            }}
        }}"""


def read_usage(lines: list[str]) -> TokenSums:
    """Of what the script printed.

    :raises ValueError: it is something else.
    """
    first, *rows = lines
    word, _, since = first.partition(" ")
    if word != "since":
        raise ValueError(f"{first[:80]!r} is not where the logs begin")
    counts: dict[str, Counts] = {}
    for row in rows:
        *numbers, name = row.split(" ", 5)
        found = Counts(*(_number(one) for one in numbers))
        if len(numbers) != 5:
            raise ValueError(f"{row[:80]!r} is no line of counts")
        # Of clients, models and days; a line that the log lost half of has something else.
        key = name if _NAME.fullmatch(name) else ""
        counts[key] = counts.get(key, Counts()) + found
    return TokenSums(clean(since, 10) or None, counts)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError(f"{text[:80]!r} is no count")
    return int(text)


def together(found: Iterable[TokenSums]) -> dict[str, Counts]:
    """The sums over hosts."""
    sums: dict[str, Counts] = {}
    for usage in found:
        for key, counts in usage.counts.items():
            sums[key] = sums.get(key, Counts()) + counts
    return sums
