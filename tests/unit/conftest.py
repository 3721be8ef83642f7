"""Several pytests share these files: each takes the next one that nobody has. See in_parts.py."""

from __future__ import annotations

import gc
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit import examples, spawning

if TYPE_CHECKING:
    from tests.unit.recording import InLine, Recorder, Run

#: A folder of what is taken.
SHARED = "VLLM_HOSTS_TESTS_TAKEN"


examples.register()
spawning.install()
# A fifth of the time went to looking through what thousands of tests consist of for garbage.
gc.set_threshold(20_000, 20, 50)


def pytest_collection_finish() -> None:
    gc.freeze()


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


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Run]:
    """A recorded host after its first deploy, and what that did. Not to be changed."""
    # Only a few tests need it, and all that it imports.
    from tests.unit.recording import first_deploy

    return first_deploy(tmp_path_factory.mktemp("deployed"))


@pytest.fixture
def in_line(deployed: tuple[Recorder, Run], tmp_path: Path) -> InLine:
    """Makes a copy of that host, to be changed, with these settings in the place of its own."""
    return lambda **changes: deployed[0].copied(tmp_path, **changes)
