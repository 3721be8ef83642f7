"""A host that reboots, or loses its power, while a change waits to be confirmed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import hosts as lab_hosts
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, command, deploy
from tests.lab.faults import run, table
from tests.lab.faults.unconfirmed import (
    HOLD_ENDS,
    changes_of,
    seen,
    stopped_unconfirmed,
    taking_passwords,
)

pytestmark = pytest.mark.nightly

HOST = "gpu2"
CHANGES = changes_of(HOST)
_AT_BOOT = "/usr/local/sbin/mv"
#: The boot that puts back what was there loses the power before it has.
_LOST_AGAIN = f"""cat >{_AT_BOOT} <<'end'
#!/bin/sh
case "$PWD" in /var/lib/vllm-hosts/unconfirmed/*) ;; *) exec /usr/bin/mv "$@" ;; esac
/usr/bin/rm {_AT_BOOT}; echo lost >>/root/lab-boots
systemctl reboot -ff
sleep 60
end
chmod 755 {_AT_BOOT}"""


@pytest.fixture(autouse=True)
def as_before(deployed: Deployed) -> Iterator[None]:
    with taking_passwords(HOST):
        yield


def power_lost_twice(host: str, process: object) -> None:
    lab_hosts.run(host, _LOST_AGAIN)
    lab_hosts.restart(host)
    assert seen(host, "cat /root/lab-boots; rm /root/lab-boots") == ("lost\n",)


ENDS = {
    "power lost": table.FAULTS["power lost"].begin,
    "rebooted": table.FAULTS["rebooted"].begin,
    "power lost twice": power_lost_twice,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", CHANGES)
def test_the_host_comes_up_with_what_was_confirmed(name: str, end: str) -> None:
    settings, *looks = CHANGES[name]
    before = stopped_unconfirmed(HOST, name, lambda process: ENDS[end](HOST, process))
    lab_hosts.run(HOST, "systemctl is-system-running --wait", check=False, timeout=200)
    assert seen(HOST, *looks) == before
    assert seen(HOST, "systemctl --failed --plain --no-legend | grep vllm-hosts") == ("",)
    lab_hosts.run(HOST, HOLD_ENDS)
    # Nothing is left of it, and nothing counts as changed by somebody else.
    assert run.left(HOST) == []
    drift = command("vllm-hosts", "drift", "inventory/lab.py", "--host", HOST)
    back = deploy("--limit", HOST)
    assert (back.code, changes(back)[HOST]) == (0, 0), back.output[-4000:]
    assert "since the last deploy" not in drift.output, drift.output
    # What was meant is what the next run does.
    again = deploy("--limit", HOST, settings=settings)
    assert again.code == 0, again.output[-4000:]
    assert seen(HOST, *looks) != before
    assert run.left(HOST) == []
    third = deploy("--limit", HOST, settings=settings)
    assert (third.code, changes(third)[HOST]) == (0, 0), third.output[-4000:]
