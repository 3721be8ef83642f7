"""A pytest that shares its files with others: ``-p tests.lab.lane``. See in_lanes.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.in_lanes import WITH_IMAGE

#: Files of which somebody runs the tests, as empty files.
_TAKEN = Path(os.environ["LANES_TAKEN"])
#: What takes longest, as measured, from the most to the least: nobody shall wait for it at the end.
#: First what looks at the first deploy.
LONG = (
    *("1_converge", "4_verify", "5_models", "8_keys", "7_operate", "4_strangers", "8_doctor"),
    *("5_bad_hosts", "5_driver", "3_outside", "3_edge", "4_walls", "9_report", "5_sudo"),
)
#: It looks at a first deploy to fresh hosts, which pulls the image.
FRESH = "test_1_converge.py"
#: It ends its lab.
LAST = "9_lab"

_mine: dict[str, bool] = {}
_seconds: dict[str, float] = {}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONG.index(name) if name in LONG else len(LONG) + (name == LAST)

    items.sort(key=turn)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Nothing of a file that another one has: it is not even reported as skipped."""
    name = item.path.name
    if name == FRESH and WITH_IMAGE in os.environ:
        _mine[name] = False
    if name not in _mine:
        try:
            (_TAKEN / name).touch(exist_ok=False)
            _mine[name] = True
        except FileExistsError:
            _mine[name] = False
    return None if _mine[name] else True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = Path(report.location[0]).name
    _seconds[name] = _seconds.get(name, 0) + report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = ", ".join(f"{name} {spent:.0f}" for name, spent in _seconds.items())
    terminalreporter.write_line(f"Seconds by file: {told}")
