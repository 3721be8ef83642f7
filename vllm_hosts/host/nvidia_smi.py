"""What ``nvidia-smi`` prints, as values. Touches no host.

Field names and formats: ``nvidia-smi --help-query-gpu``; exit codes: nvidia-smi(1), RETURN VALUE.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
#: Drivers up to 470 do not know this field, and then print nothing at all.
_NEWER_FIELDS = frozenset({"compute_cap"})
_ABSENT = ("[N/A]", "N/A", "[Not Supported]", "Not Supported")

#: Seconds that nvidia-smi may take. With a module that hangs it never answers.
PATIENCE = 60
#: Bytes that are read of its output; a hundred cards take a few thousand.
_MOST = 200_000
#: Shell lines that query every card, and end with the exit code. nvidia-smi prints its errors on
#: standard output.
QUERY = f"""
if command -v nvidia-smi >/dev/null; then
    # A program that prints for ever ends with the pipe; its answer then has no exit code.
    gpus=$({{ timeout -k 5 {PATIENCE} nvidia-smi --query-gpu={",".join(FIELDS)} \\
        --format=csv,noheader,nounits 2>&1; echo "exit $?"; }} | head -c {_MOST})
    case $gpus in *'is not a valid field'*)
        gpus=$({{ timeout -k 5 {PATIENCE} nvidia-smi --format=csv,noheader,nounits 2>&1 \\
            --query-gpu={",".join("index" if name in _NEWER_FIELDS else name for name in FIELDS)}
            echo "exit $?"; }} | head -c {_MOST}) ;;
    esac
    echo "$gpus"
else
    echo 'nvidia-smi is not installed: the driver is missing'; echo 'exit 127'
fi
""".strip()
#: Exit codes of ``timeout``: when the time was up, and when it had to kill.
_TIMED_OUT = ("exit 124", "exit 137")
#: Lines of warnings that are quoted; a driver gone mad may print any number.
_MOST_NOTES = 20


@dataclass(frozen=True)
class Gpu:
    """One card. ``memory_mib`` is None if the card reports no memory of its own.

    ``compute_capability``: such as ``(9, 0)``; None: the driver is too old to report it. ``mig``
    and ``persistence``: whether they are on; None for cards without them.
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
    """The cards that answer, or none and the driver's own ``message``.

    ``lost``: by index, the message for each card that is listed but does not answer. ``notes``:
    what else was printed, such as warnings or the reason for a non-zero exit code.
    """

    gpus: tuple[Gpu, ...]
    message: str | None
    lost: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def driver(self) -> str | None:
        """The driver's version, such as ``590.48.01``."""
        return self.gpus[0].driver if self.gpus else None

    def trouble(self, wanted: Iterable[int]) -> str | None:
        """Why some card cannot be used: the driver's message, or the first lost card's."""
        lost = [index for index in sorted(wanted) if index in self.lost]
        return self.message or (f"GPU {lost[0]}: {self.lost[lost[0]]}" if lost else None)


def parse(lines: Sequence[str]) -> Smi:
    """From the output of ``QUERY``. Lines that are cards count, whatever is printed around them.

    :raises ValueError: nvidia-smi succeeded, but no line is a card.
    """
    *said, code = [clean(line, 2000, keep="") for line in lines] or [""]
    if not re.fullmatch(r"exit \d{1,3}", code):
        raise ValueError(f"no exit code at the end: {code!r}")
    gpus: dict[int, Gpu] = {}
    lost: dict[int, str] = {}
    notes: list[str] = []
    for line in said:
        row = next(csv.reader([line], skipinitialspace=True, strict=False), [])
        row = [item.strip() for item in row]
        if len(row) > 1 and row[0].isdecimal() and row[0].isascii() and (why := _lost(row[1:])):
            lost[int(row[0])] = why
        elif (gpu := _gpu(row)) is not None:
            gpus[gpu.index] = gpu
        elif line.strip():
            notes.append(line.strip())
    words = " ".join(" ".join(notes).split())
    if code in _TIMED_OUT:
        words = " ".join([f"nvidia-smi did not answer within {PATIENCE} s", *words.split()])
        notes.insert(0, f"nvidia-smi did not finish within {PATIENCE} s")
    if gpus:
        return Smi(tuple(gpus.values()), None, lost, tuple(notes[:_MOST_NOTES]))
    if lost:
        index, why = next(iter(lost.items()))
        return Smi((), f"GPU {index}: {why}", lost, tuple(notes[:_MOST_NOTES]))
    if code == "exit 0" and words and words != "No devices were found":
        raise ValueError(f"nvidia-smi lists no card that can be read: {clean(words, 500)!r}")
    if code == "exit 0":
        return Smi((), "No devices were found")
    return Smi((), words or f"nvidia-smi ended with {code.removeprefix('exit ')} and no output")


def _lost(fields: Sequence[str]) -> str | None:
    """What is printed in place of a lost card's values, such as ``GPU is lost``.

    Numbers may be missing for other reasons; a name or a UUID never is.
    """
    gone = [item for item in fields if _GONE.search(item)]
    found = gone or [item for item in fields[:2] if item.startswith("[") and item not in _ABSENT]
    return found[0].strip("[]") if found else None


def _gpu(row: Sequence[str]) -> Gpu | None:
    """A card, if the fields are one. Only a name may contain a comma."""
    if len(row) < len(FIELDS):
        return None
    index, *names = row[: len(row) - len(FIELDS) + 2]
    uuid, memory, driver, capability, mig, persistence = row[len(row) - len(FIELDS) + 2 :]
    version = _CAPABILITY.fullmatch(capability)
    if not (
        _NUMBER.fullmatch(index)
        and uuid
        and (_NUMBER.fullmatch(memory) or _says_why(memory))
        and driver
        and not _says_why(driver)
        and (version or _says_why(capability))
        and all(item in _SWITCH or _says_why(item) for item in (mig, persistence))
    ):
        return None
    return Gpu(
        index=int(index),
        name=", ".join(names),
        uuid=uuid,
        memory_mib=int(memory) if _NUMBER.fullmatch(memory) else None,
        driver=driver,
        compute_capability=(int(version[1]), int(version[2])) if version and version[2] else None,
        mig=_SWITCH.get(mig),
        persistence=_SWITCH.get(persistence),
    )


def _says_why(field: str) -> bool:
    """Whether a field gives a reason and no value: ``[Not Supported]``, ``[Unknown Error]`` ..."""
    return (field.startswith("[") and field.endswith("]")) or field in _ABSENT


_GONE = re.compile(r"^\[?GPU (is lost|requires reset)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,9}")
#: Old drivers are asked for the index in its place.
_CAPABILITY = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,3}))?")
_SWITCH = {"Enabled": True, "Disabled": False}


#: Part of a message -> what the operator can do, and whether a reboot would help.
_CAUSES = (
    ("version mismatch", "the driver was updated and the old kernel module still runs", True),
    (
        "GPU is lost",
        "the card has fallen off the bus; if it recurs, check power and riser",
        True,
    ),
    ("Unable to determine the device handle", "a card does not answer; dmesg has an Xid", True),
    ("did not answer within", "the driver or a card hangs; dmesg may have an Xid", False),
    ("GPU requires reset", "a card needs a reset", True),
    ("Unknown Error", "a card does not answer; dmesg has an Xid", True),
    ("No devices were found", "the driver runs but claims no card; dmesg shows why", False),
    ("libnvidia-ml", "the driver's libraries are missing", False),
    ("couldn't communicate", "the kernel module does not run", False),
    ("not installed", "there is no driver", False),
)


def cause(message: str) -> str:
    """What a failure's message means, in a few words; empty if it is not known."""
    return next((meaning for part, meaning, _ in _CAUSES if part in message), "")


def reboot_helps(message: str) -> bool:
    """Whether the driver is installed, but needs a reboot to answer."""
    return next((helps for part, _, helps in _CAUSES if part in message), False)
