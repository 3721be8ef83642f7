"""Diagnoses: their texts are data, each has one function that says whether a host has it."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from shlex import quote
from typing import Any

from vllm_hosts.data import table
from vllm_hosts.doctor.seen import Seen
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

    ``what`` and ``remedy`` have names in braces for what a ``Finding`` fills in. ``deploys``: the
    remedy ends in a deploy, and does not say what to type for that.
    """

    identifier: str
    where: str
    symptom: str
    what: str
    remedy: str
    deploys: bool


@dataclass(frozen=True)
class Remedy:
    """What to do in a case that is not the usual one, as a ``Text`` has it."""

    text: str
    deploys: bool = False


@dataclass(frozen=True)
class Finding:
    """One time that a diagnosis fits. ``evidence`` is what was seen; ``values`` fill the texts.

    :param remedy: where it is better than the usual one.
    """

    evidence: str
    certainty: Certainty = Certainty.CERTAIN
    values: dict[str, Any] = field(default_factory=dict)
    remedy: Remedy | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, why that is believed, and what to do."""

    identifier: str
    certainty: Certainty
    what: str
    evidence: str
    remedy: str
    deploys: bool = False

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
    for identifier, fields in table("diagnoses.yaml").items():
        if set(fields) - {"deploys"} != {"where", "symptom", "what", "do"}:
            raise ValueError(f"diagnoses.yaml: {identifier} has other fields than it should")
        found[identifier] = Text(
            identifier,
            fields["where"],
            fields["symptom"],
            fields["what"],
            fields["do"],
            fields.get("deploys", False),
        )
    return found


def registered() -> frozenset[str]:
    """Diagnoses that a function finds."""
    return frozenset(_DOCTORS)


#: What a deploy is about to bring or to start: while one runs, that it is missing says nothing.
_BROUGHT = frozenset(
    {
        *("driver-missing", "driver-not-loaded", "docker-missing", "docker-down"),
        *("toolkit-missing", "image-missing", "agent-missing", "agent-stopped"),
        *("key-missing", "key-not-loaded", "key-differs-container", "key-differs-edge"),
        *("certificate-missing", "nginx-down", "firewall-missing", "docker-network-missing"),
    }
)


def diagnose(settings: HostSettings, seen: Seen, inventory: str = "INVENTORY") -> list[Diagnosis]:
    """What is wrong with a host, most likely first; empty: nothing that is known here.

    :param inventory: the inventory's file, for what is to be typed.
    """
    found = sorted(_all(settings, seen, inventory), key=lambda one: one.certainty)
    if any(one.identifier == "deploy-running" for one in found):
        return [one for one in found if one.identifier not in _BROUGHT]
    return found


def _all(settings: HostSettings, seen: Seen, inventory: str) -> Iterator[Diagnosis]:
    file = quote(inventory)
    for identifier, text in texts().items():
        for finding in _DOCTORS[identifier](settings, seen):
            values = ChainMap(finding.values, {"host": settings.name})
            usual = Remedy(text.remedy, text.deploys)
            remedy = finding.remedy or usual
            yield Diagnosis(
                identifier,
                finding.certainty,
                clean(text.what.format_map(values)),
                clean(finding.evidence),
                clean(re.sub(r"\bINVENTORY\b", lambda _: file, remedy.text.format_map(values))),
                remedy.deploys,
            )
