"""Which known vulnerabilities a version still has, from ``data/floors.yaml``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from packaging.version import Version

from vllm_hosts.data import table


@dataclass(frozen=True)
class Hole:
    """A published vulnerability, and the first version of each branch without it."""

    cve: str
    fixed: tuple[Version, ...]
    what: str
    source: str


@cache
def floors() -> dict[str, tuple[tuple[str, ...], tuple[Hole, ...]]]:
    """By product: the packages that may carry it, and its vulnerabilities."""
    return {
        product: (
            tuple(entry["package"]),
            tuple(
                Hole(hole["cve"], tuple(map(Version, hole["fixed"])), hole["what"], hole["source"])
                for hole in entry["holes"]
            ),
        )
        for product, entry in table("floors.yaml").items()
    }


def holes(product: str, version: Version, mended: Iterable[str] = ()) -> Iterator[Hole]:
    """Vulnerabilities that a version still has.

    :param mended: CVEs that the distribution says it has patched in this package.
    """
    known = set(mended)
    for hole in floors()[product][1]:
        if hole.cve not in known and not _has_fix(version, hole.fixed):
            yield hole


def _has_fix(version: Version, fixed: tuple[Version, ...]) -> bool:
    newest = max(fixed)
    if version >= newest:
        return True
    # A branch is a major and a minor number; only a fix within the same branch counts.
    return any(version.release[:2] == fix.release[:2] and version >= fix for fix in fixed)
