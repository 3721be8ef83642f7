"""What is killed on the host itself, not on the controller: what it leaves goes with the next run,
at once, and no run goes on that does not hold its host."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from tests.lab.deploys import BIN, INVENTORY, ROOT, changes, command, deploy
from tests.lab.faults import run

pytestmark = pytest.mark.nightly

HOST = "gpu2"
_SLOW = "/usr/local/sbin/nginx"
_WORK = "ls -d /run/vllm-hosts.?????? 2>/dev/null || :"
#: nginx takes its time, where a change of files has its folder in /run.
_MAKE_SLOW = f"""
echo '#!/bin/sh' >{_SLOW}
echo 'for one in /run/vllm-hosts.??????; do [ ! -d $one ] || sleep 25; done' >>{_SLOW}
echo 'exec /usr/sbin/nginx "$@"' >>{_SLOW}; chmod 755 {_SLOW}
"""


@pytest.fixture
def slow(deployed: Deployed) -> Iterator[None]:
    lab_hosts.run(HOST, _MAKE_SLOW)
    yield
    lab_hosts.run(HOST, f"rm -f {_SLOW}")
    back = deploy("--limit", HOST)
    assert back.code == 0, back.output[-4000:]
    assert run.left(HOST) == [] and run.broken(HOST) == []


def _started(size: str) -> subprocess.Popen[str]:
    settings = json.dumps({"edge": {"max_body_size": size}})
    return subprocess.Popen(
        [str(BIN / "pyinfra"), "-y", "-v", INVENTORY, "deploy.py", "--limit", HOST],
        cwd=ROOT,
        env=os.environ | {"PYINFRA_PROGRESS": "off", "LAB_SETTINGS": settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said[-4000:]
    return said


def test_files_of_a_script_that_was_killed(slow: None) -> None:
    process, until = _started("31m"), time.monotonic() + 300
    # The words of that script, and none of the ones that look for it.
    kill = (
        "pids=$(pgrep -f 'mktemp [-]d /run/vllm-hosts[.]X') && kill -KILL $pids && echo done || :"
    )
    while not lab_hosts.run(HOST, kill).stdout:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.5)
    _ended(process)
    assert lab_hosts.run(HOST, _WORK).stdout
    # Who only looks removes nothing.
    command("vllm-hosts", "drift", INVENTORY, "--host", HOST)
    assert lab_hosts.run(HOST, _WORK).stdout
    done = command("pyinfra", "-y", "--limit", HOST, INVENTORY, "keys.py")
    assert done.code == 0, done.output[-4000:]
    assert lab_hosts.run(HOST, _WORK).stdout == ""


def test_a_run_ends_whose_host_is_held_no_more(slow: None) -> None:
    """The shell that holds it is killed before anything is changed."""
    process = _started("33m")
    assert process.stdout is not None
    assert any("Firewall | nftables" in line for line in process.stdout)
    lab_hosts.run(HOST, "kill -KILL $(pgrep -f 'VLLM_HOSTS_[H]OLD=yes')")
    assert "others may work on it by now" in _ended(process)
    assert run.broken(HOST) == []
    lab_hosts.run(HOST, f"rm -f {_SLOW}")
    again = deploy("--limit", HOST)
    assert again.code == 0, again.output[-4000:]
    third = deploy("--limit", HOST)
    assert (third.code, changes(third)[HOST]) == (0, 0), third.output[-4000:]
