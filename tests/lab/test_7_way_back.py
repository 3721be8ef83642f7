"""The ways back are cut off themselves: an undo is killed, a disk fills while files are put back, a
pull outlives its deploy, and the notes by which a removal goes are damaged."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab import hosts as lab_hosts
from lab.layout import HUB_PORT
from lab.settings import AGENTS
from tests.lab.conftest import Deployed
from tests.lab.deploys import INVENTORY, changes, command, deploy
from tests.lab.faults import filled, links, next_image, run
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
_KILLED = "/usr/local/sbin/mv /usr/local/sbin/rm"
#: The undo of a change ends in its middle, killed: before the file is back (or gone, where it was
#: not there before), or once it is and the program that runs still has the new one.
_KILLS = f"""for one in {_KILLED}; do cat >$one <<'end'
#!/bin/sh
case "$PWD" in {run.UNDO}/*) ;; *) exec /usr/bin/${{0##*/}} "$@" ;; esac
%s
kill -KILL $PPID
end
chmod 755 $one; done"""
_MOVES = '/usr/bin/${0##*/} "$@"'
#: How the undo ends, and what is asked of the host until it has.
_ENDS: dict[str, tuple[str, str]] = {
    "its timer is stopped": ("systemctl stop vllm-hosts-undo-NAME.timer", "true"),
    "killed before the file is back": (
        _KILLS % ":" + "; systemctl start vllm-hosts-undo-NAME.service || :",
        "! systemctl is-active -q vllm-hosts-undo-NAME.service",
    ),
    "killed when the file is back": (
        _KILLS % _MOVES + "; systemctl start vllm-hosts-undo-NAME.service || :",
        "! systemctl is-active -q vllm-hosts-undo-NAME.service",
    ),
}


@pytest.fixture
def passwords(deployed: Deployed) -> Iterator[None]:
    with taking_passwords(HOST):
        yield


@pytest.mark.usefixtures("passwords")
@pytest.mark.parametrize("end", _ENDS)
@pytest.mark.parametrize("name", CHANGES)
def test_an_undo_that_is_killed_is_carried_out_by_the_next_run(name: str, end: str) -> None:
    settings, *looks = CHANGES[name]
    before = stopped_unconfirmed(HOST, name, lambda process: process.kill())
    killed, ended = (script.replace("NAME", name) for script in _ENDS[end])
    try:
        lab_hosts.run(HOST, f"{HOLD_ENDS}; {killed}")
        lab_hosts.run(HOST, f"until {ended}; do sleep 0.2; done", timeout=30)
    finally:
        lab_hosts.run(HOST, f"/usr/bin/rm -f {_KILLED}")
    run.wait_free(HOST)
    file_is_back = seen(HOST, looks[0])[0] == before[0]
    assert file_is_back == (end == "killed when the file is back")
    assert seen(HOST, f"ls {run.UNDO}/{name}/undone") == ("",)
    # With the settings that are in force: what nobody has confirmed is done once more.
    again = deploy("--limit", HOST, settings=settings)
    assert again.code == 0, again.output[-4000:]
    assert f"a change of {name} that nobody confirmed, which is being" in again.output
    assert changes(again)[HOST] > 0
    assert run.left(HOST) == []
    assert seen(HOST, *looks) != before
    third = deploy("--limit", HOST, settings=settings)
    assert (third.code, changes(third)[HOST]) == (0, 0), third.output[-4000:]


def test_an_undo_that_cannot_work_keeps_every_run_away(deployed: Deployed) -> None:
    _, *looks = CHANGES["firewall"]
    # What it has to write to is a file system of its own from the beginning.
    with filled.small(HOST, "/etc/vllm-hosts"):
        before = stopped_unconfirmed(HOST, "firewall", lambda process: process.kill())
        lab_hosts.run(HOST, f"{HOLD_ENDS}; systemctl stop vllm-hosts-undo-firewall.timer")
        run.wait_free(HOST)
        new, _ = seen(HOST, *looks)
        with filled.unwell(HOST, "/etc/vllm-hosts", "read-only"):
            for entry in ("deploy.py", "keys.py", "remove.py"):
                refused = command("pyinfra", "-y", "--limit", HOST, INVENTORY, entry)
                assert refused.code == 1, refused.output[-4000:]
                assert "that nobody confirmed could not be rolled back" in refused.output
                assert "Read-only file system" in refused.output, refused.output[-4000:]
                assert seen(HOST, *looks)[0] == new
        again = deploy("--limit", HOST)
        assert again.code == 0, again.output[-4000:]
        assert seen(HOST, *looks) == before
        assert run.left(HOST) == []
    assert deploy("--limit", HOST).code == 0


_NGINX = "/usr/local/sbin/nginx"
#: nginx refuses what is new, and the disk is full from then on.
_REFUSES = f"""cat >{_NGINX} <<'end'
#!/bin/sh
for one in /run/vllm-hosts.??????; do
    [ ! -d $one ] || {{ at=/etc/nginx; {filled.KINDS["full"][0]}
        echo 'nginx: no more room' >&2; exit 1; }}
done
exec /usr/sbin/nginx "$@"
end
chmod 755 {_NGINX}"""


def test_a_disk_that_fills_while_files_are_put_back(deployed: Deployed) -> None:
    settings = {"edge": {"max_body_size": "31m"}}
    listed = "cd /etc/nginx && find . ! -name .lab-filler -type f -exec sha256sum {} + | sort -k 2"
    with filled.small(HOST, "/etc/nginx"):
        before = seen(HOST, listed)
        lab_hosts.run(HOST, _REFUSES)
        try:
            done = deploy("--limit", HOST, settings=settings)
        finally:
            lab_hosts.run(HOST, f"rm -f {_NGINX}")
        assert done.code == 1, done.output[-4000:]
        assert "nginx: no more room" in done.of_host(HOST)
        # What was new is gone, and nothing else made room.
        assert int(seen(HOST, "df --output=avail /etc/nginx | tail -n 1")[0]) < 200
        assert seen(HOST, listed) == before
        assert run.broken(HOST) == [] and run.left(HOST) == []
        lab_hosts.run(HOST, f"at=/etc/nginx; {filled.KINDS['full'][1]}")
        unchanged = deploy("--limit", HOST)
        assert (unchanged.code, changes(unchanged)[HOST]) == (0, 0), unchanged.output[-4000:]
    again = deploy("--limit", HOST, settings=settings)
    assert again.code == 0, again.output[-4000:]
    assert deploy("--limit", HOST).code == 0


@pytest.fixture
def next_one(deployed: Deployed) -> Iterator[dict[str, object]]:
    with next_image.served(stay=False):
        # Twelve megabytes, so that it takes minutes.
        image = next_image.NEXT
        slow = links.slow(next_image.PORT, 100)
        lab_hosts.run(HOST, f"docker image rm {image} 2>/dev/null || :; {slow}")
        yield {"vllm": {"image": image}}
        lab_hosts.run(HOST, links.WELL)
        assert deploy("--limit", HOST).code == 0


_PULLS = "pgrep -f 'docker[ -]compose .* -p vllm-hosts-[p]ull' || :"


def test_a_pull_that_outlives_its_deploy_is_waited_for(next_one: dict[str, object]) -> None:
    agents = run.agents(HOST)

    def at_the_pull(process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 300
        while seen(HOST, _PULLS) == ("",):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        time.sleep(3)
        process.kill()

    run.deploy_until(HOST, 1, at_the_pull, json.dumps(next_one))
    assert seen(HOST, _PULLS) != ("",), "the pull has ended with its deploy"
    # The link is as fast as ever once the next one waits.
    done = run.deploy_until(HOST, 15, lambda process: run.void(lab_hosts.run(HOST, links.WELL)))
    assert (done.code, done.met) == (0, True), done.output[-4000:]
    assert re.search(r"waits for docker\S* .*left by a run of", done.output), done.output
    assert run.agents(HOST) == agents
    assert run.broken(HOST) == [] and run.left(HOST) == []


def test_a_run_that_fails_at_another_step_ends_the_pull(next_one: dict[str, object]) -> None:
    agents = run.agents(HOST)
    snippet = "/etc/nginx/conf.d/zz-of-somebody.conf"
    # Another limit, so that nginx is asked, but not before the pull is at work.
    changed = next_one | {"edge": {"expected_clients": 2, "burst": 43}}
    lab_hosts.run(HOST, f"echo 'nonsense here;' >{snippet}")
    try:
        failed = deploy("--limit", HOST, settings=changed)
        pulls = seen(HOST, _PULLS)
    finally:
        lab_hosts.run(HOST, f"rm {snippet}; {links.WELL}")
    assert failed.code == 1, failed.output[-4000:]
    assert "The vLLM image is fetched beside other work" in failed.output
    assert "nginx would reject the edge's configuration" in failed.output
    assert pulls == ("",), "the pull goes on although its run has failed"
    done = deploy("--limit", HOST, settings=changed)
    assert done.code == 0, done.output[-4000:]
    assert "waits for" not in done.output
    assert run.agents(HOST).keys() == agents.keys()
    assert run.broken(HOST) == [] and run.left(HOST) == []


_MANIFEST, _RECORD = "/var/lib/vllm-hosts/manifest", "/var/lib/vllm-hosts/deployed"
#: What a disk, or somebody, did to the notes, and what the refusal names.
DAMAGES = {
    "the last line lost its end": (f"truncate -s -4 {_MANIFEST}", _MANIFEST, "middle of a line"),
    "a folder above ours": (f"echo 'agent /var' >>{_MANIFEST}", _MANIFEST, "'agent /var'"),
    "zeros": (
        f"head -c 64 /dev/zero >>{_RECORD}; echo >>{_RECORD}",
        _RECORD,
        "has a line that no deploy writes there",
    ),
    "a record that is cut off": (f"truncate -s -9 {_RECORD}", _RECORD, "middle of a line"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_notes_that_are_damaged_remove_nothing(deployed: Deployed, damage: str) -> None:
    script, path, words = DAMAGES[damage]
    agents = run.agents(HOST)
    folders = "find /opt /etc /var/lib/vllm /var/lib/vllm-hosts -xdev | sort | sha256sum"
    before = seen(HOST, folders)
    lab_hosts.run(HOST, f"cp -a {path} /root/lab-notes; {script}")
    try:
        refused = command("pyinfra", "-y", "--limit", HOST, INVENTORY, "remove.py")
        assert refused.code == 1, refused.output[-4000:]
        said = refused.of_host(HOST)
        assert path in said and words in said and "restore that file" in said, said
        assert seen(HOST, folders) == before
        assert run.agents(HOST) == agents
    finally:
        lab_hosts.run(HOST, f"mv /root/lab-notes {path}")
    back = deploy("--limit", HOST)
    assert (back.code, changes(back)[HOST]) == (0, 0), back.output[-4000:]
    assert run.left(HOST) == []


def test_a_deploy_that_fails_leaves_agents_that_were_to_leave_their_keys(
    deployed: Deployed,
) -> None:
    """Compose starts no agent of a file that asks for a variable which .env does not have."""
    host = "gpu1"
    change = {"hosts": {host: {"agents": [AGENTS[0] | {"model": "lab/slow"}]}}}
    agents = run.agents(host)
    keys = "sed -n 's/^\\(VLLM_API_KEY_[A-Z]*\\)=.*/\\1/p' /opt/vllm/.env"
    both = seen(host, keys)
    lab_hosts.run(
        host,
        "rm -rf /var/lib/vllm/huggingface/hub/models--lab--slow;" + links.cut(HUB_PORT),
    )
    try:
        failed = deploy("--limit", host, settings=change)
    finally:
        lab_hosts.run(host, links.WELL)
    assert failed.code == 1, failed.output[-4000:]
    assert run.broken(host) == [] and run.agents(host) == agents
    assert seen(host, keys) == both
    done = deploy("--limit", host, settings=change)
    assert done.code == 0, done.output[-4000:]
    assert seen(host, keys) == ("VLLM_API_KEY_TINY\n",)
    again = deploy("--limit", host, settings=change)
    assert (again.code, changes(again)[host]) == (0, 0), again.output[-4000:]
    back = deploy("--limit", host)
    assert back.code == 0, back.output[-4000:]
    assert seen(host, keys) == both
