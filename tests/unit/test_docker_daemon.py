"""What systemd says of Docker's daemon, and which files are newer than it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.here import Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.docker import Daemon, DockerDaemon


def seen(folder: Path, says: str, *paths: Path) -> Daemon:
    """On a host where ``systemctl show`` prints this."""
    (folder / "programs").mkdir(exist_ok=True)
    here = Here(folder / "programs")
    here.program("systemctl", f"[ $1 = show ] || {{ echo enabled; exit; }}; printf '{says}'")
    script = DockerDaemon().command([str(path) for path in paths])
    return DockerDaemon().process(here.check_output(script).splitlines())


@pytest.mark.parametrize(
    ("state", "runs"),
    [("active", True), ("reloading", True), ("activating", False), ("inactive", False)],
)
def test_whether_it_runs(tmp_path: Path, state: str, runs: bool) -> None:
    found = seen(tmp_path, f"MainPID=0\\nActiveState={state}\\n")
    assert (found.running, found.enabled, found.stale) == (runs, True, ())


def test_where_systemd_says_nothing_it_does_not_run(tmp_path: Path) -> None:
    assert not seen(tmp_path, "").running


@pytest.mark.parametrize(
    "odd", ["Failed to connect to bus", "ActiveState=well\\n", "active active"]
)
def test_what_is_odd_is_no_answer(tmp_path: Path, odd: str) -> None:
    with pytest.raises(HostError, match="could not be understood"):
        seen(tmp_path, odd)


@pytest.mark.parametrize("order", [0, 1])
def test_files_that_are_newer_than_the_daemon(tmp_path: Path, order: int) -> None:
    new, old, gone = tmp_path / "new", Path("/usr/bin/env"), tmp_path / "gone"
    with subprocess.Popen(["sleep", "60"]) as daemon:
        try:
            # A process is as old as the first look at it. Times are compared in whole seconds.
            os.stat(f"/proc/{daemon.pid}")
            subprocess.run(["sleep", "1.1"], check=True)
            new.write_text("")
            words = ["ActiveState=active", f"MainPID={daemon.pid}"][:: 1 if order else -1]
            found = seen(tmp_path, "\\n".join(words), new, old, gone)
        finally:
            daemon.kill()
    assert (found.running, found.stale) == (True, (str(new),))
