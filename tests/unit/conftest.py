"""Several pytests share these files: each takes the next one that nobody has. See in_parts.py."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

#: A folder of what is taken.
SHARED = "VLLM_HOSTS_TESTS_TAKEN"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    return None if _mine(item.path.name) else True


@cache
def _mine(name: str) -> bool:
    taken = os.environ.get(SHARED)
    if taken is None:
        return True
    try:
        Path(taken, name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
