"""Changes that a host undoes unless they are confirmed, held just before they are."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lab import hosts as lab_hosts
from tests.lab.deploys import deploy
from tests.lab.faults import run

_SLOW = "/usr/local/sbin/rm"
#: A change is confirmed from the removal of one file on: here that takes as long as the minute.
HOLD = f"""cat >{_SLOW} <<'end'
#!/bin/sh
case "$*" in "-f /var/lib/vllm-hosts/unconfirmed/"*/undo.sh) sleep 100 ;; esac
exec /usr/bin/rm "$@"
end
chmod 755 {_SLOW}"""
#: Killed, as with a connection that is gone: it confirms nothing.
HOLD_ENDS = (
    "pkill -KILL -f '^sleep 100$|sbin/[r]m -f /var/lib/vllm-hosts/unconfirmed' || :;"
    f" /usr/bin/rm -f {_SLOW}"
)
#: A host whose own configuration takes passwords.
_PASSWORDS = """cd /etc/ssh/sshd_config.d && echo PasswordAuthentication yes >10-lab.conf &&
    { mv lab.conf /root/ 2>/dev/null; systemctl reload ssh; }"""
_NO_PASSWORDS = """cd /etc/ssh/sshd_config.d && rm -f 10-lab.conf
    mv /root/lab.conf . 2>/dev/null; systemctl reload ssh"""


def changes_of(host: str) -> dict[str, tuple[dict[str, Any], str, str]]:
    """What each is about: the settings, what the host has of them on disk, and what is in force."""
    return {
        "firewall": (
            {"hosts": {host: {"firewall": {"extra_tcp_ports": [4711]}}}},
            "cat /etc/vllm-hosts/firewall.nft",
            "nft -s -t list table inet vllm_hosts",
        ),
        "ssh": (
            {"hosts": {host: {"ssh_hardening": {"enabled": True}}}},
            "cat /etc/ssh/sshd_config.d/00-vllm-hosts.conf 2>&1",
            "sshd -T",
        ),
    }


@contextmanager
def taking_passwords(host: str) -> Iterator[None]:
    """So that a change of SSH has something to change; as before at the end."""
    lab_hosts.run(host, _PASSWORDS)
    try:
        yield
    finally:
        lab_hosts.run(host, HOLD_ENDS)
        lab_hosts.run(host, _NO_PASSWORDS)
        back = deploy("--limit", host)
    assert back.code == 0, back.output[-4000:]


def seen(host: str, *scripts: str) -> tuple[str, ...]:
    """What each of these prints."""
    return tuple(lab_hosts.run(host, script, check=False).stdout for script in scripts)


def stopped_unconfirmed(
    host: str, name: str, end: Callable[[subprocess.Popen[str]], None]
) -> tuple[str, ...]:
    """Deploy a change, and end that once the change is in force and nobody has confirmed it.

    :returns: what was on disk and in force before.
    """
    settings, *looks = changes_of(host)[name]
    before = seen(host, *looks)

    def gone(process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 300
        # The folder is there before the change, so the file alone says that it waits.
        while any(old == new for old, new in zip(before, seen(host, *looks), strict=True)):
            assert process.poll() is None, process.communicate()[0][-4000:]
            assert time.monotonic() < until
            time.sleep(0.2)
        time.sleep(2)
        assert seen(host, f"ls {run.UNDO}/*/undo.sh") != ("",), "it is confirmed already"
        end(process)

    lab_hosts.run(host, HOLD)
    stopped = run.deploy_until(host, 1, gone, json.dumps(settings))
    assert stopped.code != 0, stopped.output[-4000:]
    return before
