"""Private files on the controller: written completely or not at all, never readable by others."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_hosts.bounded import BoundError, read_file
from vllm_hosts.errors import SettingsError

LOCK_FILE = ".lock"


def private_folder(path: Path) -> Path:
    """Create a folder that only its owner may enter, or check that it is one.

    :raises SettingsError: it is open to others, belongs to somebody else, or could be replaced by
        others.
    """
    make_folder(path)
    _check_private(path, "700")
    check_unshared(path.parent)
    return path


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, for their owner only.

    ``Path.mkdir`` leaves the mode of the parents to the umask, which may be 000.
    """
    for missing in reversed([path, *path.parents]):
        if not missing.is_dir():
            missing.mkdir(mode=0o700, exist_ok=True)


def check_unshared(path: Path) -> None:
    """Check that nobody else can write a file or folder, though others may read it.

    :raises SettingsError: others can.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from error
    if found.st_uid not in (os.geteuid(), 0):
        raise SettingsError(
            [f"{path} belongs to another user, who could change who can decrypt the keys; chown it"]
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise SettingsError([f"{path} can be written by other users; run: chmod go-w {path}"])


def read_private(path: Path) -> bytes | None:
    """A private file's content; None: there is no such file.

    :raises SettingsError: others may read it, or it cannot be read.
    """
    try:
        _check_private(path, "600")
        return read_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from error
    except BoundError as error:
        raise SettingsError(
            [f"{path} cannot be read: {error}; restore it from a backup"]
        ) from error


#: Another one for every change of a file's content, owner or mode.
Version = tuple[str, int, int, int, int, int]


def version_of(path: Path) -> Version | None:
    """Which version of a file is there; None: none that can be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    # Its number alone could be that of a file that was removed, and its times are steps of the
    # clock: together they are those of one version.
    times = found.st_mtime_ns, found.st_ctime_ns
    return (str(path), found.st_dev, found.st_ino, found.st_size, *times)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by a new version with mode 0600, synced to disk before it takes its place."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that a second writer waits instead of losing a change."""
    descriptor = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_private(path: Path, mode: str) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise SettingsError([f"{path} belongs to another user; it holds secrets of this one"])
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError([f"{path} is open to other users; run: chmod {mode} {path}"])
