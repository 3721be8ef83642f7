"""A change that a disk, a signal or a lost connection cuts off: all of it is there, or none."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.test_tree_operation import BACK, apply, given, state
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.operations.tree import change

__all__ = ["state"]


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        (small / "conf").write_text("old")
        done = apply(
            change([File(f"{tmp_path}/first", b"new"), File(f"{small}/conf", b"x" * 100_000)])
        )
        assert done.returncode != 0
        assert "is the disk full" in done.stderr
        assert (small / "conf").read_text() == "old"
        assert not (tmp_path / "first").exists()
        assert not list(tmp_path.rglob("*.vllm-hosts-new"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_disk_that_fills_meanwhile_takes_nothing_away(tmp_path: Path) -> None:
    """To put back what was there takes no room."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        (small / "conf").write_text("old" * 5000)
        (small / "gone").symlink_to("nowhere")
        entries: list[Entry] = [File(f"{small}/conf", b"new"), Absent(f"{small}/gone")]
        # Who reads all of a folder reads no former version.
        full = f"echo {small}/*; head -c 100000 /dev/zero >{small}/filler 2>/dev/null; false"
        done = apply(change(entries, validate=full))
        assert done.returncode == 1
        assert done.stderr.splitlines() == [f"{small}/conf", BACK]
        assert (small / "conf").read_text() == "old" * 5000
        assert (small / "gone").readlink() == Path("nowhere")
        assert sorted(path.name for path in small.iterdir()) == ["conf", "filler", "gone"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_cannot_be_put_back_is_named_and_the_rest_is_put_back(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    (tmp_path / "bin").mkdir()
    fails = f'case "$2" in {tmp_path}/.a.vllm-hosts-old) exit 5 ;; esac; exec /bin/mv "$@"'
    program(tmp_path / "bin/mv", fails)
    entries = [File(f"{tmp_path}/{name}", b"new") for name in ("a", "b")]
    done = apply(change(entries, validate="false"), tmp_path / "bin")
    assert (done.returncode, done.stderr) == (1, f"{tmp_path}/a could not be put back\n")
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["new", "old"]
    assert not [path for path in tmp_path.iterdir() if ".vllm-hosts-" in path.name]


def test_a_disk_that_fails_half_way_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "bin").mkdir()
    fails = f'case "$3" in {tmp_path}/b) exit 5 ;; esac; exec /bin/mv "$@"'
    program(tmp_path / "bin/mv", fails)
    entries = [File(f"{tmp_path}/a", b"new"), File(f"{tmp_path}/b", b"new")]
    done = apply(change(entries), tmp_path / "bin")
    assert (done.returncode, done.stderr.splitlines()) == (5, [BACK])
    assert (tmp_path / "a").read_text() == "old"
    assert not (tmp_path / "b").exists()


def test_when_power_fails_every_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "conf").write_text("old")
    log = tmp_path / "log"
    seen = f"$(cat {tmp_path}/one/conf {tmp_path}/two/conf 2>/dev/null)"
    program(tmp_path / "bin/sync", f'echo "$* {seen}" >>{log}')
    entries: list[Entry] = [
        File(f"{tmp_path}/one/conf", b"new"),
        File(f"{tmp_path}/one/more", b""),
        Absent(f"{tmp_path}/two/conf"),
    ]
    assert apply(change(entries), tmp_path / "bin").returncode == 0
    record = f"{tmp_path}/state/deployed.new"
    # The record has its own, before and after.
    synced = [line for line in log.read_text().splitlines() if not line.startswith(record)]
    suffix = ".vllm-hosts-new"
    assert synced == [
        f"{tmp_path}/one/conf{suffix} {tmp_path}/one/more{suffix} oldold",
        f"{tmp_path}/one {tmp_path}/two new",
    ]
    log.unlink()
    assert apply(change([Folder(f"{tmp_path}/three")]), tmp_path / "bin").returncode == 0
    assert not log.exists()


def test_what_a_loss_of_power_has_left_is_in_nobody_s_way(tmp_path: Path) -> None:
    """The version before, under its second name: it is the file itself."""
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / ".a.vllm-hosts-old")
    done = apply(change([File(f"{tmp_path}/a", b"new")]))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / ".a.vllm-hosts-old").exists()


@pytest.mark.parametrize("which", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_takes_all_back(tmp_path: Path, which: signal.Signals) -> None:
    (tmp_path / "a").write_text("old")
    log = tmp_path / "log"
    activate = f"cat {tmp_path}/a >>{log}; grep -q old {tmp_path}/a || exec sleep 30"
    command = change([File(f"{tmp_path}/a", b"new")], activate=activate)
    with subprocess.Popen(
        ["sh", "-c", command.get_raw_value()],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(given(command))
        process.stdin.close()
        until = time.monotonic() + 20
        while not log.exists() or log.read_text() != "new":
            assert time.monotonic() < until
            time.sleep(0.02)
        os.killpg(process.pid, which)
    assert process.returncode == 1
    assert (tmp_path / "a").read_text() == "old"
    # The service has the old version again.
    assert log.read_text() == "newold"


def test_all_is_taken_back_where_the_connection_is_lost(tmp_path: Path) -> None:
    """Nobody reads any more what the script says."""
    (tmp_path / "a").write_text("old")
    log = tmp_path / "log"
    command = change([File(f"{tmp_path}/a", b"new")], activate=f"cat {tmp_path}/a >>{log}; false")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=given(command).encode(),
        stdout=writer,
        stderr=writer,
        check=False,
        timeout=20,
    )
    os.close(writer)
    assert done.returncode == 1
    assert (tmp_path / "a").read_text() == "old"
    # The service has the old version again.
    assert log.read_text() == "newold"
