"""What is promised of every host, each with an identifier that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from vllm_hosts.data import table


class BrokenError(AssertionError):
    """A promise that is not kept, in the sentence that the report shows."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@dataclass(frozen=True)
class Promise:
    """One promise, the threat that it answers, and what to do when it is broken."""

    identifier: str
    role: str
    says: str
    threat: str
    remedy: str


@cache
def promises() -> dict[str, Promise]:
    """All promises by identifier, in the order of the document.

    :raises ValueError: the data file is not as it should be.
    """
    found = {}
    for identifier, fields in table("promises.yaml").items():
        try:
            found[identifier] = Promise(identifier, **fields)
        except TypeError as error:
            raise ValueError(f"promises.yaml: {identifier}: {error}") from error
    return found
