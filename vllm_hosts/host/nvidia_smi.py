"""What ``nvidia-smi`` says, as values: one question, one reader, one type of card. Touches no host.

Field names and formats: ``nvidia-smi --help-query-gpu``; exit codes: nvidia-smi(1), RETURN VALUE.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from vllm_hosts.text import clean

#: What a deploy has to know of a card.
FIELDS: Final = (
    "index",
    "name",
    "uuid",
    "memory.total",
    "driver_version",
    "compute_cap",
    "mig.mode.current",
    "persistence_mode",
)
#: What it does right now.
LOAD: Final = (
    "index",
    "name",
    "memory.used",
    "memory.total",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "power.limit",
    "mig.mode.current",
)
#: Which cards there are, for the doctor.
CARDS: Final = ("index", "name", "memory.total")
#: Errors and slowdowns. The reasons for slow clocks have had two names.
REASONS: Final = ("clocks_event_reasons", "clocks_throttle_reasons")
SLOWDOWNS: Final = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")
_ECC: Final = "ecc.errors.uncorrected.volatile.total"


def health(reasons: str = REASONS[0]) -> tuple[str, ...]:
    """The fields of a card's health; the reasons by one of their names."""
    return ("index", "temperature.gpu", _ECC, *(f"{reasons}.{name}" for name in SLOWDOWNS))


#: Driver 470 and older do not know this field, and then answer nothing at all.
_NEWER_FIELDS = frozenset({"compute_cap"})
_ABSENT = ("[N/A]", "N/A", "[Not Supported]", "Not Supported")

#: Seconds that nvidia-smi may take. With a module that hangs it never answers.
PATIENCE = 60
#: Bytes that are read of its output; a hundred cards take a few thousand.
_MOST = 200_000
#: Where there is no such program. One that its loader cannot start ends with 127 as well.
MISSING = "exit -"


def query(fields: Sequence[str], seconds: int = PATIENCE) -> str:
    """Shell lines that ask for these fields of every card; they end with the exit code.

    The failure's own message is on standard output.
    """
    older = ["index" if name in _NEWER_FIELDS else name for name in fields]
    ask = f"timeout -k 5 {seconds} nvidia-smi --format=csv,noheader,nounits 2>&1 --query-gpu"
    again = f"""
    case $gpus in *'is not a valid field'*)
        gpus=$({{ {ask}={",".join(older)}; echo "exit $?"; }} | head -c {_MOST}) ;;
    esac"""
    return f"""
if command -v nvidia-smi >/dev/null; then
    # A program that prints for ever ends with the pipe; its answer then has no exit code.
    gpus=$({{ {ask}={",".join(fields)}; echo "exit $?"; }} | head -c {_MOST}){
        again if older != list(fields) else ""
    }
    echo "$gpus"
else
    echo '{MISSING}'
fi
""".strip()


QUERY = query(FIELDS)
#: What ``timeout`` ends with: in time, and when it had to kill.
_TIMED_OUT = (124, 137)
#: A warning is quoted, not copied: more than this is a driver that went mad.
_MOST_NOTES = 20


@dataclass(frozen=True)
class Gpu:
    """One card. None: it does not say, as one in MIG mode, or was not asked.

    Memory is in MiB. ``compute_capability`` is such as ``(9, 0)``. ``mig`` and ``persistence``:
    whether they are on. ``utilization`` is in percent of the time, ``temperature`` in degrees
    Celsius, power in watts. ``ecc_errors``: uncorrected ones since the driver was loaded.
    ``hw_thermal_slowdown`` and the like: whether that makes it slow now.
    """

    index: int
    name: str = ""
    uuid: str = ""
    memory_mib: int | None = None
    driver: str = ""
    compute_capability: tuple[int, int] | None = None
    mig: bool | None = None
    persistence: bool | None = None
    memory_used_mib: int | None = None
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    ecc_errors: int | None = None
    hw_thermal_slowdown: bool | None = None
    sw_thermal_slowdown: bool | None = None
    hw_power_brake_slowdown: bool | None = None


@dataclass(frozen=True)
class Failure:
    """Why cards do not answer, in NVIDIA's words, and what they mean, if that is known."""

    words: str
    meaning: str = ""
    reboot_helps: bool = False

    def __str__(self) -> str:
        return self.words

    @property
    def explained(self) -> str:
        """The words, with what they mean behind them."""
        return f"{self.words} ({self.meaning})" if self.meaning else self.words


NOT_INSTALLED = Failure("nvidia-smi is not installed: the driver is missing", "there is no driver")
_HANGS = "the driver or a card hangs; dmesg may have an Xid"
#: Part of NVIDIA's message -> what the operator can do, and whether a reboot would help.
_CAUSES = (
    ("version mismatch", "the driver was updated and the old kernel module still runs", True),
    (
        "GPU is lost",
        "the card has fallen off the bus; if it recurs, check power and riser",
        True,
    ),
    ("Unable to determine the device handle", "a card does not answer; dmesg has an Xid", True),
    ("GPU requires reset", "a card needs a reset", True),
    ("Unknown Error", "a card does not answer; dmesg has an Xid", True),
    ("No devices were found", "the driver runs but claims no card; dmesg shows why", False),
    ("libnvidia-ml", "the driver's libraries are missing", False),
    ("couldn't communicate", "the kernel module does not run", False),
)


def failure(words: str) -> Failure:
    """NVIDIA's words, understood as far as they are known."""
    for part, meaning, helps in _CAUSES:
        if part in words:
            return Failure(words, meaning, helps)
    return Failure(words)


@dataclass(frozen=True)
class Smi:
    """The cards that answer, or none and why.

    ``lost``: by index, what is said of cards that are listed and do not answer. ``notes``: what was
    printed beside the answer, such as warnings, and why it ended with another exit code than 0.
    ``code`` is that code, and None where there is no nvidia-smi. ``said``: all that it printed.
    """

    gpus: tuple[Gpu, ...]
    failure: Failure | None
    lost: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    code: int | None = 0
    said: str = ""

    @property
    def message(self) -> str | None:
        """Why no card answers, in NVIDIA's words."""
        return str(self.failure) if self.failure else None

    @property
    def driver(self) -> str | None:
        """The driver's version, such as ``590.48.01``."""
        return self.gpus[0].driver if self.gpus else None

    @property
    def installed(self) -> bool:
        """Whether there is such a program."""
        return self.code is not None

    @property
    def answers(self) -> bool:
        """Whether the driver does. A warning beside its cards has an exit code too."""
        return self.code == 0 or bool(self.gpus)

    def trouble(self, wanted: Iterable[int]) -> Failure | None:
        """Why these cards cannot all be used: the driver's message, or that of the first lost."""
        lost = [index for index in sorted(wanted) if index in self.lost]
        return self.failure or (_lost_one(lost[0], self.lost[lost[0]]) if lost else None)


def _lost_one(index: int, why: str) -> Failure:
    return failure(f"GPU {index}: {why}")


def parse(lines: Sequence[str], fields: Sequence[str] = FIELDS, seconds: int = PATIENCE) -> Smi:
    """From what ``query`` prints, as ``read`` does.

    :raises ValueError: nvidia-smi says that all is well, and not one line is a card.
    """
    found = read(lines, fields, seconds)
    words = _one_line(found.notes)
    if found.code == 0 and not (found.gpus or found.lost) and words not in ("", _NONE):
        raise ValueError(f"nvidia-smi lists no card that can be read: {clean(words, 500)!r}")
    return found


def read(lines: Sequence[str], fields: Sequence[str] = FIELDS, seconds: int = PATIENCE) -> Smi:
    """From what ``query`` prints. Lines that are cards count, whatever stands around them.

    :raises ValueError: there is no exit code.
    """
    *said, code = [clean(line, 2000, keep="") for line in lines] or [""]
    if code == MISSING:
        return Smi((), NOT_INSTALLED, code=None)
    if not re.fullmatch(r"exit \d{1,3}", code):
        raise ValueError(f"no exit code at the end: {code!r}")
    number = int(code.removeprefix("exit "))
    gpus: dict[int, Gpu] = {}
    lost: dict[int, str] = {}
    notes: list[str] = []
    for line in said:
        row = next(csv.reader([line], skipinitialspace=True, strict=False), [])
        row = [item.strip() for item in row]
        if row and _NUMBER.fullmatch(row[0]) and (why := _lost(row, fields)):
            lost[int(row[0])] = why
        elif (gpu := _gpu(row, fields)) is not None:
            gpus[gpu.index] = gpu
        elif line.strip():
            notes.append(line.strip())
    words = _one_line(notes)
    if number in _TIMED_OUT:
        notes.insert(0, f"nvidia-smi did not finish within {seconds} s")
    failed = None
    if not gpus and lost:
        failed = _lost_one(*next(iter(lost.items())))
    elif not gpus and number in _TIMED_OUT:
        silent = failure(f"nvidia-smi did not answer within {seconds} s {words}".strip())
        failed = silent if silent.meaning else Failure(silent.words, _HANGS)
    elif not gpus:
        nothing = f"nvidia-smi ended with {number} and no output" if number else _NONE
        failed = failure(words or nothing)
    return Smi(
        tuple(gpus.values()), failed, lost, tuple(notes[:_MOST_NOTES]), number, _one_line(said)
    )


_NONE: Final = "No devices were found"


def _one_line(lines: Iterable[str]) -> str:
    return " ".join(" ".join(lines).split())


def _lost(row: Sequence[str], fields: Sequence[str]) -> str | None:
    """What a card that is gone says in place of its values, such as ``GPU is lost``.

    Numbers may be missing for reasons of their own; a name or a UUID is never missing.
    """
    found = [item for item in row[1:] if _GONE.search(item)]
    found = found or [
        item
        for name, item in zip(fields, row, strict=False)
        if name in ("name", "uuid") and item.startswith("[") and item not in _ABSENT
    ]
    return found[0].strip("[]") if found else None


def _gpu(row: Sequence[str], fields: Sequence[str]) -> Gpu | None:
    """A card, if that is what the fields are. A name may hold a comma; nothing else does."""
    more = len(row) - len(fields)
    if more < 0 or (more and "name" not in fields):
        return None
    at = fields.index("name") if more else 0
    whole = [*row[:at], ", ".join(row[at : at + more + 1]), *row[at + more + 1 :]]
    values: dict[str, Any] = {}
    for name, text in zip(fields, whole, strict=True):
        attribute, value_of = _READERS[name.rpartition("reasons.")[2]]
        try:
            values[attribute] = value_of(text)
        except ValueError:
            return None
    return Gpu(**values)


def _says_why(text: str) -> bool:
    """Whether a field says why it has no value: ``[Not Supported]``, ``[Unknown Error]`` ..."""
    return (text.startswith("[") and text.endswith("]")) or text in _ABSENT


def _index(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _given(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _version(text: str) -> str:
    if not text or _says_why(text):
        raise ValueError(text)
    return text


def _whole(text: str) -> int | None:
    return None if _says_why(text) else _index(text)


def _real(text: str) -> float | None:
    if _says_why(text):
        return None
    number = float(text)
    if not isfinite(number):
        raise ValueError(text)
    return number


def _capability(text: str) -> tuple[int, int] | None:
    found = _CAPABILITY.fullmatch(text)
    if found is None and not _says_why(text):
        raise ValueError(text)
    return (int(found[1]), int(found[2])) if found and found[2] else None


def _switch(text: str) -> bool | None:
    if text not in _SWITCH and not _says_why(text):
        raise ValueError(text)
    return _SWITCH.get(text)


_GONE = re.compile(r"^\[?GPU (is lost|requires reset)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,9}")
#: An old driver was asked for the index in its place.
_CAPABILITY = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,3}))?")
_SWITCH = {"Enabled": True, "Disabled": False, "Active": True, "Not Active": False}
#: By field: where its value goes, and how it is read.
_READERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "index": ("index", _index),
    "name": ("name", str),
    "uuid": ("uuid", _given),
    "memory.total": ("memory_mib", _whole),
    "driver_version": ("driver", _version),
    "compute_cap": ("compute_capability", _capability),
    "mig.mode.current": ("mig", _switch),
    "persistence_mode": ("persistence", _switch),
    "memory.used": ("memory_used_mib", _whole),
    "utilization.gpu": ("utilization", _real),
    "temperature.gpu": ("temperature", _real),
    "power.draw": ("power", _real),
    "power.limit": ("power_limit", _real),
    _ECC: ("ecc_errors", _whole),
    **{name: (name, _switch) for name in SLOWDOWNS},
}
