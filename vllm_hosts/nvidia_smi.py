"""What ``nvidia-smi`` says, as values. Touches no host.

Field names and formats: ``nvidia-smi --help-query-gpu``; exit codes: nvidia-smi(1), RETURN VALUE.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_hosts.text import clean

FIELDS = (
    "index",
    "name",
    "uuid",
    "memory.total",
    "driver_version",
    "compute_cap",
    "mig.mode.current",
    "persistence_mode",
)
#: Driver 470 and older do not know this field, and then answer nothing at all.
_NEWER_FIELDS = frozenset({"compute_cap"})
_ABSENT = ("[N/A]", "N/A", "[Not Supported]")

#: Shell lines that ask for every card; they end with the exit code. The failure's own words come on
#: standard output.
QUERY = f"""
if command -v nvidia-smi >/dev/null; then
    gpus=$(nvidia-smi --query-gpu={",".join(FIELDS)} --format=csv,noheader,nounits 2>&1)
    code=$?
    case $gpus in *'is not a valid field'*)
        gpus=$(nvidia-smi --format=csv,noheader,nounits 2>&1 \\
            --query-gpu={",".join("index" if name in _NEWER_FIELDS else name for name in FIELDS)})
        code=$? ;;
    esac
    echo "$gpus"; echo "exit $code"
else
    echo 'nvidia-smi is not installed: the driver is missing'; echo 'exit 127'
fi
""".strip()


@dataclass(frozen=True)
class Gpu:
    """One card. ``memory_mib`` is None where the card has no memory of its own to tell.

    ``compute_capability`` is such as ``(9, 0)``, None where an old driver does not tell it.
    ``mig`` and ``persistence``: whether they are on; None for cards without them.
    """

    index: int
    name: str
    uuid: str
    memory_mib: int | None
    driver: str
    compute_capability: tuple[int, int] | None
    mig: bool | None
    persistence: bool | None


@dataclass(frozen=True)
class Smi:
    """All cards, or none and the driver's own ``message``."""

    gpus: tuple[Gpu, ...]
    message: str | None

    @property
    def driver(self) -> str | None:
        """The driver's version, such as ``590.48.01``."""
        return self.gpus[0].driver if self.gpus else None


def parse(lines: Sequence[str]) -> Smi:
    """From what ``QUERY`` prints.

    :raises ValueError: the lines are neither cards nor a failure's words.
    """
    *said, code = [clean(line, 2000, keep="") for line in lines]
    if not code.startswith("exit "):
        raise ValueError(f"no exit code at the end: {code!r}")
    if code != "exit 0":
        words = " ".join(" ".join(said).split())
        return Smi((), words or f"nvidia-smi ended with {code.removeprefix('exit ')} and no word")
    rows = list(csv.reader(said, skipinitialspace=True))
    for row in rows:
        if lost := [field for field in row[1:] if field.startswith("[") and field not in _ABSENT]:
            return Smi((), f"GPU {row[0]}: {lost[0].strip('[]')}")
    if not rows or rows == [["No devices were found"]]:
        return Smi((), "No devices were found")
    return Smi(tuple(map(_gpu, rows)), None)


def _gpu(row: Sequence[str]) -> Gpu:
    index, name, uuid, memory, driver, capability, mig, persistence = row
    major, dot, minor = capability.partition(".")
    return Gpu(
        index=int(index),
        name=name,
        uuid=uuid,
        memory_mib=None if memory in _ABSENT else int(memory),
        driver=driver,
        compute_capability=(int(major), int(minor)) if dot else None,
        mig=_switch(mig),
        persistence=_switch(persistence),
    )


def _switch(text: str) -> bool | None:
    if text in _ABSENT:
        return None
    if text not in ("Enabled", "Disabled"):
        raise ValueError(f"{text!r} is neither Enabled nor Disabled")
    return text == "Enabled"


#: Part of a message -> what the operator can do, and whether a reboot would help.
_CAUSES = (
    ("version mismatch", "the driver was updated and the old kernel module still runs", True),
    (
        "GPU is lost",
        "the card has left the bus; if again, look at power and riser",
        True,
    ),
    ("Unable to determine the device handle", "a card does not answer; dmesg has an Xid", True),
    ("GPU requires reset", "a card waits for a reset", True),
    ("Unknown Error", "a card does not answer; dmesg has an Xid", True),
    ("No devices were found", "the driver runs but takes no card; dmesg says why", False),
    ("libnvidia-ml", "the driver's libraries are missing", False),
    ("couldn't communicate", "the kernel module does not run", False),
    ("not installed", "there is no driver", False),
)


def cause(message: str) -> str:
    """What a failure's words mean, in a few words; empty where they are not known."""
    return next((meaning for part, meaning, _ in _CAUSES if part in message), "")


def reboot_helps(message: str) -> bool:
    """Whether the driver is there, but only a reboot lets it answer."""
    return next((helps for part, _, helps in _CAUSES if part in message), False)
