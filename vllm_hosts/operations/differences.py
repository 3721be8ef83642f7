"""What operations would change, told to whoever asked for it: `vllm-hosts drift` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyinfra.context import ctx_host

from vllm_hosts.text import clean
from vllm_hosts.tree import Entry, Found, difference


@dataclass(frozen=True)
class Difference:
    """``what`` is a path, or another thing with a name, such as a unit or a container."""

    what: str
    how: str


_told: dict[str, list[Difference]] | None = None


def asked_for() -> bool:
    """Whether somebody asks what differs, so that nothing is written on any host."""
    return _told is not None


def differs(what: str, how: str) -> None:
    """An operation is about to change this. Costs nothing when nobody listens."""
    if _told is not None:
        _told.setdefault(ctx_host.get().name, []).append(Difference(clean(what), clean(how)))


def entries_differ(entries: Iterable[Entry], found: dict[str, Found]) -> None:
    """Like ``differs``, for files and folders."""
    for entry in entries:
        differs(entry.path, difference(entry, found[entry.path]))


@contextmanager
def listening() -> Iterator[dict[str, list[Difference]]]:
    """What is told in the meantime, by host."""
    global _told
    _told = {}
    try:
        yield _told
    finally:
        _told = None
