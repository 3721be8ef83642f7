"""Gateways' HAProxies, looked at and told by many hosts at once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from gevent.lock import BoundedSemaphore
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.context import ctx_state

from vllm_hosts.connect.connections import Connections, ask_host, carry_out
from vllm_hosts.errors import HostError
from vllm_hosts.facts.rotation import BalancerSeen
from vllm_hosts.host.rotation import Balancer


@dataclass(frozen=True)
class Gate:
    """A gateway: its name in the inventory, and where clients reach it."""

    name: str
    address: str
    port: int


def of_this_run() -> Connections:
    """The connections of the run that the current host is in."""
    state = ctx_state.get()
    return Connections(state.inventory, state)


@dataclass
class _Look:
    """The last look at a gateway. One at a time: its sshd allows ten sessions over a connection,
    and many hosts may ask at once."""

    turn: BoundedSemaphore = field(default_factory=BoundedSemaphore)
    began: float = float("-inf")
    seen: Balancer | HostError | None = None


_looks: WeakKeyDictionary[Host, _Look] = WeakKeyDictionary()


def _last(connections: Connections, gate: str) -> _Look:
    return _looks.setdefault(connections.state.inventory.get_host(gate), _Look())


def seen_at(connections: Connections, gate: str, asked: float) -> Balancer | HostError | None:
    """What a gateway sees, from a look that began since somebody asked."""
    last = _last(connections, gate)
    with last.turn:
        if last.began < asked:
            began = time.monotonic()
            try:
                last.seen = connections.at(gate, lambda: ask_host(BalancerSeen))
            except HostError as error:
                last.seen = error
            last.began = began
        return last.seen


def told_at(connections: Connections, gate: str, script: str) -> HostError | None:
    """Run a script at a gateway; returns why that failed."""
    with _last(connections, gate).turn:
        try:
            connections.at(gate, lambda: carry_out([StringCommand(script)]))
        except HostError as error:
            return error
    return None
