"""Faults that a seeded run draws from: what is done to a host or to the deploy, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import hosts as lab_hosts
from lab.layout import APT_PROXY_PORT, HUB_PORT
from tests.lab.deploys import BIN, INVENTORY, ROOT
from tests.lab.faults import filled, links
from tests.lab.faults.next_image import PORT, WRONG_PORT
from tests.lab.faults.run import CONNECTIONS

#: What a fault is handed: the host and the deploy.
Begin = Callable[[str, "subprocess.Popen[str]"], None]
_SNIPPET = "/etc/nginx/conf.d/zz-of-somebody.conf"
_LOG = "/var/tmp/lab-second-deploy"


@dataclass(frozen=True)
class Fault:
    """``begin`` at the drawn moment, ``end`` once the deploy has ended.

    ``codes`` are the exit codes that the deploy may end with if it was met by it. ``small`` is a
    folder that gets a file system of its own for the run. ``whole`` says whether the host has to
    keep all its promises while the fault lasts, ``spares`` whether agents that the deploy does not
    change go on in the same processes. ``of`` is the only change that it can meet, by its name;
    ``needs`` a package that the host has to have for it.
    """

    begin: Begin
    codes: frozenset[int]
    end: Callable[[str], None] = lambda host: None
    small: str = ""
    whole: bool = True
    spares: bool = True
    of: str = ""
    needs: str = ""

    def prepare(self, host: str) -> None:
        """Before the deploy that it meets."""
        if self.needs:
            install = f"apt-get -q update && apt-get -q -y install {self.needs}"
            lab_hosts.run(host, f"dpkg -s {self.needs} || {{ {install}; }}", timeout=300)


def _on(script: str) -> Callable[..., None]:
    def run(host: str, process: object = None) -> None:
        lab_hosts.run(host, script, check=False, timeout=120)

    return run


def _signal(number: signal.Signals) -> Begin:
    return lambda host, process: process.send_signal(number)


def _stalled(host: str, process: object) -> None:
    """No packet of SSH for some seconds, as where a link is congested."""
    pids = lab_hosts.run(host, f"pgrep -f '{CONNECTIONS}' || :").stdout.split()
    if pids:
        lab_hosts.run(host, f"kill -STOP {' '.join(pids)}; sleep 8; kill -CONT {' '.join(pids)}")


def _second(host: str, process: object) -> None:
    """Somebody else deploys to the same host."""
    with open(_LOG, "w") as log:
        subprocess.Popen(
            [str(BIN / "pyinfra"), "-y", INVENTORY, "deploy.py", "--limit", host],
            cwd=ROOT,
            env=os.environ | {"PYINFRA_PROGRESS": "off"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _second_is_done(host: str) -> None:
    until = time.monotonic() + 400
    while lab_hosts.run(host, "flock -n -s /run/vllm-hosts.lock true", check=False).returncode:
        assert time.monotonic() < until, Path(_LOG).read_text()[-4000:]
        time.sleep(1)


def _power_lost(host: str, process: object) -> None:
    lab_hosts.restart(host)


def _boot(host: str) -> str:
    """The boot that a host is in; empty where it is between two: what is asked then may hang."""
    try:
        return lab_hosts.run(host, _BOOT, check=False, timeout=5).stdout
    except subprocess.TimeoutExpired:
        return ""


def rebooted(host: str, process: object) -> None:
    """As an operator does it: services are stopped, and those that a container has with them."""
    before = lab_hosts.run(host, _BOOT).stdout
    lab_hosts.run(host, "systemctl reboot", check=False)
    # systemd waits for what does not end at once, for up to 90 s.
    until = time.monotonic() + 300
    while _boot(host) in ("", before):
        assert time.monotonic() < until, f"{host} has not rebooted"
        time.sleep(0.5)
    lab_hosts.run(host, "systemctl is-system-running --wait", check=False, timeout=120)


def _full_run(host: str, process: object) -> None:
    filled.fill_run(host)


def _unwell(folder: str, kind: str) -> Fault:
    begin, end = (f"at={folder}\n{script}" for script in filled.KINDS[kind])
    return Fault(_on(begin), frozenset({0, 1}), _on(end), small=folder, whole=False)


#: Shell: what runs in the container of the first agent.
_AGENT = "$(docker inspect -f '{{.State.Pid}}' tiny)"
_ENGINE = "pgrep -f '^VLLM::EngineCore' || :"
#: Perl, since hosts need not have Python: dpkg's lock as apt and dpkg take it.
HELD = (
    "perl -e 'use Fcntl; open(F, q(>>), q(/var/lib/dpkg/lock-frontend)) or die;"
    " $l = pack(q(ssx4qqix4), F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLKW, $l) or die; sleep 8'"
)
_PROXY = "/etc/apt/apt.conf.d/zz-of-somebody"
_DAEMON = "/etc/docker/daemon.json"
_SUDO = "/etc/sudoers.d/deploy"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PINS = "/etc/apt/preferences.d/zz-of-somebody"
_BOOT = "cat /proc/sys/kernel/random/boot_id"
#: The processes of the first agent's container, whichever container that is by then.
_ALL = "docker top tiny -o pid 2>/dev/null | tail -n +2"
#: Hosts of the lab share this machine's clock: programs are told another one, as they begin.
CLOCK_AHEAD = (
    "echo +365d >/etc/faketimerc; ls /usr/lib/*/faketime/libfaketime.so.1 >/etc/ld.so.preload"
)
CLOCK_RIGHT = "rm -f /etc/ld.so.preload /etc/faketimerc"
_EITHER = frozenset({0, 1})


def _repeated(script: str, seconds: int) -> Begin:
    """Again and again for some seconds, as what ails an agent meets each one that starts."""
    return _on(
        f"end=$(($(date +%s) + {seconds})); while [ $(date +%s) -lt $end ]; do {script};"
        " sleep 0.2; done"
    )


FAULTS: dict[str, Fault] = {
    "killed": Fault(_signal(signal.SIGKILL), frozenset({-signal.SIGKILL})),
    "interrupted": Fault(_signal(signal.SIGINT), frozenset({130})),
    "terminated": Fault(_signal(signal.SIGTERM), frozenset({143})),
    "terminal closed": Fault(_signal(signal.SIGHUP), frozenset({129})),
    "connection dropped": Fault(_on(f"pkill -f '{CONNECTIONS}' || :"), frozenset({1})),
    # Not the controller; see also test_7_left_behind.py.
    "lock's shell killed": Fault(_on("pkill -KILL -f 'VLLM_HOSTS_[H]OLD=yes' || :"), _EITHER),
    "connection stalled": Fault(_stalled, frozenset({0})),
    "second deploy": Fault(_second, frozenset({0}), _second_is_done),
    "sudo refused": Fault(
        # Who is root already needs none.
        _on(f"[ ! -e {_SUDO} ] || mv {_SUDO} /root/lab-sudo"),
        _EITHER,
        _on(f"[ ! -e /root/lab-sudo ] || mv /root/lab-sudo {_SUDO}"),
    ),
    "docker stopped": Fault(
        _on("systemctl stop docker.service"),
        _EITHER,
        _on("systemctl start docker.service"),
        whole=False,
    ),
    "docker killed": Fault(_on("pkill -KILL -x dockerd"), _EITHER),
    "docker hung": Fault(_on("pkill -STOP -x dockerd; sleep 12; pkill -CONT -x dockerd"), _EITHER),
    "daemon.json broken": Fault(
        _on(f"cp -a {_DAEMON} /root/lab-daemon.json; echo '{{ nonsense' >{_DAEMON}"),
        _EITHER,
        _on(f"cp -a /root/lab-daemon.json {_DAEMON}"),
    ),
    "nginx broken by a snippet": Fault(
        _on(f"echo 'nonsense here;' >{_SNIPPET}"), _EITHER, _on(f"rm {_SNIPPET}"), whole=False
    ),
    "nginx killed": Fault(_on("pkill -KILL -x nginx || :"), _EITHER),
    "firewall emptied": Fault(_on("nft delete table inet vllm_hosts || :"), _EITHER),
    "apt in use": Fault(_on(f"{HELD} >/dev/null 2>&1 &"), frozenset({0}), of="package"),
    "dpkg killed": Fault(_on("pkill -KILL -x 'dpkg|apt-get' || :"), _EITHER, of="package"),
    "archive unreachable": Fault(
        _on(f"echo 'Acquire::http::Proxy \"http://127.0.0.1:9\";' >{_PROXY}"),
        _EITHER,
        _on(f"rm {_PROXY}"),
        of="package",
    ),
    "archive slow": Fault(
        _on(f"{links.slow(APT_PROXY_PORT, 4)}; sleep 8; {links.WELL}"),
        frozenset({0}),
        of="package",
    ),
    "archive signed by somebody else": Fault(
        # What apt has verified before it would take again.
        _on(
            f"mv {_KEYRING} /root/lab-keyring; rm -f /var/lib/apt/lists/*_InRelease;"
            f" cp /usr/share/keyrings/debian-archive-removed-keys.gpg {_KEYRING}"
        ),
        _EITHER,
        _on(f"mv /root/lab-keyring {_KEYRING}"),
        of="package",
    ),
    "package missing": Fault(
        _on(f"printf 'Package: logrotate\\nPin: release *\\nPin-Priority: -1\\n' >{_PINS}"),
        _EITHER,
        _on(f"rm {_PINS}"),
        of="package",
    ),
    "registry down": Fault(_on(links.cut(PORT)), _EITHER, _on(links.WELL), of="image"),
    "registry slow": Fault(
        _on(f"{links.slow(PORT, 100)}; sleep 10; {links.WELL}"), frozenset({0}), of="image"
    ),
    "image is not what its digest says": Fault(
        _on(links.elsewhere(PORT, WRONG_PORT)), _EITHER, _on(links.WELL), of="image"
    ),
    "killed at an image": Fault(_signal(signal.SIGKILL), frozenset({-signal.SIGKILL}), of="image"),
    "docker killed at an image": Fault(_on("pkill -KILL -x dockerd"), _EITHER, of="image"),
    "hub down": Fault(_on(links.cut(HUB_PORT)), _EITHER, _on(links.WELL), of="model"),
    "connection dropped at a model": Fault(
        _on(f"pkill -f '{CONNECTIONS}' || :"), frozenset({1}), of="model"
    ),
    "power lost at a model": Fault(_power_lost, _EITHER, spares=False, of="model"),
    "port taken": Fault(
        _on(
            "systemd-run --quiet --unit lab-stranger sh -c"
            " 'until systemd-socket-activate -l 127.0.0.1:8001 cat; do sleep 0.05; done'"
        ),
        _EITHER,
        _on("systemctl stop lab-stranger; systemctl reset-failed lab-stranger 2>/dev/null"),
        of="agent",
    ),
    "agent killed": Fault(_on(f"kill -KILL {_AGENT}"), _EITHER, spares=False),
    "engine frozen": Fault(
        _on(f"found=$({_ENGINE}); kill -STOP $found; sleep 12; kill -CONT $found"),
        _EITHER,
        spares=False,
    ),
    "engine dead": Fault(_on(f"kill -KILL $({_ENGINE}) 2>/dev/null || :"), _EITHER, spares=False),
    "agent crashes at each start": Fault(
        _repeated(f"kill -KILL $({_ALL}) 2>/dev/null || :", 15), _EITHER, spares=False, of="agent"
    ),
    "agent hangs at its start": Fault(
        _on(f"found=$({_ALL}); kill -STOP $found; sleep 15; kill -CONT $found; :"),
        _EITHER,
        spares=False,
        of="agent",
    ),
    "agent without memory": Fault(
        # No limit of a control group holds in the lab: it is the processes that get no more.
        _repeated(f"for one in $({_ALL}); do prlimit --pid $one --as=100000000; done", 15),
        _EITHER,
        spares=False,
        of="agent",
    ),
    "/etc/nginx full": _unwell("/etc/nginx", "full"),
    "/tmp full": _unwell("/tmp", "full"),
    "/run full": Fault(_full_run, _EITHER, lambda host: filled.empty_run(host), whole=False),
    "/opt/vllm read-only": _unwell("/opt/vllm", "read-only"),
    "/var/lib/vllm-hosts without inodes": _unwell("/var/lib/vllm-hosts", "without inodes"),
    "clock a year ahead": Fault(_on(CLOCK_AHEAD), _EITHER, _on(CLOCK_RIGHT), needs="libfaketime"),
    "rebooted": Fault(rebooted, _EITHER, spares=False),
    "power lost": Fault(_power_lost, _EITHER, spares=False),
}
