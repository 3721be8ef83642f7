"""What is promised of every host, each with an identifier that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from vllm_hosts.data import table
from vllm_hosts.settings import HostSettings

#: ``agents``: of hosts that run agents; ``behind``: of hosts behind gateways; ``fleet``: of both
#: these and gateways; ``virtual``: of gateways that share an address; ``mirror``: of the mirror;
#: ``mirrored``: of hosts that ask one.
Of = Literal["all", "agents", "gateways", "behind", "fleet", "virtual", "mirror", "mirrored"]


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
    of: Of = "all"

    def __post_init__(self) -> None:
        if self.of not in get_args(Of):
            raise TypeError(f"of is {self.of!r}")

    def exempt(self, settings: HostSettings) -> str | None:
        """Why this is not promised of a host; None: it is."""
        if self.of == "agents" and not settings.runs_agents:
            return "a gateway runs no agents"
        if self.of == "gateways" and not settings.is_gateway:
            return "this host is no gateway"
        if self.of == "virtual" and settings.virtual is None:
            return "this host shares no address with others (gateway.virtual_ip)"
        if self.of == "mirror" and not settings.is_mirror:
            return "this host is no mirror"
        if self.of == "mirrored" and settings.mirror_at is None:
            return "this host asks no mirror"
        if self.of == "behind" and not settings.behind_gateways:
            return "this host is not behind gateways"
        if self.of == "fleet" and not (settings.is_gateway or settings.behind_gateways):
            return "this host is neither a gateway nor behind one"
        return None


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
