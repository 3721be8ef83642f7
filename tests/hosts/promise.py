"""Which promise a test checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from testinfra.host import Host

from vllm_hosts.verify.promises import BrokenError, promises

__all__ = ["BrokenError", "promise", "unit_runs"]

F = TypeVar("F", bound=Callable[..., object])


def promise(identifier: str) -> Callable[[F], F]:
    """Marks the one test of a promise.

    :raises KeyError: there is no such promise.
    """
    found = promises()[identifier]

    def decorate(test: F) -> F:
        marked: F = pytest.mark.promise(found.identifier)(test)
        return marked

    return decorate


def unit_runs(host: Host, unit: str) -> None:
    """A service or timer runs, and starts at boot.

    :raises BrokenError: it does not.
    """
    service = host.service(unit)
    if not service.is_enabled:
        raise BrokenError(f"{unit} does not start at boot")
    if not service.is_running:
        raise BrokenError(f"{unit} does not run")
