"""``python -m tests.mutants [MODULE...]``: how many small changes to modules their tests notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.mutants.changes import Change, changes
from tests.mutants.session import NOT_NOTICED, TOO_LONG

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
#: Percent, where a module has no floor of its own.
FLOOR = 90


@dataclass
class Judged:
    """What came out for one module."""

    module: str
    floor: int
    noticed: int = 0
    late: int = 0
    equivalent: int = 0
    missed: list[Change] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def made(self) -> int:
        return self.noticed + len(self.missed)

    @property
    def percent(self) -> float:
        return 100 * self.noticed / self.made if self.made else 0.0

    @property
    def well(self) -> bool:
        return self.percent >= self.floor and not self.wrong

    def __str__(self) -> str:
        return (
            f"{self.module}: {self.noticed} / {self.made} noticed, {self.percent:.1f} %"
            f" (floor {self.floor} %), {self.late} of them by taking too long,"
            f" {self.equivalent} equivalent, {self.seconds:.0f} s"
        )


def run(module: str, path: Path, tests: list[str]) -> dict[str, Any]:
    """Run the tests for every change. The outcomes, in the order of the changes."""
    work = {"module": module, "path": str(path), "tests": tests}
    said = _session(work)
    if "broken" in said:
        return said
    outcomes = {int(number): how for number, how in said["outcomes"].items() if how != NOT_NOTICED}
    count = len(changes(path.read_text()))
    if left := [number for number in range(count) if number not in outcomes]:
        again = _session({**work, "numbers": left})
        if "broken" in again:
            return again
        outcomes |= {int(number): how for number, how in again["outcomes"].items()}
    return {**said, "outcomes": [outcomes[number] for number in range(count)]}


def _session(work: dict[str, Any]) -> dict[str, Any]:
    """What ``session.py`` has to say."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        file = Path(folder, "work.json")
        file.write_text(json.dumps(work))
        words = [sys.executable, "-m", "tests.mutants.session", str(file)]
        # Or each fork would compile what it imports.
        kept = {name: one for name, one in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            words, cwd=_ROOT, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        answer = Path(folder, "result")
        said: dict[str, Any] = (
            json.loads(answer.read_text()) if answer.exists() else {"broken": done.stdout}
        )
    return said


def judged(
    module: str, about: dict[str, Any], path: Path, found: list[Change], said: dict[str, Any]
) -> Judged:
    """What the outcomes come to.

    :param about: the module's part of ``modules.yaml``.
    """
    result = Judged(module, about.get("floor", FLOOR))
    if "broken" in said:
        result.wrong.append(f"its tests do not pass without a change: {said['broken']}")
        return result
    listed = about.get("equivalent", [])
    used = set()
    for change, outcome in zip(found, said["outcomes"], strict=True):
        same = [number for number, entry in enumerate(listed) if _is_about(entry, change)]
        used.update(same)
        if outcome != NOT_NOTICED and same:
            result.wrong.append(f"{_shown(path, change)}: listed as equivalent, but {outcome}")
        elif same:
            result.equivalent += 1
        elif outcome == NOT_NOTICED:
            result.missed.append(change)
        else:
            result.noticed += 1
            result.late += outcome == TOO_LONG
    for number, entry in enumerate(listed):
        if number not in used:
            result.wrong.append(f"no such change any more: {entry['line']!r}: {entry['change']}")
    return result


def _is_about(entry: dict[str, str], change: Change) -> bool:
    """By the line's text, since its number changes with every line above it."""
    return (
        entry["line"] == change.text
        and entry["change"] == change.what
        and entry.get("within", change.within) == change.within
    )


def _shown(path: Path, change: Change) -> str:
    where = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path
    within = f" in {change.within}" if change.within else ""
    return f"{where}:{change.line}{within}: {change.what}"


def main() -> int:
    listed: dict[str, dict[str, Any]] = yaml.safe_load((_HERE / "modules.yaml").read_text())
    names = sys.argv[1:] or list(listed)
    if unknown := [name for name in names if name not in listed]:
        print("There are:", *listed, sep="\n  ")
        print(f"{', '.join(unknown)}: not among these, of tests/mutants/modules.yaml")
        return 2
    if os.geteuid() != 0:
        print("Changed scripts are kept from this machine's files by mounts: run this as root")
        return 2
    results = []
    for name in names:
        path = _ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        began = time.monotonic()
        said = run(name, path, listed[name]["tests"])
        result = judged(name, listed[name], path, changes(path.read_text()), said)
        result.seconds = time.monotonic() - began
        for change in result.missed:
            print(f"  not noticed: {_shown(path, change)}\n      {change.text}")
        for sentence in result.wrong:
            print(f"  {sentence}")
        print(result, flush=True)
        results.append(result)
    if len(results) > 1:
        print("\n" + "\n".join([*map(str, results), total(results)]))
    return 0 if all(result.well for result in results) else 1


def total(results: Sequence[Judged]) -> str:
    """All modules in one line, with those that are not well."""
    noticed, made = (sum(getattr(one, name) for one in results) for name in ("noticed", "made"))
    percent = 100 * noticed / made if made else 0.0
    said = (
        f"total: {noticed} / {made} noticed in {len(results)} modules, {percent:.1f} %,"
        f" {sum(one.equivalent for one in results)} equivalent,"
        f" {sum(one.seconds for one in results) / 60:.0f} minutes"
    )
    below = [one.module for one in results if one.percent < one.floor]
    wrong = [one.module for one in results if one.wrong and one.module not in below]
    said += f"; below their floor: {', '.join(below)}" if below else ""
    return said + (f"; listed wrongly (see above): {', '.join(wrong)}" if wrong else "")


if __name__ == "__main__":
    sys.exit(main())
