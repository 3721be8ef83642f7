"""Private files on the controller: written completely or not at all, never readable by others."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vllm_hosts.bounded import BoundError, read_file
from vllm_hosts.errors import SettingsError

LOCK_FILE = ".lock"
#: Of a path at which there cannot be anything.
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def private_folder(path: Path) -> Path:
    """Create a folder that only its owner may enter, or check that it is one.

    :raises SettingsError: it is open to others, belongs to somebody else, could be replaced by
        others, or cannot be made.
    """
    try:
        make_folder(path)
        _check_private(path, "700")
    except OSError as error:
        raise _unusable(path, "used", error) from error
    check_unshared(path.parent)
    return path


def exists(path: Path) -> bool:
    """Whether there is something.

    :raises SettingsError: this user may not know.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno in _NOTHING:
            return False
        raise _unusable(path, "read", error) from error
    return True


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
        raise _unusable(path, "read", error) from error
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
        raise _unusable(path, "read", error) from error
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


def keep_private(path: Path, content: bytes) -> None:
    """As ``write_private``, for what must not be lost.

    :raises SettingsError: it cannot be written.
    """
    try:
        write_private(path, content)
    except OSError as error:
        raise SettingsError(
            [f"{path} cannot be written: {error.strerror}; it is unchanged"]
        ) from error


@contextmanager
def locked(folder: Path, *, looking: bool = False) -> Iterator[None]:
    """Hold the folder's lock, so that a second writer waits instead of losing a change.

    :param looking: nothing is created: where nobody has written, nobody is waited for.
    :raises SettingsError: this user cannot.
    """
    flags = os.O_RDONLY if looking else os.O_CREAT | os.O_RDWR
    try:
        descriptor = os.open(folder / LOCK_FILE, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if not looking or not isinstance(error, FileNotFoundError):
            raise _unusable(folder, "read" if looking else "written", error) from error
        yield
        return
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


def _unusable(path: Path, how: str, error: OSError) -> SettingsError:
    hint = (
        "" if _is_own(path) else "; it belongs to another user, as it does after a sudo: chown it"
    )
    return SettingsError([f"{path} cannot be {how}: {error.strerror}{hint}"])


def _is_own(path: Path) -> bool:
    """Whether it belongs to this user; of what cannot be seen, the nearest folder that can."""
    for one in (path, *path.parents):
        with suppress(OSError):
            return one.stat().st_uid == os.geteuid()
    return True
