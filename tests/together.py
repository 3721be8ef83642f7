"""Several pytests that share tests among them, in one line."""

from __future__ import annotations

import re
from collections import Counter


def together(last_lines: list[str]) -> str:
    """What pytests say at their ends, in one line."""
    counts: Counter[str] = Counter()
    for line in last_lines:
        for number, word in re.findall(r"(\d+) ([a-z]+)", line.partition(" in ")[0]):
            counts[word] += int(number)
    return "Together: " + ", ".join(f"{number} {word}" for word, number in counts.items())
