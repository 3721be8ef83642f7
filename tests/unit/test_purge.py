"""Packages go with their configuration and their units, and none that was not named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vllm_hosts.operations.apt import purge

UNITS = "a.path b.service multi-user.target.wants/c.service d@.service"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Stand-ins for the programs; what they are asked is in a file."""
    programs = {
        "apt-get": "case $* in *-s*) echo 'Purg nginx [1]'; echo 'Purg tini:amd64 [1]' ;; esac",
        "dpkg": f"for unit in {UNITS}; do echo /usr/lib/systemd/system/$unit; done",
        "systemctl": ":",
    }
    for name, script in programs.items():
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/asked\n{script}\n')
        path.chmod(0o755)
    return tmp_path


def run(machine: Path, *names: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    done = subprocess.run(
        ["sh", "-c", purge(names)],
        env={"PATH": f"{machine}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    asked = (machine / "asked").read_text().splitlines()
    return done, [line for line in asked if not line.startswith(("dpkg", "apt-get -s"))]


def test_they_go_with_the_units_that_they_enabled(machine: Path) -> None:
    done, asked = run(machine, "nginx", "tini")
    assert (done.returncode, done.stdout) == (0, "")
    assert asked[:-1] == [
        "systemctl stop a.path",
        "systemctl disable --quiet a.path",
        "systemctl disable --quiet b.service",
    ]
    assert asked[-1].startswith("apt-get -q -y ") and asked[-1].endswith(" purge nginx tini")


def test_nothing_goes_where_apt_would_take_more(machine: Path) -> None:
    done, asked = run(machine, "nginx")
    assert done.returncode == 1
    assert "apt would remove or install tini:amd64 as well; see: apt-get -s purge nginx" in (
        done.stdout
    )
    assert asked == []


def test_nothing_goes_where_apt_does_not_say_what_would(machine: Path) -> None:
    (machine / "apt-get").write_text("#!/bin/sh\necho 'E: dpkg was interrupted' >&2; exit 100\n")
    (machine / "asked").touch()
    done, asked = run(machine, "nginx", "tini")
    assert (done.returncode, asked) == (100, [])
    assert "dpkg was interrupted" in done.stderr
