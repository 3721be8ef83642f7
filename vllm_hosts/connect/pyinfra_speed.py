"""What pyinfra works out again and again, worked out once."""

from __future__ import annotations

import inspect
import sys
from functools import cache, partial
from inspect import signature
from typing import Any


def install() -> None:
    """Put cheaper functions with the same results in the place of pyinfra 3.10's. A version that
    does these things in another way is left alone. A second call changes nothing."""
    _types_of_arguments()
    _connectors()
    _places_in_code()


def _types_of_arguments() -> None:
    """pyinfra resolves the types of all its arguments for each operation and each fact, which is
    half of what those take here."""
    arguments: Any = sys.modules["pyinfra.api.arguments"]
    resolve = getattr(arguments, "all_global_arguments", None)
    if resolve is None or hasattr(resolve, "cache_info") or signature(resolve).parameters:
        return
    arguments.all_global_arguments = cache(resolve)


def _connectors() -> None:
    """It reads what every installed package says of itself, for each inventory several times."""
    connectors: Any = sys.modules["pyinfra.api.connectors"]
    found = getattr(connectors, "entry_points", None)
    if found is None or hasattr(found, "cache_info"):
        return
    connectors.entry_points = cache(found)


def _places_in_code() -> None:
    """Operations are put in order by lines of code, for which it reads the source of every function
    on the stack, for each operation and each host. It uses none of that."""
    util: Any = sys.modules["pyinfra.api.util"]
    for name in ("stack", "getframeinfo"):
        if getattr(util, name, None) is getattr(inspect, name):
            setattr(util, name, partial(getattr(inspect, name), context=0))
