"""Asking hosts something outside of a deploy: all of them side by side, changing nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import gevent
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state

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
    with ctx_state.use(state), ctx_host.use(host):
        try:
            host.connect(raise_exceptions=True)
        except ConnectError as error:
            return HostError(f"{host.name} cannot be reached: {error}")
        try:
            return question(host.name)
        except HostError as error:
            return HostError(f"{host.name}: {error}")
        finally:
            host.disconnect()
