"""Which facts the last run asked of each host, kept on the controller for the next one.

No answer is kept, no command and no secret: names of facts, and arguments that are plain words.
Whoever could write this file could at most have a host asked something that nobody uses.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_hosts.bounded import SIZE, parse_json
from vllm_hosts.keys.private_files import write_private

FILE = "asked.json"
_VERSION = 1
#: Arguments that are the same in a shell with and without quotes, and never an option.
_WORD = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./:@%+,=~-]*")
#: Of one host in one run; there are about 80.
_MOST = 1000


@dataclass(frozen=True)
class Question:
    """One question: a fact by name, and its arguments as JSON with sorted names."""

    fact: str
    arguments: str = "{}"

    @classmethod
    def of(cls, fact: str, arguments: Mapping[str, object]) -> Question | None:
        """None: it is not kept, since an argument is more than plain words."""
        given = {name: _plain(value) for name, value in arguments.items()}
        if any(value is _ODD for value in given.values()):
            return None
        return cls(fact, _written(given))

    def given(self) -> dict[str, Any]:
        """Its arguments, as a fact takes them."""
        found: dict[str, Any] = json.loads(self.arguments)
        return found


_ODD = object()
_written = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and len(value) < 1000 else _ODD
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return _ODD if any(item is _ODD for item in items) else items
    return _ODD


Lists = dict[str, dict[str, tuple[Question, ...]]]


def read(path: Path) -> Lists:
    """By what was run, by host: what was asked, in that order. Empty where nothing usable is there.

    :raises PermissionError: others can write the file, or it is somebody else's.
    """
    try:
        content = _own(path)
        return _parsed(content) if content is not None else {}
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        # Written by another version, cut off, or damaged: the next run writes another.
        return {}


def _own(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        for one in (os.fstat(descriptor), path.parent.stat()):
            if one.st_uid != os.geteuid() or one.st_mode & 0o022:
                raise PermissionError(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("no regular file")
        return file.read(SIZE + 1)


def _parsed(content: bytes) -> Lists:
    whole = parse_json(content)
    if whole["version"] != _VERSION:
        return {}
    table = [_asked(*one) for one in whole["asked"]]
    return {
        run: {
            host: tuple(one for number in numbers[:_MOST] if (one := _at(table, number)))
            for host, numbers in hosts.items()
        }
        for run, hosts in whole["hosts"].items()
    }


def _asked(fact: str, arguments: Mapping[str, object]) -> Question | None:
    # By the same rules as when it was written: what is in the file is not believed.
    return Question.of(fact, arguments) if isinstance(fact, str) else None


def _at(table: Sequence[Question | None], number: int) -> Question | None:
    return table[number] if 0 <= number < len(table) else None


def write(path: Path, lists: Lists) -> None:
    """Keep these for the next run. One that cannot be kept costs the next run time, no more."""
    numbers: dict[Question, int] = {}
    hosts = {
        run: {host: list(_numbered(asked, numbers)) for host, asked in by_host.items()}
        for run, by_host in lists.items()
    }
    table = [[one.fact, one.given()] for one in numbers]
    text = json.dumps({"version": _VERSION, "asked": table, "hosts": hosts})
    # The folder comes with the keys of a first deploy, and is nobody else's.
    with suppress(OSError):
        if path.parent.is_dir():
            write_private(path, f"{text}\n".encode())


def _numbered(asked: Sequence[Question], numbers: dict[Question, int]) -> Iterator[int]:
    for one in asked[:_MOST]:
        yield numbers.setdefault(one, len(numbers))
