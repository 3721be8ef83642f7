"""What was found about each promise, as values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from shlex import quote
from typing import Any, Literal

from vllm_hosts.verify.promises import Promise, promises

#: From the best to the worst; a promise is as good as its worst look.
Outcome = Literal["does not apply", "kept", "not checked", "broken"]
ORDER: tuple[Outcome, ...] = ("does not apply", "kept", "not checked", "broken")
#: More promises than this are shown in one line, if one reason is all that there is to say.
_MANY = 3


@dataclass(frozen=True)
class Check:
    """One test of a promise on a host, or on one of its agents."""

    promise: str
    host: str
    agent: str | None
    outcome: Outcome
    why: str
    seconds: float


@dataclass(frozen=True)
class AgentSummary:
    """An agent in the report."""

    name: str
    model: str
    served_model_name: str
    port: int
    gpus: tuple[int, ...]
    exposed_to: tuple[str, ...]
    accepted_risks: tuple[str, ...] = ()


@dataclass
class HostReport:
    """Everything about one host."""

    name: str
    address: str
    agents: list[AgentSummary]
    notes: dict[str, str] = field(default_factory=dict)
    looks: list[Check] = field(default_factory=list)
    #: What breaks no promise yet, and will.
    warnings: list[str] = field(default_factory=list)

    def outcome(self, promise: str) -> Outcome | None:
        """The worst result of a promise; None: it was not checked."""
        return worst(look.outcome for look in self.looks if look.promise == promise)

    def together(self) -> dict[str, list[str]]:
        """Promises that were not checked for one and the same reason, where they are many, such as
        a host that cannot be reached: by reason."""
        found: dict[str, list[str]] = {}
        for promise in promises():
            if self.outcome(promise) == "not checked":
                reasons = {look.why for look in self.looks if look.promise == promise}
                if len(reasons) == 1:
                    found.setdefault(reasons.pop(), []).append(promise)
        return {why: names for why, names in found.items() if len(names) > _MANY}

    def reasons(self, promise: str) -> list[str]:
        """Why a promise is not kept, each reason once, with the agents that it is about."""
        found: dict[str, list[str]] = {}
        for look in self.looks:
            if look.promise == promise and look.outcome == self.outcome(promise):
                found.setdefault(look.why, []).append(look.agent or "")
        return [f"{', '.join(names)}: {why}" if any(names) else why for why, names in found.items()]


@dataclass
class Report:
    """A run of the suite. ``file`` is the inventory's path, for what is to be typed."""

    inventory: str
    version: str
    time: datetime
    seconds: float
    hosts: list[HostReport]
    file: str = "INVENTORY"

    def to_do(self, promise: Promise) -> str:
        """The promise's remedy."""
        return self.named(promise.remedy)

    def named(self, text: str) -> str:
        """What to type, with the inventory's own file, as a shell reads it."""
        return re.sub(r"\bINVENTORY\b", lambda _: quote(self.file), text)

    @property
    def looked_at(self) -> list[Promise]:
        """Promises that at least one host was checked for."""
        return [
            promise
            for identifier, promise in promises().items()
            if any(host.outcome(identifier) for host in self.hosts)
        ]

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many promises of all hosts ended how."""
        found: dict[Outcome, int] = dict.fromkeys(ORDER, 0)
        for host in self.hosts:
            for promise in promises():
                if outcome := host.outcome(promise):
                    found[outcome] += 1
        return found

    @property
    def verdict(self) -> Outcome | None:
        """The worst of all; None: nobody checked anything."""
        return worst(look.outcome for host in self.hosts for look in host.looks)

    def as_json(self) -> dict[str, Any]:
        """For programs. Names and meanings stay from version to version."""
        return {
            "inventory": self.inventory,
            "version": self.version,
            "time": self.time.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "verdict": self.verdict or "not checked",
            "counts": self.counts,
            "promises": {
                promise.identifier: {
                    "role": promise.role,
                    "promise": promise.says,
                    "threat": promise.threat,
                    "remedy": self.to_do(promise),
                }
                for promise in self.looked_at
            },
            "hosts": [
                {
                    "name": host.name,
                    "address": host.address,
                    "agents": [asdict(agent) for agent in host.agents],
                    "notes": host.notes,
                    "warnings": host.warnings,
                    "promises": {
                        promise.identifier: {
                            "outcome": outcome,
                            "why": [] if outcome == "kept" else host.reasons(promise.identifier),
                        }
                        for promise in self.looked_at
                        if (outcome := host.outcome(promise.identifier))
                    },
                }
                for host in self.hosts
            ],
        }


def worst(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The worst of some outcomes; None if there are none."""
    return max(outcomes, key=ORDER.index, default=None)
