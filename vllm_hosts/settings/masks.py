"""Masks secrets in text that people will see, by their looks and by the name before them.

A host masks the keys that it knows before anything leaves it. This is for secrets that only their
author knows, such as in a line that was added to a file by hand.
"""

from __future__ import annotations

import re

from vllm_hosts.settings.vllm_words import LOGIN_IN_URL, SECRET_VALUE

MASK = "*MASKED*"
#: Characters of a line. The rest is cut off, so that matching stays cheap whatever a host sends.
LONGEST = 400
_NAME = r"(?:key|token|secret|passwd|password|passphrase|credentials?)"
#: ``NAME=value``, ``"name": "value"``, and for options also ``--name value``.
_NAMED = re.compile(
    rf"(?i)(?P<name>[a-z0-9_.-]{{0,60}}{_NAME}[\"']?\s*[:=]\s*|--[a-z0-9_.-]{{0,60}}{_NAME}[\"']?[,\s]\s*)"
    r"(?P<quote>[\"']?)(?P<value>[^\s\"',;#]+)"
)
#: A line with only the name of an option; its value is on the next line.
_OPTION = re.compile(rf"(?i)[\s\"'-]*--[a-z0-9_.-]{{0,60}}{_NAME}[\"']?,?\s*")
_BEARER = re.compile(r"(?i)\b((?:bearer|basic)\s+)[^\s\"'$;]{8,}")
#: Not secrets: digits, switches, paths, and references to a variable.
_HARMLESS = re.compile(
    r"\d+[a-zA-Z%]?|true|false|null|none|on|off|/[\w./-]*|\$\{?\w+.*", re.IGNORECASE
)
#: Random letters and digits. Commits and digests have no capitals, and names have hyphens.
_RANDOM = re.compile(
    r"(?<![\w+=])(?=[\w+=]*[a-z])(?=[\w+=]*[A-Z])(?=[\w+=]*[0-9])[A-Za-z0-9_+=]{32,}"
)
_PRIVATE = re.compile(r"-----(BEGIN|END) [A-Z ]*PRIVATE KEY-----")
_VALUE = re.compile(r"[^\s\"',-][^\s\"',]*")


def masked(text: str) -> list[str]:
    """The lines of a text, with whatever looks like a secret masked."""
    lines: list[str] = []
    private = option = False
    for whole in text.splitlines():
        line = _cut(whole)
        if found := _PRIVATE.search(line):
            private = found[1] == "BEGIN"
            lines.append(line)
            continue
        if private:
            lines.append(MASK)
            continue
        if option:
            line = _VALUE.sub(_unless_harmless, line, count=1)
        option = bool(_OPTION.fullmatch(line))
        lines.append(_masked(line))
    return lines


def _cut(line: str) -> str:
    """Cut a line, but not within a word: the first half of a secret may not look like one."""
    if len(line) <= LONGEST:
        return line
    return re.sub(r"\S{0,400}\Z", "", line[:LONGEST]) + "..."


def _masked(line: str) -> str:
    line = LOGIN_IN_URL.sub(lambda found: found[0].partition("://")[0] + f"://{MASK}@", line)
    line = _BEARER.sub(rf"\1{MASK}", line)
    line = SECRET_VALUE.sub(MASK, line)
    line = _NAMED.sub(_value_of_name, line)
    return _RANDOM.sub(MASK, line)


def _value_of_name(found: re.Match[str]) -> str:
    value = found["value"]
    if value.startswith(MASK) or _HARMLESS.fullmatch(value):
        return found[0]
    return f"{found['name']}{found['quote']}{MASK}"


def _unless_harmless(found: re.Match[str]) -> str:
    return found[0] if _HARMLESS.fullmatch(found[0]) else MASK
