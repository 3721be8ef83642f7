"""Writes requirements.lock: what requirements.txt installs here, and what that needs in turn.

python -m tests.locked
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
_HEAD = """\
# Every package of the controller's environment:
#     pip install -r requirements.txt -c requirements.lock
# Made from an environment where the tests pass: python -m tests.locked. To upgrade, change
# requirements.txt, pip install --upgrade -r requirements.txt, run the tests, and make it again.
"""


def direct() -> list[Requirement]:
    """The pinned lines of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [
        Requirement(found[0]) for line in lines if (found := re.match(r"[\w.-]+==[\w.]+", line))
    ]


def needed() -> dict[str, str]:
    """Versions by name: of those requirements, and of all that they need on this Python.

    :raises importlib.metadata.PackageNotFoundError: one is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    left = [(one.name, extra) for one in direct() for extra in ("", *one.extras)]
    while left:
        name, extra = left.pop()
        key = (canonicalize_name(name), extra)
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = metadata.version(name)
        for one in _requires(name, extra):
            left += [(one.name, wanted) for wanted in ("", *one.extras)]
    return dict(sorted(found.items()))


def _requires(name: str, extra: str) -> Iterator[Requirement]:
    for line in metadata.requires(name) or ():
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            yield one


def lock() -> str:
    """The text of requirements.lock."""
    return _HEAD + "".join(f"{name}=={version}\n" for name, version in needed().items())


def locked() -> dict[str, str]:
    """What the file says."""
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


if __name__ == "__main__":
    LOCK.write_text(lock())
