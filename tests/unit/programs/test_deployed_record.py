"""The record that a deploy leaves on its host, written by this machine's shell."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.command import StringCommand

from tests.unit.test_tree_operation import apply, mode
from vllm_hosts.facts import tree as facts
from vllm_hosts.facts.base import HostFact
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Absent, Cause, Entry, File, Found, cause, differing
from vllm_hosts.operations import tree as operation
from vllm_hosts.operations.record import unnoted
from vllm_hosts.operations.tree import change, noting

OLD, NEW = b"old\n", b"new\n"


@pytest.fixture(autouse=True)
def deployed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The record of a host, which is this machine below a folder."""
    path = tmp_path / "state" / "deployed"
    for module in (operation, facts):
        monkeypatch.setattr(module, "DEPLOYED", str(path))
        if hasattr(module, "PREVIOUS"):
            monkeypatch.setattr(module, "PREVIOUS", f"{tmp_path}/state/previous")
    monkeypatch.setattr(operation, "COPIES", f"{tmp_path}/state/files")
    return path


def seen(*paths: str) -> dict[str, Found]:
    return asked(TreeState(), paths=list(paths)).paths


def asked(fact: HostFact[facts.TreeFound], **arguments: object) -> facts.TreeFound:
    done = subprocess.run(
        ["sh", "-c", str(fact.command(**arguments))], capture_output=True, text=True, check=False
    )
    return fact.process(done.stdout.splitlines())


def line(path: str | Path, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {path}"


def test_what_is_written_is_noted_with_it(tmp_path: Path, deployed: Path) -> None:
    a = File(f"{tmp_path}/a", NEW)
    secret = File(f"{tmp_path}/.env", b"KEY=hunter2", mode=0o600, secret=True)
    files: list[Entry] = [a, secret, Absent(f"{tmp_path}/gone")]
    (tmp_path / "gone").write_text("x")
    done = apply(change(files))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(deployed.read_text().splitlines()) == sorted(
        [
            line(f"{tmp_path}/a", NEW),
            line(f"{tmp_path}/.env", b"KEY=hunter2"),
            f"-  {tmp_path}/gone",
        ]
    )
    assert mode(deployed) == 0o600
    found = seen(*(entry.path for entry in files), f"{tmp_path}/never")
    assert [found[entry.path].deployed for entry in files] == [
        (a.sha256,),
        (secret.sha256,),
        ("",),
    ]
    assert found[f"{tmp_path}/never"].deployed == ()
    assert differing(files, found) == []


def test_no_content_of_a_secret_is_kept(tmp_path: Path) -> None:
    secret = File(f"{tmp_path}/.env", b"KEY=hunter2", mode=0o600, secret=True)
    apply(change([secret, File(f"{tmp_path}/a", NEW)]))
    copies = tmp_path / "state" / "files"
    assert (copies / f"{tmp_path}/a".lstrip("/")).read_bytes() == NEW
    assert mode(copies) == 0o700
    state = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert sorted(path.name for path in state) == ["a", "deployed", "deployed.lock"]
    assert not [path for path in state if b"hunter2" in path.read_bytes()]


def test_without_a_record_nothing_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    found = seen(f"{tmp_path}/a")
    assert found[f"{tmp_path}/a"].deployed is None
    assert cause(File(f"{tmp_path}/a", NEW), found[f"{tmp_path}/a"]) is Cause.UNKNOWN


def test_other_lines_stay(tmp_path: Path, deployed: Path) -> None:
    apply(change([File(f"{tmp_path}/a", OLD), File(f"{tmp_path}/ab", OLD)]))
    apply(change([File(f"{tmp_path}/a", NEW)]))
    assert sorted(deployed.read_text().splitlines()) == sorted(
        [line(f"{tmp_path}/a", NEW), line(f"{tmp_path}/ab", OLD)]
    )


@pytest.mark.parametrize("rejecting", [{"validate": "false"}, {"activate": "false"}])
def test_a_rejected_change_leaves_the_record_as_it_was(
    tmp_path: Path, deployed: Path, rejecting: dict[str, Any]
) -> None:
    apply(change([File(f"{tmp_path}/a", OLD)]))
    before = deployed.read_text()
    entries = [File(f"{tmp_path}/a", NEW), File(f"{tmp_path}/b", NEW)]
    assert apply(change(entries, **rejecting)).returncode == 1
    assert deployed.read_text() == before
    assert (tmp_path / "a").read_bytes() == OLD


@pytest.mark.parametrize("first", [OLD, None])
@pytest.mark.parametrize("at", ["before", "after"])
def test_a_run_that_is_killed_leaves_nothing_false(
    tmp_path: Path, deployed: Path, first: bytes | None, at: str
) -> None:
    """Killed on the spot, right before or right after the file gets its new content."""
    path = f"{tmp_path}/a"
    if first is not None:
        apply(change([File(path, first)]))
    cut_off(change([File(path, NEW)], validate="sleep 30"), at, tmp_path)
    there = seen(path)[path]
    now = None if there.kind == "-" else (tmp_path / "a").read_bytes()
    assert now == (first if at == "before" else NEW)
    if at == "before":
        assert cause(File(path, NEW), there) is Cause.UNFINISHED
    if first is not None or at == "after":
        # Whoever changes it by hand afterwards is seen all the same.
        (tmp_path / "a").write_text("by hand")
        assert cause(File(path, NEW), seen(path)[path]) is Cause.HOST
    # The next run leaves one line, and nothing to do.
    assert apply(change([File(path, NEW)])).returncode == 0
    assert deployed.read_text().splitlines() == [line(path, NEW)]


def cut_off(command: StringCommand, at: str, folder: Path) -> None:
    """Run a command and kill its shell where the file is about to be, or was, put in its place."""
    script = command.get_raw_value()
    if at == "before":
        script = script.replace("\nswap ", "\nsleep 30\nswap ", 1)
    lines = command.connector_arguments["_stdin"]
    assert isinstance(lines, list)
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write("".join(f"{line}\n" for line in lines))
        process.stdin.close()
        deadline = time.monotonic() + 20
        while not sleeping(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)


def sleeping(group: int) -> bool:
    done = subprocess.run(
        ["ps", "-o", "comm=", "-g", str(group)], capture_output=True, text=True, check=False
    )
    return "sleep" in done.stdout.split()


def test_the_change_itself_makes_no_digest_an_argument(tmp_path: Path) -> None:
    secret = File(f"{tmp_path}/.env", b"KEY=hunter2", mode=0o600, secret=True)
    assert secret.sha256 not in change([secret]).get_raw_value()
    assert secret.sha256 not in noting([secret]).get_raw_value()


def test_what_was_right_already_is_noted_once(tmp_path: Path, deployed: Path) -> None:
    """A host of an earlier version: nothing differs, so nothing is written."""
    files: list[File | Absent] = [
        File(f"{tmp_path}/a", NEW),
        File(f"{tmp_path}/.env", NEW, mode=0o600, secret=True),
        File(f"{tmp_path}/other", NEW),
        Absent(f"{tmp_path}/gone"),
        Absent(f"{tmp_path}/there"),
    ]
    for name, content in {"a": NEW, ".env": NEW, "other": OLD, "there": OLD}.items():
        (tmp_path / name).write_bytes(content)
    left = unnoted(files, seen(*(entry.path for entry in files)))
    assert left == [files[0], files[1], files[3]]
    done = apply_plain(noting(left))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(deployed.read_text().splitlines()) == sorted(
        [line(f"{tmp_path}/a", NEW), line(f"{tmp_path}/.env", NEW), f"-  {tmp_path}/gone"]
    )
    copies = [path.name for path in (tmp_path / "state/files").rglob("*") if path.is_file()]
    assert copies == ["a"]
    assert (tmp_path / "a").read_bytes() == NEW
    assert unnoted(files, seen(*(entry.path for entry in files))) == []


def test_what_is_right_by_now_is_noted_in_the_place_of_what_was(
    tmp_path: Path, deployed: Path
) -> None:
    """Somebody put there by hand what the settings want since."""
    apply(change([File(f"{tmp_path}/a", OLD), File(f"{tmp_path}/b", OLD)]))
    (tmp_path / "a").write_bytes(NEW)
    assert apply_plain(noting([File(f"{tmp_path}/a", NEW)])).returncode == 0
    assert deployed.read_text().splitlines() == sorted(
        [line(f"{tmp_path}/a", NEW), line(f"{tmp_path}/b", OLD)]
    )


def apply_plain(command: StringCommand) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()], capture_output=True, text=True, check=False
    )


def test_two_changes_at_once_lose_no_line(tmp_path: Path, deployed: Path) -> None:
    commands = [change([File(f"{tmp_path}/{number}", NEW)]) for number in range(8)]
    running = []
    for command in commands:
        lines = command.connector_arguments["_stdin"]
        assert isinstance(lines, list)
        process = subprocess.Popen(
            ["sh", "-c", command.get_raw_value()], stdin=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write("".join(f"{line}\n" for line in lines))
        process.stdin.close()
        running.append(process)
    assert [process.wait(timeout=30) for process in running] == [0] * 8
    assert len(deployed.read_text().splitlines()) == 8


def test_whoever_may_enter_the_folder_holds_up_no_deploy(tmp_path: Path, deployed: Path) -> None:
    """A lock needs no right to write: any user of the host can have one on what they can read."""
    (tmp_path / "a").write_bytes(NEW)
    assert apply_plain(noting([File(f"{tmp_path}/a", NEW)])).returncode == 0
    readable = [
        path for path in (deployed.parent, *deployed.parent.iterdir()) if mode(path) & 0o004
    ]
    assert deployed.parent in readable
    with ExitStack() as held:
        for path in readable:
            descriptor = os.open(path, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        script = noting([File(f"{tmp_path}/a", NEW)]).get_raw_value()
        subprocess.run(["timeout", "10", "sh", "-c", script], check=True)
