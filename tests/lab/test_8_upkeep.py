"""docs/upkeep.md, typed as it is written: a patch day, on one host while the other serves."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path
from shlex import quote

import pytest

from lab import hosts as lab_hosts
from lab import layout
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import BIN, INVENTORY, ROOT, changes, deploy

pytestmark = pytest.mark.nightly

HOST = "gpu1"
BOOT = "cat /proc/sys/kernel/random/boot_id"


def patch_day() -> str:
    """What that section has to be typed, with the lab's inventory and host."""
    text = (ROOT / "docs/upkeep.md").read_text()
    section = text.partition("\n## A patch day with reboots\n")[2].partition("\n## ")[0]
    typed = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    script = textwrap.dedent(typed)
    for theirs, ours in (("inventory/prod.py", INVENTORY), ("gpu1.example.com", HOST)):
        assert theirs in script
        script = script.replace(theirs, ours)
    # The connection may end before its command does, which nobody minds who types this.
    return script.replace("systemctl reboot", "systemctl reboot || :")


def ssh(folder: Path) -> Path:
    """ssh as somebody has it whose configuration knows the host."""
    program = folder / "ssh"
    address = lab_hosts.host(HOST).ipv4
    options = ["-F", "none", "-i", str(layout.SSH_KEY), "-o", f"HostName={address}"]
    options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    options += ["-o", "LogLevel=ERROR"]
    words = " ".join(map(quote, options))
    program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {words} "$@"\n')
    program.chmod(0o755)
    return program


def test_a_patch_day_as_written(deployed: Deployed, tmp_path: Path) -> None:
    before = {host: lab_hosts.run(host, BOOT).stdout for host in HOSTS}
    path = f"{ssh(tmp_path).parent}:{BIN}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", patch_day()],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    after = {host: lab_hosts.run(host, BOOT).stdout for host in HOSTS}
    assert {host for host in HOSTS if before[host] != after[host]} == {HOST}
    # Both times, and nothing was left to change.
    assert re.findall(r"^([0-9]+) hosts?, promises:", done.stdout, re.M) == ["2", "1"]
    run = deploy()
    assert (run.code, changes(run)) == (0, dict.fromkeys(HOSTS, 0)), run.output[-4000:]
