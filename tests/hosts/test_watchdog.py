"""The host's own watch over its agents. Here nothing is made to hang: the lab does that."""

from __future__ import annotations

from shlex import quote

import pytest
from testinfra.host import Host

from vllm_hosts.host.paths import DEPLOYED, WATCHDOG
from vllm_hosts.roles.watchdog.plan import SCRIPT, TIMER
from vllm_hosts.settings import HostSettings
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs

_SERVICE = "vllm-hosts-watchdog.service"
#: What the script itself has taken up from its first lines. It does nothing where it is only read.
_KNOWN = f"""
. {SCRIPT}
echo "limits $looks $limit"
for name in "${{!address[@]}}"; do echo "agent $name ${{address[$name]}}:$port"; done
"""


@promise("AGENT-12")
def test_the_host_restarts_agents_that_hang(host: Host, settings: HostSettings) -> None:
    if not settings.vllm.watchdog:
        pytest.skip("not promised with vllm.watchdog = False")
    unit_runs(host, TIMER)
    result = host.check_output(f"systemctl show -p Result {_SERVICE}")
    if result != "Result=success":
        raise BrokenError(f"journalctl -u {_SERVICE} shows why")
    started = host.check_output(f"systemctl show -p ExecStart {_SERVICE}")
    if started.count("argv[]=") != 1 or f"argv[]={SCRIPT} ;" not in started:
        raise BrokenError(f"{_SERVICE} starts something else than {SCRIPT}")
    for path, mode in ((SCRIPT, "700 0:0"), (WATCHDOG, "700 0:0")):
        found = host.check_output("stat --format '%%a %%u:%%g' %s", path)
        if found != mode:
            raise BrokenError(f"{path} is {found}, not {mode}")
    # Root runs it next, so nothing is read from one that is not what was deployed.
    if host.run(f"sha256sum {SCRIPT} | grep -qxFf - {DEPLOYED}").rc != 0:
        raise BrokenError(f"{SCRIPT} is not what a deploy wrote")
    known = host.check_output(f"bash -c {quote(_KNOWN)}").splitlines()
    vllm = settings.vllm
    expected = [f"limits {vllm.watchdog_looks} {vllm.watchdog_restarts}"]
    expected += [
        f"agent {agent.name} {settings.cell(agent.name).address}:8000" for agent in settings.agents
    ]
    if sorted(known) != sorted(expected):
        raise BrokenError(f"it watches others than the agents of the settings: {known}")
