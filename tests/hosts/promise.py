"""Which promise a test looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from vllm_hosts.verify.promises import promises

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
