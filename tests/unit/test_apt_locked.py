"""Somebody else reads the archives' lists: they are waited for, by name, with a limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vllm_hosts.operations import apt

#: Locks a file as apt does, says so, and keeps it for a while.
_HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def wait(file: Path, limit: int) -> tuple[int, str]:
    # Its seconds are short ones here.
    short = 'sleep() { command sleep "0.$1"; }'
    done = subprocess.run(
        ["sh", "-c", f"{short}\n{apt._FREE}\napt_free {file} {limit}; echo went on"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout


def held(file: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(file), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_nobody_has_them(tmp_path: Path) -> None:
    assert wait(tmp_path / "none", 2) == (0, "went on\n")
    (tmp_path / "lock").touch()
    assert wait(tmp_path / "lock", 2) == (0, "went on\n")


def test_who_has_them_is_waited_for(tmp_path: Path) -> None:
    process = held(tmp_path / "lock", 0.7)
    code, said = wait(tmp_path / "lock", 30)
    process.wait()
    assert code == 0
    assert said.endswith("went on\n")
    assert f"(pid {process.pid}), which has apt's lists" in said


def test_who_does_not_end_is_named(tmp_path: Path) -> None:
    process = held(tmp_path / "lock", 60)
    code, said = wait(tmp_path / "lock", 2)
    process.kill()
    process.wait()
    assert code == 1
    assert f"(pid {process.pid}) for 2 s; wait until it has ended" in said.replace("\n", " ")
    assert "went on" not in said


def test_they_are_waited_for_before_they_are_read() -> None:
    script = apt._read_lists()
    assert script.index("apt_free /var/lib/apt/lists/lock 600") < script.index("update")
