"""What pyinfra works out again and again, worked out once."""

from __future__ import annotations

import sys
from functools import cache
from inspect import signature
from typing import Any


def install() -> None:
    """pyinfra 3.10 resolves the types of all its arguments for each operation and each fact, which
    is half of what those take here. A version that does it in another way is left alone. A second
    call changes nothing."""
    arguments: Any = sys.modules["pyinfra.api.arguments"]
    resolve = getattr(arguments, "all_global_arguments", None)
    if resolve is None or hasattr(resolve, "cache_info") or signature(resolve).parameters:
        return
    arguments.all_global_arguments = cache(resolve)
