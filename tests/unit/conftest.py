"""What all unit tests share."""

from __future__ import annotations

import gc
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit import examples, spawning

if TYPE_CHECKING:
    from tests.unit.projects import Project
    from tests.unit.recording import InLine, Recorder, Run


examples.register()
spawning.install()
# A shell has what it starts in the background ignore Ctrl-C, and what tests start would do so too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A fifth of the time went to looking through what thousands of tests consist of for garbage.
gc.set_threshold(100_000, 20, 50)


def pytest_collection_finish() -> None:
    # Once: in_parts.py collects file after file.
    if not gc.get_freeze_count():
        gc.freeze()


def pytest_runtest_teardown() -> None:
    # `top` wants no log while it draws, and ends with its process.
    logging.disable(logging.NOTSET)


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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A site in the current folder, of somebody who has nothing else."""
    from tests.unit.projects import Project

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Project(tmp_path)
