"""remove.py: what deploys put on a host is gone, and what was there before is as it was.

A fresh host is byte for byte what it was, also after a removal that was killed and run again. A
host with Docker, nginx, rules and settings of its own keeps them.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import hosts as lab_hosts
from lab import layout, states
from lab.settings import AGENTS
from tests.lab.deploys import BIN, INVENTORY, ROOT, Run, changes, command, deploy
from tests.lab.faults.run import wait_free
from tests.lab.faults.table import HELD, rebooted
from tests.lab.test_7_guards import reachable
from tests.lab.test_8_states import from_outside

pytestmark = pytest.mark.nightly

HOST = "gpu2"
#: Logs, package caches, and what a machine changes by itself.
CHANGES = (
    *("dev", "proc", "run", "sys", "tmp", "var/tmp", "var/log", "var/cache", "var/lib/apt"),
    *("var/lib/systemd/timers", "var/lib/systemd/random-seed", "var/lib/systemd/timesync"),
    *("var/lib/systemd/coredump", "var/lib/lastlog", "var/lib/wtmpdb", "var/lib/logrotate"),
    *("var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend", "var/lib/dpkg/triggers/Lock"),
)
#: What running containers write.
DOCKER = ("var/lib/docker", "var/lib/containerd")
#: Programs keep their previous version beside a file of theirs.
BACKUPS = ("etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "etc/subuid-", "etc/subgid-")

Files = dict[str, tuple[str, int, int, str]]


def files(host: str, *but: str) -> Files:
    """Mode, owner, group and content of everything on a host, by path."""
    top = lab_hosts.root(host)
    left_out = {*CHANGES, *BACKUPS, *but}
    found: Files = {}
    for walked, folders, names in os.walk(top):
        folder = Path(walked)
        here = folder.relative_to(top)
        folders[:] = [name for name in folders if str(here / name) not in left_out]
        for name in (*folders, *names):
            path = folder / name
            shown = str(path.relative_to(top))
            old = shown.startswith("var/lib/dpkg/") and shown.endswith("-old")
            if old or shown in left_out:
                continue
            stat = path.lstat()
            found[shown] = (f"{stat.st_mode:o}", stat.st_uid, stat.st_gid, _content(path))
    return found


def _content(path: Path) -> str:
    if path.is_symlink():
        return str(path.readlink())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def differing(before: Files, after: Files) -> dict[str, str]:
    """Paths that are there no more, new, or others."""
    said = dict.fromkeys(before.keys() - after.keys(), "gone")
    said |= dict.fromkeys(after.keys() - before.keys(), "new")
    same = before.keys() & after.keys()
    return said | {
        path: f"{before[path]} -> {after[path]}" for path in same if before[path] != after[path]
    }


def remove(*options: str) -> Run:
    return command("pyinfra", "-y", "--limit", HOST, *options, INVENTORY, "remove.py")


def interrupted_at(
    words: str,
    act: Callable[[subprocess.Popen[str]], object],
    *options: str,
    entry: str = "remove.py",
) -> tuple[int, str]:
    """What a run ends with, and says, if something happens as soon as it has said something."""
    process = subprocess.Popen(
        [str(BIN / "pyinfra"), "-y", "-v", "--limit", HOST, *options, INVENTORY, entry],
        cwd=ROOT,
        env={**os.environ, "PYINFRA_PROGRESS": "off", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, until = [], time.monotonic() + 1500
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if words in line:
            break
        assert time.monotonic() < until, "".join(said)
    else:
        pytest.fail("".join(said)[-6000:])
    act(process)
    said.append(process.communicate(timeout=1500)[0])
    wait_free(HOST)
    return process.returncode, "".join(said)


def killed_at(words: str, *options: str, entry: str = "remove.py") -> None:
    """A run whose controller is killed as soon as it has said something."""

    def kill(process: subprocess.Popen[str]) -> None:
        time.sleep(2)
        process.send_signal(signal.SIGKILL)

    interrupted_at(words, kill, *options, entry=entry)


@pytest.fixture(scope="module")
def lent(lab: None) -> Iterator[None]:
    """gpu2 for the removals; as it was afterwards."""
    yield
    lab_hosts.reset([HOST])
    run = deploy("--limit", HOST)
    assert run.code == 0, run.output[-4000:]


@pytest.fixture
def host(lent: None) -> str:
    """gpu2, fresh."""
    lab_hosts.reset([HOST])
    return HOST


def nothing_is_left(host: str) -> None:
    """A removal of what is not there changes nothing, and the firewall is open."""
    again = remove()
    assert (again.code, changes(again)) == (0, {host: 0}), again.output[-6000:]
    listening = lab_hosts.run(host, "ss -Htln").stdout
    assert ":443 " not in listening and ":8001 " not in listening


@pytest.mark.parametrize("cut_off", [None, "The packages that only we needed are gone"])
def test_a_fresh_host_is_what_it_was(host: str, cut_off: str | None) -> None:
    before = files(host)
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    assert differing(before, files(host, *DOCKER)), "a deploy leaves something"
    if cut_off:
        killed_at(cut_off, "--data", "remove_models=true")
    gone = remove("--data", "remove_models=true")
    assert gone.code == 0, gone.output[-8000:]
    assert differing(before, files(host)) == {}
    assert lab_hosts.run(host, "command -v docker nginx nft", check=False).stdout == ""
    nothing_is_left(host)
    # Its last line went into the system's log, with everything else that is over.
    said = lab_hosts.run(host, "journalctl -t vllm-hosts -o cat --no-pager").stdout
    assert "remove.py of lab.py" in said


#: What happens on the host as a step begins, and how that ends.
TROUBLES = {
    "dpkg is locked": (
        "The edge is closed",
        f"systemd-run --collect -q --unit lab-held {HELD.replace('sleep 8', 'sleep 60')}",
        "systemctl stop lab-held",
    ),
    "Docker is killed": (
        "The agents and their networks are gone",
        "sleep 0.5; pkill -KILL -x dockerd",
        "true",
    ),
    "Docker is stopped": (
        "The agents and their networks are gone",
        "systemctl stop docker.socket docker.service",
        "systemctl start docker.socket docker.service",
    ),
    "an agent ignores its end": (
        "The edge is closed",
        "docker top tiny -o pid | tail -n +2 | xargs kill -STOP",
        "true",
    ),
    "rebooted": ("Our files are gone", "", "true"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_removal_that_meets_trouble_is_finished_by_the_next_one(host: str, trouble: str) -> None:
    begun, happens, ends = TROUBLES[trouble]
    before = files(host)
    assert deploy("--limit", host).code == 0
    whole = ("--data", "remove_models=true")

    def happen(process: object) -> None:
        if happens:
            lab_hosts.run(host, happens, check=False)
        else:
            rebooted(host, process)

    code, said = interrupted_at(begun, happen, *whole)
    assert code in (0, 1), said[-6000:]
    assert "Traceback" not in said
    # Closed from the first step on.
    for port in (443, 80, 8001):
        assert not reachable(host, port), f"{port} is open after: {said[-2000:]}"
    lab_hosts.run(host, ends, check=False)
    gone = remove(*whole)
    assert gone.code == 0, gone.output[-8000:]
    assert differing(before, files(host)) == {}
    nothing_is_left(host)


def test_models_stay_unless_they_are_named_and_a_deploy_uses_them_again(host: str) -> None:
    hub = {"hosts": {host: {"agents": [AGENTS[0] | {"model": layout.HUB_MODEL}]}}}
    run = deploy("--limit", host, settings=hub)
    assert run.code == 0, run.output[-6000:]
    listed = "cd /var/lib/vllm/huggingface && find . -type f | sort | xargs sha256sum"
    models = lab_hosts.run(host, listed).stdout
    assert "model" in models
    # Where nginx refuses, the edge serves on, and keys go on to expire.
    timers = "systemctl is-active vllm-hosts-keys.timer vllm-hosts-watchdog.timer"
    snippet = "/etc/nginx/conf.d/zz-of-somebody.conf"
    lab_hosts.run(host, f"echo 'nonsense here;' >{snippet}")
    refused = remove()
    assert refused.code == 1, refused.output[-8000:]
    assert "correct the file that nginx names" in refused.of_host(host)
    assert lab_hosts.run(host, timers).stdout.split() == ["active", "active"]
    assert ":443 " in lab_hosts.run(host, "ss -Htln").stdout
    lab_hosts.run(host, f"rm {snippet}")
    gone = remove()
    assert gone.code == 0, gone.output[-8000:]
    assert "--data remove_models=true removes them" in gone.output
    assert lab_hosts.run(host, listed).stdout == models
    again = deploy("--limit", host, settings=hub)
    assert again.code == 0, again.output[-6000:]
    found = command("vllm-hosts", "verify", INVENTORY, "--host", host, settings=hub)
    assert found.code == 0, found.output[-4000:]


#: In the folders of the first deploy, before it: what it would write, and something beside it.
_IN_OUR_PLACE = """
set -eu
mkdir -p /opt/vllm /var/lib/vllm/agents/{agent}
echo TOKEN=theirs >/opt/vllm/.env; chmod 0640 /opt/vllm/.env
echo 'services: {{}}' >/opt/vllm/compose.yaml
ln -s compose.yaml /opt/vllm/compose.override.yaml
echo theirs >/var/lib/vllm/agents/{agent}/notes
echo theirs >/opt/vllm/README
"""
_MOVED = """
set -eu
mkdir /root/away
mv /opt/vllm/.env /opt/vllm/compose.yaml /opt/vllm/compose.override.yaml /root/away/
mv /var/lib/vllm/agents/{agent} /root/away/
"""
#: And after it.
_BESIDE_OURS = """
set -eu
echo theirs >/opt/vllm/notes.txt
mkdir /var/lib/vllm/agents/theirs; echo theirs >/var/lib/vllm/agents/theirs/weights
echo theirs >/var/lib/vllm/theirs
"""
_MANIFEST = "/var/lib/vllm-hosts/manifest"


def test_files_of_others_in_our_folders_are_refused_before_and_stay_after(host: str) -> None:
    agent = AGENTS[0]["name"]
    lab_hosts.run(host, _IN_OUR_PLACE.format(agent=agent))
    before = files(host)
    refused = deploy("--limit", host)
    assert refused.code != 0
    assert (
        "/opt/vllm/compose.yaml, /opt/vllm/.env, /opt/vllm/compose.override.yaml,"
        f" /var/lib/vllm/agents/{agent} are there already, and no deploy wrote them"
    ) in refused.output, refused.output[-4000:]
    assert differing(before, files(host)) == {}
    # Nor does a removal of what was never there touch them.
    assert remove().code == 0
    assert differing(before, files(host)) == {}

    lab_hosts.run(host, _MOVED.format(agent=agent))
    before = files(host)
    killed_at(".env holds the secrets, for root only", entry="deploy.py")
    assert lab_hosts.run(host, "ls /opt/vllm/.env").stdout
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    # As on a host that an earlier version deployed to, which noted nothing of these.
    noted = lab_hosts.run(host, f"cat {_MANIFEST}").stdout
    assert {"file /opt/vllm/.env", f"agent /var/lib/vllm/agents/{agent}"} <= {*noted.splitlines()}
    lab_hosts.run(host, f"sed -i -E '/^(file|agent) /d' {_MANIFEST}")
    run = deploy("--limit", host)
    assert (run.code, changes(run)) == (0, {host: 1}), run.output[-6000:]
    assert lab_hosts.run(host, f"cat {_MANIFEST}").stdout == noted
    again = deploy("--limit", host)
    assert (again.code, changes(again)) == (0, {host: 0}), again.output[-6000:]

    lab_hosts.run(host, _BESIDE_OURS)
    new = {"opt/vllm/notes.txt", "var/lib/vllm/theirs", "var/lib/vllm/agents/theirs",
           "var/lib/vllm/agents/theirs/weights"}  # fmt: skip
    assert deploy("--limit", host).code == 0
    stays = (
        "what no deploy wrote stays: /opt/vllm/README, /opt/vllm/notes.txt,"
        " /var/lib/vllm/agents/theirs, /var/lib/vllm/theirs"
    )
    shown = command("pyinfra", "--dry", "--limit", host, INVENTORY, "remove.py", brief=True)
    assert stays in shown.output, shown.output[-4000:]
    gone = remove("--data", "remove_models=true")
    assert gone.code == 0, gone.output[-8000:]
    assert stays in gone.output
    assert differing(before, files(host)) == dict.fromkeys(new, "new")
    nothing_is_left(host)
    assert differing(before, files(host)) == dict.fromkeys(new, "new")


#: Docker's and nginx's settings of somebody's, a package that is held, rules and a sysctl.
_THEIR_OWN = r"""
set -eu
sed -i 's/ default_server//' {site}; systemctl reload nginx
docker rm -f wide >/dev/null
printf '{{"log-opts": {{"max-size": "9m"}},\n  "shutdown-timeout": 20}}' >/etc/docker/daemon.json
chmod 0640 /etc/docker/daemon.json
apt-get -qq -y install nftables >/dev/null
cat >/etc/nftables.conf <<'END'
#!/usr/sbin/nft -f
table inet theirs {{ chain input {{ type filter hook input priority 10; tcp dport 9 drop; }}; }}
END
systemctl enable --now nftables.service
echo 'net.ipv4.tcp_keepalive_time = 600' >/etc/sysctl.d/90-theirs.conf
sysctl -q -p /etc/sysctl.d/90-theirs.conf
apt-mark hold busybox-static >/dev/null
"""


def test_what_others_have_on_a_host_stays(host: str) -> None:
    states.with_site_and_containers(host)
    lab_hosts.run(host, _THEIR_OWN.format(site=states.SITE_FILE), timeout=300)
    asked = (
        "docker inspect -f '{{.Name}} {{.State.StartedAt}} {{.State.Running}}' app db;"
        " nft list table inet theirs; sysctl net.ipv4.tcp_keepalive_time; apt-mark showhold;"
        " systemctl is-enabled docker nginx nftables; systemctl is-active docker nginx nftables;"
        " docker network ls --format '{{.Name}}' | sort; docker image ls --format '{{.ID}}' | sort"
    )
    before, said = files(host, *DOCKER), lab_hosts.run(host, asked).stdout
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    gone = remove("--data", "remove_models=true")
    assert gone.code == 0, gone.output[-8000:]
    assert "Docker stays: it was there before" in gone.output
    assert "nginx stays: it was there before" in gone.output
    assert differing(before, files(host, *DOCKER)) == {}
    assert lab_hosts.run(host, asked).stdout == said
    assert from_outside(host, "/", states.SITE) == f"{states.PAGE}\n"
    assert from_outside(host, "/app/", states.SITE) == f"{states.ANSWER}\n"
    assert "table inet vllm_hosts" not in lab_hosts.run(host, "nft list tables").stdout
    nothing_is_left(host)
