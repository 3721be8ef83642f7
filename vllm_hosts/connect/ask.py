"""Asking hosts something outside of a deploy: all of them side by side, changing nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import gevent
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from vllm_hosts.connect.hosts import at_host, connect_as_root
from vllm_hosts.connect.reach import disconnect, named, saying
from vllm_hosts.errors import HostError

T = TypeVar("T")


def ask(
    inventory: Inventory, names: Sequence[str], question: Callable[[str], T]
) -> dict[str, T | HostError]:
    """By host: the answer, or why there is none.

    :param question: gets a host's name, and may look at facts; pyinfra is at that host.
    """
    state = State(inventory, Config())
    asked = {name: gevent.spawn(_ask, state, inventory.get_host(name), question) for name in names}
    gevent.joinall(list(asked.values()), raise_error=True)
    return {name: greenlet.value for name, greenlet in asked.items()}


def _ask(state: State, host: Host, question: Callable[[str], T]) -> T | HostError:
    with at_host(state, host):
        try:
            connect_as_root(host)
        except HostError as error:
            return named(host, error)
        try:
            with saying(host):
                return question(host.name)
        except HostError as error:
            return HostError(f"{host.name}: {error}")
        finally:
            disconnect(host)
