"""A host that reboots, or loses its power, while a change waits to be confirmed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, command, deploy
from tests.lab.faults import run, table

pytestmark = pytest.mark.nightly

HOST = "gpu2"
#: A change is confirmed from the removal of one file on: here that takes as long as the minute.
_SLOW = "/usr/local/sbin/rm"
_HOLD = f"""cat >{_SLOW} <<'end'
#!/bin/sh
case "$*" in "-f /var/lib/vllm-hosts/unconfirmed/"*/undo.sh) sleep 100 ;; esac
exec /usr/bin/rm "$@"
end
chmod 755 {_SLOW}"""
#: What each is about: the settings, what the host has of them on disk, and what is in force.
CHANGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "firewall": (
        {"hosts": {HOST: {"firewall": {"extra_tcp_ports": [4711]}}}},
        "cat /etc/vllm-hosts/firewall.nft",
        "nft -s -t list table inet vllm_hosts",
    ),
    "ssh": (
        {"hosts": {HOST: {"ssh_hardening": {"enabled": True}}}},
        "cat /etc/ssh/sshd_config.d/00-vllm-hosts.conf 2>&1",
        "sshd -T",
    ),
}


#: A host whose own configuration takes passwords.
_PASSWORDS = """cd /etc/ssh/sshd_config.d && echo PasswordAuthentication yes >10-lab.conf &&
    { mv lab.conf /root/ 2>/dev/null; systemctl reload ssh; }"""
_NO_PASSWORDS = """cd /etc/ssh/sshd_config.d && rm -f 10-lab.conf
    mv /root/lab.conf . 2>/dev/null; systemctl reload ssh"""


@pytest.fixture(autouse=True)
def as_before(deployed: Deployed) -> Iterator[None]:
    lab_hosts.run(HOST, _PASSWORDS)
    yield
    lab_hosts.run(HOST, f"/usr/bin/rm -f {_SLOW}")
    lab_hosts.run(HOST, _NO_PASSWORDS)
    assert deploy("--limit", HOST).code == 0


def seen(script: str) -> str:
    return lab_hosts.run(HOST, script, check=False).stdout


@pytest.mark.parametrize("end", ["power lost", "rebooted"])
@pytest.mark.parametrize("name", CHANGES)
def test_the_host_comes_up_with_what_was_confirmed(name: str, end: str) -> None:
    settings, file, live = CHANGES[name]
    before = seen(file), seen(live)

    def gone(process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 300
        # The folder is there before the change, so the file alone says that it waits.
        while seen(file) == before[0] or seen(live) == before[1]:
            assert process.poll() is None, process.communicate()[0][-4000:]
            assert time.monotonic() < until
            time.sleep(0.2)
        time.sleep(2)
        assert seen("ls /run/vllm-hosts-undo/*/undo.sh") != "", "it is confirmed already"
        table.FAULTS[end].begin(HOST, process)

    lab_hosts.run(HOST, _HOLD)
    stopped = run.deploy_until(HOST, 1, gone, json.dumps(settings))
    assert stopped.code != 0, stopped.output[-4000:]
    lab_hosts.run(HOST, "systemctl is-system-running --wait", check=False, timeout=200)
    assert (seen(file), seen(live)) == before
    assert seen("systemctl --failed --plain --no-legend | grep vllm-hosts") == ""
    lab_hosts.run(HOST, f"/usr/bin/rm {_SLOW}")
    # Nothing is left of it, and nothing counts as changed by somebody else.
    assert run.left(HOST) == []
    drift = command("vllm-hosts", "drift", "inventory/lab.py", "--host", HOST)
    back = deploy("--limit", HOST)
    assert (back.code, changes(back)[HOST]) == (0, 0), back.output[-4000:]
    assert "since the last deploy" not in drift.output, drift.output
    # What was meant is what the next run does.
    again = deploy("--limit", HOST, settings=settings)
    assert again.code == 0, again.output[-4000:]
    assert (seen(file), seen(live)) != before
    assert run.left(HOST) == []
    third = deploy("--limit", HOST, settings=settings)
    assert (third.code, changes(third)[HOST]) == (0, 0), third.output[-4000:]
