"""dpkg was killed in the middle: the next run finishes that."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vllm_hosts.operations import apt

CONFIGURE = "dpkg --force-confdef --force-confold --configure -a"


def run(folder: Path, journal: bool, dpkg: str) -> tuple[int, list[str]]:
    updates = folder / "updates"
    updates.mkdir()
    if journal:
        (updates / "0003").write_text("")
    (folder / "bin").mkdir()
    programs = {
        "apt-get": f"""echo apt-get >>{folder}/asked
            [ -z "$(ls {updates})" ] || {{ echo 'E: dpkg was interrupted'; exit 100; }}
            [ ! -e {folder}/broken ]""",
        "dpkg": f'echo "dpkg $*" >>{folder}/asked; {dpkg}',
    }
    for name, script in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    script = apt._finished("apt-get -y install x").replace(apt._UPDATES, str(updates))
    done = subprocess.run(
        ["sh", "-c", f"set -e; {script}; echo went on"],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ("went on" in done.stdout) == (done.returncode == 0)
    return done.returncode, (folder / "asked").read_text().splitlines()


def test_it_is_finished_first(tmp_path: Path) -> None:
    asked = ["apt-get", CONFIGURE, "apt-get"]
    assert run(tmp_path, True, f"rm {tmp_path}/updates/*") == (0, asked)


def test_what_cannot_be_finished_fails(tmp_path: Path) -> None:
    code, asked = run(tmp_path, True, "exit 1")
    assert (code, asked) == (1, ["apt-get", CONFIGURE])


def test_other_failures_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("")
    assert run(tmp_path, False, "exit 0") == (1, ["apt-get"])
