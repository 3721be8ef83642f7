"""Collects what operations would change, for `vllm-hosts drift`.

Also what they keep as it is, for the record that a deploy leaves on its host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyinfra.context import ctx_host

from vllm_hosts.host.files import Absent, Entry, File, Found, difference
from vllm_hosts.text import clean


@dataclass(frozen=True)
class Difference:
    """``what`` is a path, or the name of something else, such as a unit or a container.

    ``entry`` and ``found`` are set only for paths.
    """

    what: str
    how: str
    entry: Entry | None = None
    found: Found | None = None


_told: dict[str, list[Difference]] | None = None


def asked_for() -> bool:
    """Whether this run only collects differences, so that nothing may be written on any host."""
    return _told is not None


#: By host and path: the files that this run's operations manage.
_wanted: dict[str, dict[str, File | Absent]] = {}


def remember(entries: Iterable[Entry]) -> None:
    """Record that an operation keeps these entries on the current host."""
    wanted = _wanted.setdefault(ctx_host.get().name, {})
    wanted.update({entry.path: entry for entry in entries if isinstance(entry, File | Absent)})


def remembered() -> list[File | Absent]:
    """Everything recorded by ``remember`` for the current host."""
    return list(_wanted.get(ctx_host.get().name, {}).values())


def differs(
    what: str, how: str, entry: Entry | None = None, look: Callable[[], Found] | None = None
) -> None:
    """Report that an operation is about to change something. Costs nothing when nobody listens.

    :param look: returns what is at the entry's path.
    """
    if _told is not None:
        found = look() if look else None
        told = _told.setdefault(ctx_host.get().name, [])
        told.append(Difference(clean(what), clean(how), entry, found))


def entries_differ(entries: Iterable[Entry], found: dict[str, Found]) -> None:
    """Like ``differs``, for files and folders."""
    if _told is None:
        return
    told = _told.setdefault(ctx_host.get().name, [])
    for entry in entries:
        seen = found[entry.path]
        told.append(Difference(entry.path, clean(difference(entry, seen)), entry, seen))


@contextmanager
def listening() -> Iterator[dict[str, list[Difference]]]:
    """Differences reported meanwhile, by host."""
    global _told
    _told = {}
    try:
        yield _told
    finally:
        _told = None
