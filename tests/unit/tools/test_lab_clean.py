"""Taking away what the lab leaves: all of it, nothing else, and never while it is used."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import clean as cleaning
from lab import layout, network, processes
from tests.unit.projects import ROOT

OLD, NEW = "registry-0123456789ab", "registry-ba9876543210"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(network, "is_up", lambda: False)
    monkeypatch.setattr(network, "others", list)
    cache, state = tmp_path / "cache", tmp_path / "state"
    for path in (f"cache/{OLD}/docker", f"cache/{NEW}", "cache/wheels", "cache/apt"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("cache/.base.unfinished", "cache/.base-tools-0123456789ab.unfinished"):
        (tmp_path / path).mkdir()
    (cache / ".registry.lock").touch()
    os.utime(cache / OLD, (1, 1))
    for path in ("state/hosts/gpu1", "state/run", "state/ssh"):
        (tmp_path / path).mkdir(parents=True)
    (state / "hosts.json").write_text("[]")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("mine")
    # A link is removed, not what it leads to.
    (cache / "base-0123456789ab").symlink_to(tmp_path / "precious")
    return cache, state


def test_everything_goes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    cache, state = folders
    (cache / ".base.unfinished").rmdir()
    assert cleaning.clean(cache=cache, state=state) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious"]
    assert (tmp_path / "precious/file").read_text() == "mine"
    assert cleaning.clean(cache=cache, state=state) == [], "a second time there is nothing"


def test_what_is_somebody_else_s_stays_and_is_named(folders: tuple[Path, Path]) -> None:
    cache, state = folders
    (state / "photos").mkdir()
    left = cleaning.clean(cache=cache, state=state)
    assert [path.name for path in left] == [".base.unfinished", "photos"]


def test_old_builds_only(folders: tuple[Path, Path]) -> None:
    cache, state = folders
    cleaning.clean(cache=cache, state=state, old=True)
    names = {path.name for path in cache.iterdir()}
    assert OLD not in names and NEW in names and "wheels" in names
    assert ".base-tools-0123456789ab.unfinished" not in names
    assert (state / "hosts.json").exists()


def test_not_while_the_lab_is_used(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, state = folders
    (state / "run/host-gpu1.json").write_text("{}")
    monkeypatch.setattr(processes, "alive", lambda name: 1 if name == "host-gpu1" else None)
    with pytest.raises(RuntimeError, match=r"the lab is up \(host-gpu1\).*make lab-down"):
        cleaning.clean(cache=cache, state=state)
    monkeypatch.setattr(processes, "alive", lambda name: None)
    monkeypatch.setattr(network, "is_up", lambda: True)
    with pytest.raises(RuntimeError, match="its bridge"):
        cleaning.clean(cache=cache, state=state, old=True)
    monkeypatch.setattr(network, "is_up", lambda: False)
    monkeypatch.setattr(network, "others", lambda: [1])
    with pytest.raises(RuntimeError, match="lab 1"):
        cleaning.clean(cache=cache, state=state)
    monkeypatch.setattr(network, "others", list)
    with (cache / ".registry.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="registry is being built"):
            cleaning.clean(cache=cache, state=state)
    assert (cache / OLD).is_dir() and (state / "hosts.json").exists()


def test_everything_that_the_lab_writes_is_known() -> None:
    """A folder or file that gets a place in the code has to get one here."""
    used = subprocess.run(
        ["grep", "-rhoE", r'(STATE|CACHE) / "[^"{]+"', "lab", "--include=*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {line.partition('"')[2].strip('"') for line in used.splitlines() if '/ ".' not in line}
    assert {"hosts", "ssh", "wheels", "apt"} <= names
    assert names - cleaning._IN_STATE - cleaning._IN_CACHE == set()


def test_it_needs_no_environment() -> None:
    """Neither is there after `make clean`."""
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import lab.clean",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert layout.CACHE.is_absolute()
