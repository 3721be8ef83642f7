"""Private files of the controller, when power fails, the disk is full, or others are about."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import private_files as atomic
from vllm_hosts.keys.private_files import (
    check_unshared,
    exists,
    keep_private,
    locked,
    make_folder,
    private_folder,
    read_private,
    write_private,
)

OLD, NEW = b"old", b"new, and longer"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_in(folder: Path) -> list[str]:
    """What this process has open there."""
    # gevent, which pyinfra brings, closes files when others have their turn.
    time.sleep(0.01)
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in found if path.startswith(str(folder))]


class Disk:
    """What is safe there at every sync, and which of them fails."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.synced: list[tuple[str, int, bytes]] = []
        self.fails_at: int | None = None
        self.loses_it = False

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        size = 0 if path.is_dir() else path.stat().st_size
        if len(self.synced) == self.fails_at:
            if self.loses_it:
                path.unlink()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.synced.append((str(path), size, self.target.read_bytes()))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(OLD)
    path.chmod(0o600)
    return path


@pytest.fixture
def disk(target: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk(target)
    monkeypatch.setattr(os, "fsync", found.fsync)
    return found


def test_when_power_fails_there_is_the_old_version_or_the_new_one(target: Path, disk: Disk) -> None:
    write_private(target, NEW)
    (beside, size, then), (folder, _, now) = disk.synced
    # All of the new one is on the disk before it takes the name,
    assert (Path(beside).parent, size, then) == (target.parent, len(NEW), OLD)
    assert Path(beside).name.startswith(".keys.json.")
    # and then the name is.
    assert (folder, now) == (str(target.parent), NEW)
    assert os.listdir(target.parent) == ["keys.json"]
    assert open_in(target.parent) == []


def test_a_write_that_fails_leaves_the_old_version_and_nothing_else(
    target: Path, disk: Disk
) -> None:
    disk.fails_at = 0
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_private(target, NEW)
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["keys.json"]
    assert open_in(target.parent) == []


def test_a_write_that_fails_says_why_and_not_what_came_of_it(target: Path, disk: Disk) -> None:
    disk.fails_at, disk.loses_it = 0, True
    with pytest.raises(OSError) as failed:
        write_private(target, NEW)
    assert failed.value.errno == errno.EIO
    assert target.read_bytes() == OLD


def test_a_folder_that_cannot_be_synced_is_no_file_that_stays_open(
    target: Path, disk: Disk
) -> None:
    disk.fails_at = 1
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_private(target, NEW)
    assert open_in(target.parent) == []


@pytest.mark.parametrize("umask", [0, 0o277])
def test_a_file_is_the_owners_to_read_and_write_at_any_umask(target: Path, umask: int) -> None:
    target.chmod(0o644)
    before = os.umask(umask)
    try:
        write_private(target, NEW)
    finally:
        os.umask(before)
    assert mode(target) == 0o600


def test_folders_above_are_made_too_and_no_matter_who_was_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a/b/c")
    finally:
        os.umask(before)
    assert [mode(tmp_path / path) for path in ("a", "a/b", "a/b/c")] == [0o700] * 3
    # Somebody else makes it between the look and the making.
    looks = [False, True]
    monkeypatch.setattr(Path, "is_dir", lambda path: path.name != "c" or looks.pop(0))
    make_folder(tmp_path / "a/b/c")
    assert looks == []


def test_what_others_may_enter_or_read_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder, file = tmp_path / "state", tmp_path / "state/keys.json"
    assert private_folder(folder) == folder
    write_private(file, NEW)
    for wrong in (0o710, 0o701, 0o720, 0o704):
        folder.chmod(wrong)
        with pytest.raises(SettingsError, match=f"open to other users; run: chmod 700 {folder}$"):
            private_folder(folder)
    folder.chmod(0o700)
    for wrong in (0o640, 0o604, 0o620, 0o602, 0o610):
        file.chmod(wrong)
        with pytest.raises(SettingsError, match=f"open to other users; run: chmod 600 {file}$"):
            read_private(file)
    file.chmod(0o400)
    assert read_private(file) == NEW


def test_what_is_not_there_is_no_error_and_what_cannot_be_read_is_one(tmp_path: Path) -> None:
    assert read_private(tmp_path / "none") is None
    check_unshared(tmp_path / "none")
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "folder", "it is not a regular file"),
        (tmp_path / "file/x", "Not a dir"),
    ):
        with pytest.raises(SettingsError) as refused:
            read_private(path)
        assert refused.value.problems[0].startswith(f"{path} cannot be read: {why}")
    with pytest.raises(SettingsError) as refused:
        check_unshared(tmp_path / "file/x")
    assert refused.value.problems[0].startswith(f"{tmp_path}/file/x cannot be read: Not a dir")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give files to somebody else")
def test_what_is_root_s_may_be_there_but_not_what_is_anybody_else_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "recipients"
    theirs.touch(mode=0o644)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for owner in (0, 1000):
        os.chown(theirs, owner, -1)
        check_unshared(theirs)
    os.chown(theirs, 1, -1)
    with pytest.raises(SettingsError, match="belongs to another user, who could change"):
        check_unshared(theirs)
    # Secrets are the user's own; root's are secrets of somebody else.
    os.chown(theirs, 0, -1)
    with pytest.raises(SettingsError, match="belongs to another user; it holds secrets"):
        read_private(theirs)


def test_a_second_writer_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    with open(tmp_path / atomic.LOCK_FILE, "w") as second:
        with suppress(ZeroDivisionError), locked(tmp_path):
            with pytest.raises(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise ZeroDivisionError
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert open_in(tmp_path) == []


def test_only_its_owner_can_hold_the_lock(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with locked(tmp_path):
            assert mode(tmp_path / atomic.LOCK_FILE) == 0o600
    finally:
        os.umask(before)


class TestWhatThisUserCannot:
    """A sentence with the path, and how it comes about where that can be told."""

    @pytest.fixture(autouse=True)
    def somebody(self, tmp_path: Path) -> Iterator[None]:
        """Root may do everything, so these are somebody else's tests."""
        os.chown(tmp_path, 64101, -1)
        # Folders of pytest's above it are root's alone.
        above = {one: one.stat().st_mode for one in tmp_path.parents if not one.stat().st_mode & 1}
        for one in above:
            one.chmod(0o711)
        os.seteuid(64101)
        yield
        os.seteuid(0)
        for one, mode in above.items():
            one.chmod(mode)

    def said(self, doing: Callable[[], object]) -> str:
        with pytest.raises(SettingsError) as found:
            doing()
        [sentence] = found.value.problems
        return sentence

    def test_a_store_of_root_s(self, tmp_path: Path) -> None:
        os.seteuid(0)
        store = tmp_path / "store"
        store.mkdir(mode=0o700)
        (store / "keys.json").touch()
        os.seteuid(64101)
        of_root = f"{store} belongs to another user; it holds secrets of this one"
        assert self.said(lambda: private_folder(store)) == of_root
        closed = "cannot be read: Permission denied; it belongs to another user, as it does after"
        for look in (exists, read_private):
            assert closed in self.said(partial(look, store / "keys.json"))
        for looking, how in ((True, "read"), (False, "written")):

            def hold(looking: bool = looking) -> None:
                with locked(store, looking=looking):
                    raise AssertionError

            assert f"{store} cannot be {how}: Permission denied; it belongs" in self.said(hold)

    def test_a_folder_of_one_s_own_without_a_writer(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)

        def hold() -> None:
            with locked(tmp_path):
                raise AssertionError

        assert self.said(hold) == f"{tmp_path} cannot be written: Permission denied"
        why = f"{tmp_path / 'new'} cannot be written: Permission denied; it is unchanged"
        assert self.said(lambda: keep_private(tmp_path / "new", NEW)) == why
        # Who only looks waits for nobody, as nobody has written.
        with locked(tmp_path, looking=True):
            assert not os.listdir(tmp_path)

    def test_a_file_in_a_folder_s_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert "file cannot be used: File exists" in self.said(
            lambda: private_folder(tmp_path / "file")
        )
        assert not exists(tmp_path / "file/below")
        assert not exists(tmp_path / ("x" * 300))
