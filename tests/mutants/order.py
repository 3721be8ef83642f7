"""For pytest: tests that go through the function that was changed come first, quick ones before."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


class Order:
    """Without a change it writes down which tests call which functions of the module, and what
    Python modules all of them need."""

    def __init__(self, module: Path, notes: Path) -> None:
        self._module, self._notes = str(module), notes
        # Opened here: whoever runs the tests can write no file.
        self._file = notes.open("w")
        self._called: set[str] = set()
        self._tests: dict[str, tuple[float, list[str]]] = {}
        #: In which function the change is; None: there is none.
        self.changed: str | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.changed is None:
            return
        seconds = self._seconds()
        # The others keep their order: all of them run.
        items.sort(key=lambda item: (item.nodeid not in seconds, seconds.get(item.nodeid, 0)))

    def calling(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """The tests that go through the function that was changed, quick ones first."""
        seconds = self._seconds()
        found = [item for item in items if item.nodeid in seconds]
        return sorted(found, key=lambda item: seconds[item.nodeid])

    def _seconds(self) -> dict[str, float]:
        return {
            test: took
            for test, (took, called) in json.loads(self._notes.read_text())["tests"].items()
            if self.changed in called
        }

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if self.changed is not None:
            return (yield)
        self._called, began = set(), time.monotonic()
        sys.settrace(self._note)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self._tests[item.nodeid] = (time.monotonic() - began, sorted(self._called))

    def pytest_sessionfinish(self) -> None:
        if self.changed is None:
            files = {name: getattr(one, "__file__", None) for name, one in sys.modules.items()}
            json.dump({"tests": self._tests, "loaded": files}, self._file)
            self._file.flush()

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename == self._module:
            # As it stands in the source: A.f, and not A.f.<locals>.<listcomp>.
            self._called.add(re.sub(r"\.<\w+>", "", frame.f_code.co_qualname))
