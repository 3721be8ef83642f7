"""What ``docker stats`` prints, as values. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vllm_hosts.bounded import json_object
from vllm_hosts.text import clean

#: Shell: a line of JSON for each container that is named behind it.
STATS: Final = "docker stats --no-stream --format '{{json .}}'"


@dataclass(frozen=True)
class Usage:
    """What a container uses: CPU in percent of one processor, memory in bytes."""

    cpu: float
    memory: int
    memory_limit: int


#: Units that Docker writes sizes in (docker/go-units, BytesSize), and the decimal ones beside them.
_UNITS: Final = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", start=1)},
}


def usages(lines: Iterable[str]) -> dict[str, Usage]:
    """By container, from lines that ``STATS`` prints.

    One that is ending says ``--`` and is left out.

    :raises ValueError: a line is none of these.
    """
    found = {}
    for line in lines:
        one = json_object(line)
        if not all(isinstance(one.get(key), str) for key in ("Name", "CPUPerc", "MemUsage")):
            raise ValueError(f"not a line of docker stats: {clean(line, 200)!r}")
        if "--" in one["CPUPerc"] or "--" in one["MemUsage"]:
            continue
        used, _, limit = one["MemUsage"].partition(" / ")
        found[one["Name"]] = Usage(
            float(one["CPUPerc"].removesuffix("%")), _bytes(used), _bytes(limit)
        )
    return found


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", text.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size")
    return int(float(match[1]) * _UNITS[match[2]])
