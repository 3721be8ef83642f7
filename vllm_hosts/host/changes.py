"""Shows people what changed in a file: masked, sanitised and bounded. Touches no host."""

from __future__ import annotations

import difflib

from vllm_hosts.host.files import READ_AT_MOST
from vllm_hosts.settings.masks import masked
from vllm_hosts.text import clean

#: Lines shown of one file, and characters of a line.
LINES, LONGEST = 60, 200
_CONTEXT = 1
ONLY_MASKED = "what differs is masked, or at the end of a long line"
NOT_SHOWN = "its content is secret, and not shown"
#: Lines of one text times lines of the other. With more, a host could keep difflib busy for hours.
_COMPARED = 4000**2
NOT_TEXT = f"its content is not shown: not text, or more than {READ_AT_MOST >> 10} KiB"


def changed_lines(before: str, after: str, *, context: int = _CONTEXT) -> list[str]:
    """A unified diff without its heading, with the secrets in both texts masked."""
    old, new = ([_shown(line) for line in masked(text)] for text in (before, after))
    if len(old) * len(new) > _COMPARED:
        lines = _from_the_first(old, new)
    else:
        lines = list(difflib.unified_diff(old, new, lineterm="", n=context))[2:]
    if not lines:
        return [ONLY_MASKED if before.splitlines() != after.splitlines() else _ENDS]
    if len(lines) > LINES:
        return [*lines[:LINES], f"... and {len(lines) - LINES} more lines"]
    return lines


def _from_the_first(old: list[str], new: list[str]) -> list[str]:
    """For very long texts: all lines from the first difference on."""
    pairs = enumerate(zip(old, new, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(old), len(new)))
    gone, come = old[at:], new[at:]
    if not (gone or come):
        return []
    half = LINES // 2
    few = [*(f"-{line}" for line in gone[:half]), *(f"+{line}" for line in come[:half])]
    return [f"@@ line {at + 1}: too many lines to compare any further @@", *few][:LINES]


_ENDS = "only the line endings differ"


def _shown(line: str) -> str:
    # A key may have been masked before: what was cut in two must not become whole here.
    return clean(line, LONGEST, instead="\ufffd")
