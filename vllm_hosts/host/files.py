"""Files and folders that a host should have, as values. Nothing here touches a host."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

#: Suffix of new content beside its target, until it is renamed over it.
NEW = ".vllm-hosts-new"
#: And of the version before, until all of a change is well.
OLD = ".vllm-hosts-old"

#: A part of a path that is a plain word of a shell and leads nowhere else, as ``..`` would.
PART = r"/(?!\.{1,2}(?:/|$))[A-Za-z0-9._@:+-]+"
_SAFE_PATH = re.compile(f"({PART})+")
_SAFE_NAME = re.compile(r"[a-z_0-9][a-z0-9_-]*")


def is_plain(path: str) -> bool:
    """Whether it is an absolute path that a shell reads as one word, without ``.`` and ``..``."""
    return _SAFE_PATH.fullmatch(path) is not None


def _check(path: str, *names: str) -> None:
    if not is_plain(path):
        raise ValueError(f"{path!r} is not an absolute path that a shell reads as one plain word")
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name or number of a user or group")


@dataclass(frozen=True)
class File:
    """A regular file. ``secret`` content is never shown, and old versions of it are not kept.

    ``partly``: only a part of the content is ours; the rest was on the host before.
    """

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    secret: bool = False
    partly: bool = False

    def __post_init__(self) -> None:
        _check(self.path, self.owner, self.group)
        if self.secret and self.mode & 0o077:
            raise ValueError(f"{self.path} is secret, so mode {self.mode:04o} is too wide")

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal digest of the content."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Folder:
    """A folder. Other things in it are left alone."""

    path: str
    mode: int = 0o755
    owner: str = "root"
    group: str = "root"

    def __post_init__(self) -> None:
        _check(self.path, self.owner, self.group)


@dataclass(frozen=True)
class Absent:
    """A path that must not exist. A folder there is an error, and is never removed."""

    path: str

    def __post_init__(self) -> None:
        _check(self.path)


@dataclass(frozen=True)
class Kept:
    """A regular file whose content stays as it is on the host; only mode and owner are ours."""

    path: str
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"

    def __post_init__(self) -> None:
        _check(self.path, self.owner, self.group)


@dataclass(frozen=True)
class CopiedFile:
    """A regular file that gets the content of another one, which root alone can write there."""

    path: str
    source: str
    mode: int = 0o644

    def __post_init__(self) -> None:
        _check(self.path)
        _check(self.source)


Entry = File | Folder | Kept | Absent


@dataclass(frozen=True)
class Found:
    """What is at a path on a host: ``kind`` as one letter, owner and group as name and number.

    Kinds: ``f`` regular file, ``d`` folder, ``l`` symbolic link, ``o`` anything else,
    ``-`` nothing. ``sha256`` is empty unless the kind is ``f``. ``deployed``: the digest of what
    the last deploy left there, or two if it was cut off; an empty one stands for nothing. None:
    the host has no such record yet.
    """

    kind: str
    mode: int = 0
    owner: tuple[str, str] = ("", "")
    group: tuple[str, str] = ("", "")
    sha256: str = ""
    deployed: tuple[str, ...] | None = None


NOTHING = Found("-")


def differing(entries: Iterable[Entry], found: dict[str, Found]) -> list[Entry]:
    """Entries that differ on the host, in the order given.

    :raises KeyError: a path was not checked.
    """
    return [entry for entry in entries if not _as_it_should_be(entry, found[entry.path])]


def difference(entry: Entry, found: Found) -> str:
    """How the host's path differs from an entry, in a few words."""
    if isinstance(entry, Absent):
        return "should not be there"
    kind = "d" if isinstance(entry, Folder) else "f"
    if found.kind == "-":
        return "is missing"
    if found.kind != kind:
        return f"is not a {'folder' if kind == 'd' else 'regular file'}"
    how = []
    if isinstance(entry, File) and found.sha256 != entry.sha256:
        how.append("has different content")
    if found.mode != entry.mode:
        how.append(f"has mode {found.mode:04o}, not {entry.mode:04o}")
    if entry.owner not in found.owner or entry.group not in found.group:
        now = f"{found.owner[0]}:{found.group[0]}"
        how.append(f"belongs to {now}, not {entry.owner}:{entry.group}")
    return " and ".join(how) or "has not been loaded by its service"


class Cause(StrEnum):
    """Why the content at a path is not what a deploy would leave there."""

    SETTINGS = "settings"
    HOST = "host"
    BOTH = "both"
    UNFINISHED = "unfinished"
    UNKNOWN = "unknown"


def cause(entry: Entry, found: Found) -> Cause | None:
    """Who changed something since the last deploy, according to the digests that it left.

    None: the content does not differ.
    """
    if not isinstance(entry, File | Absent):
        return None
    wanted = entry.sha256 if isinstance(entry, File) else ""
    if found.kind == "f" and found.sha256 == wanted:
        return None
    if found.deployed is None:
        return Cause.UNKNOWN
    if not found.deployed:
        # No deploy has ever touched this path.
        return Cause.SETTINGS if found.kind == "-" else Cause.UNKNOWN
    there = found.sha256 if found.kind in "f-" else found.kind
    if there not in found.deployed:
        same = wanted in found.deployed or (isinstance(entry, File) and entry.partly)
        return Cause.HOST if same else Cause.BOTH
    return Cause.UNFINISHED if wanted in found.deployed else Cause.SETTINGS


def _as_it_should_be(entry: Entry, found: Found) -> bool:
    if isinstance(entry, Absent):
        return found.kind == "-"
    if found.mode != entry.mode or entry.owner not in found.owner or entry.group not in found.group:
        return False
    if isinstance(entry, Folder):
        return found.kind == "d"
    if isinstance(entry, Kept):
        return found.kind == "f"
    return found.kind == "f" and found.sha256 == entry.sha256


#: Bytes of a file; a configuration that people read is never longer.
READ_AT_MOST = 256 * 1024
