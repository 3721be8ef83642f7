"""Which packages can go: those that deploys brought and nothing else needs. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

#: A package's name in a relation, before its version, architecture and build profile.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")


@dataclass(frozen=True)
class Package:
    """An installed package. ``needs`` and ``likes``: of each group, any one will do."""

    automatic: bool = False
    needs: tuple[tuple[str, ...], ...] = ()
    likes: tuple[tuple[str, ...], ...] = ()
    provides: frozenset[str] = frozenset()


def alternatives(relations: str) -> tuple[tuple[str, ...], ...]:
    """The names in a field such as ``Depends``.

    >>> alternatives("libc6 (>= 2.38), awk | mawk:any,")
    (('libc6',), ('awk', 'mawk'))

    :raises ValueError: one begins with no name.
    """
    groups = []
    for group in relations.split(","):
        if not group.strip():
            continue
        names = [_NAME.match(one.strip()) for one in group.split("|")]
        if None in names:
            raise ValueError(group[:200])
        groups.append(tuple(one[0] for one in names if one))
    return tuple(groups)


def removable(
    installed: Mapping[str, Package],
    ours: Collection[str],
    before: Collection[str],
    stays: Collection[str] = (),
) -> list[str]:
    """What can be removed without taking anything from anybody.

    Candidates are packages that deploys asked for and what came with them, unless the host had them
    before or somebody has asked for them since. One of them that something else needs stays.

    :param ours: names that deploys asked for.
    :param before: names that the host had before.
    :param stays: names that stay whatever the rest says.
    """
    by_name: dict[str, set[str]] = {}
    for name, package in installed.items():
        for one in {name, *package.provides}:
            by_name.setdefault(one, set()).add(name)

    def needed(groups: Iterable[tuple[str, ...]], missing: set[str]) -> set[str]:
        """Those of ``missing`` without which no alternative of a group would be left."""
        found: set[str] = set()
        for group in groups:
            offered = {one for name in group for one in by_name.get(name, ())}
            if not offered - missing:
                found |= offered
        return found

    reached = {name for name in ours if name in installed}
    todo = list(reached)
    while todo:
        for group in installed[todo.pop()].needs:
            new = {one for name in group for one in by_name.get(name, ())} - reached
            reached |= new
            todo += new
    going = {
        name
        for name in reached - set(before) - set(stays)
        if name in ours or installed[name].automatic
    }
    known = reached | set(before)
    todo = [name for name in installed if name not in going]
    while todo:
        name = todo.pop()
        package = installed[name]
        # What the host had before did without what we brought; a newcomer may count on it.
        groups = package.needs if name in known else (*package.needs, *package.likes)
        back = needed(groups, going)
        going -= back
        todo += back
    return sorted(going)
