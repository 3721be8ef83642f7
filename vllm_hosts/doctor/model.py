"""Diagnoses: their texts are data, each has one function that says whether a host has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any

import yaml

from vllm_hosts.doctor.seen import Seen
from vllm_hosts.promises import DATA
from vllm_hosts.settings import HostSettings
from vllm_hosts.text import clean


class Certainty(IntEnum):
    """How sure it is that this is what is wrong."""

    CERTAIN = 0  # seen, or said in so many words by the program that failed
    LIKELY = 1  # follows from what was seen, but for something that was not
    POSSIBLE = 2  # a trace that may be old, or of something else

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Text:
    """What is said about a diagnosis. ``where`` it shows; ``symptom``: words that people see there.

    ``what`` and ``remedy`` have names in braces for what a ``Finding`` fills in.
    """

    identifier: str
    where: str
    symptom: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """One time that a diagnosis fits. ``evidence`` is what was seen; ``values`` fill the texts.

    :param remedy: where it is better than the usual one.
    """

    evidence: str
    certainty: Certainty = Certainty.CERTAIN
    values: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, why that is believed, and what to do."""

    identifier: str
    certainty: Certainty
    what: str
    evidence: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """The names here are the names in the JSON, and stay."""
        return {
            "id": self.identifier,
            "certainty": str(self.certainty),
            "what": self.what,
            "evidence": self.evidence,
            "remedy": self.remedy,
        }


Doctor = Callable[[HostSettings, Seen], Iterable[Finding]]
_DOCTORS: dict[str, Doctor] = {}


def finds(identifier: str) -> Callable[[Doctor], Doctor]:
    """Registers the function that finds a diagnosis.

    :raises ValueError: the diagnosis has no text, or a function already.
    """
    if identifier not in texts() or identifier in _DOCTORS:
        raise ValueError(f"{identifier} has no text in diagnoses.yaml, or two functions")

    def register(doctor: Doctor) -> Doctor:
        _DOCTORS[identifier] = doctor
        return doctor

    return register


@cache
def texts() -> dict[str, Text]:
    """All diagnoses by identifier. Of two that are as certain, the first here is the likelier.

    :raises ValueError: the data file is not as it should be.
    """
    found = {}
    for identifier, fields in yaml.safe_load((DATA / "diagnoses.yaml").read_text()).items():
        if set(fields) != {"where", "symptom", "what", "do"}:
            raise ValueError(f"diagnoses.yaml: {identifier} has other fields than it should")
        found[identifier] = Text(
            identifier, fields["where"], fields["symptom"], fields["what"], fields["do"]
        )
    return found


def registered() -> frozenset[str]:
    """Diagnoses that a function finds."""
    return frozenset(_DOCTORS)


def diagnose(settings: HostSettings, seen: Seen) -> list[Diagnosis]:
    """What is wrong with a host, most likely first; empty: nothing that is known here."""
    return sorted(_all(settings, seen), key=lambda found: found.certainty)


def _all(settings: HostSettings, seen: Seen) -> Iterator[Diagnosis]:
    for identifier, text in texts().items():
        for finding in _DOCTORS[identifier](settings, seen):
            yield Diagnosis(
                identifier,
                finding.certainty,
                clean(text.what.format_map(finding.values)),
                clean(finding.evidence),
                clean((finding.remedy or text.remedy).format_map(finding.values)),
            )
