"""Lab hosts as processes of this machine: booted in containers of systemd-nspawn, and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from lab import control_groups, network, processes
from lab.layout import BRIDGE, STATE, Host, machine

#: nspawn ends with this when a host reboots (it leaves starting again to whoever started it).
_REBOOTED = 133
#: Seconds from the end of one boot to the beginning of the next, where this machine has much to do.
_BETWEEN_BOOTS = 30
#: Starts a host again after each reboot. Its link may outlive it by a moment.
_AGAIN = (
    f'while :; do "$@"; [ $? -eq {_REBOOTED} ] || exit; ip link del "$0" 2>/dev/null; sleep 0.3;'
    " done"
)
#: In a host that has it, what is started in systemd's place, to become it. See states.py.
INIT = "usr/local/lib/lab-init"
#: Where hosts' file systems are.
FOLDER = STATE / "hosts"


def alive(name: str) -> bool:
    """Whether a host runs."""
    return processes.alive(f"host-{name}") is not None


def root(name: str) -> Path:
    """A host's file system, as a folder of this machine."""
    return FOLDER / name / "root"


def run(
    name: str, command: str, *, check: bool = True, timeout: float = 60, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a shell command as root in a host, without SSH, so that it works when SSH does not.

    :param given: for its standard input.
    :raises RuntimeError: the host does not run, or the command failed and ``check`` is set.
    """
    done = subprocess.run(
        ["nsenter", "-t", str(_leader(name)), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        + ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"]
        + ["/bin/sh", "-c", command],
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(
            f"{name}: {command!r} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def boot(found: Host, root: Path) -> None:
    """Start a host, and wait until sshd answers.

    :raises RuntimeError: it does not, within a minute.
    """
    own_init = (root / INIT).exists()
    processes.start(
        f"host-{found.name}",
        [
            *("/bin/sh", "-c", control_groups.script(found.machine) + _AGAIN),
            network.link(found.name),
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            *(["--kill-signal=SIGRTMIN+3"] if own_init else ["--boot"]),
            f"--directory={root}",
            f"--machine={found.machine}",
            f"--hostname={found.name}",
            f"--network-bridge={BRIDGE}",
            "--resolv-conf=off",
            "--link-journal=no",
            "--capability=all",
            "--system-call-filter=add_key keyctl bpf",
            "--console=read-only",
            *([f"/{INIT}"] if own_init else []),
        ],
        env={"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not alive(found.name):
            break
        try:
            with socket.create_connection((str(found.ipv4), 22), timeout=1) as connection:
                connection.settimeout(2)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(
        f"{found.name} does not answer on SSH; see {processes.LOGS}/host-{found.name}.log"
    )


def stop(name: str) -> None:
    """End a host at once: its file system is thrown away or was synced by what wrote it."""
    pid = processes.alive(f"host-{name}")
    if pid is not None:
        for nspawn in processes.children(pid):
            _end(nspawn)
    processes.stop(f"host-{name}", patience=2)
    network.drop_link(name)
    control_groups.remove(machine(name))


def stop_strays(name: str = "") -> None:
    """Processes of hosts (of one, if named) whose records a crash has lost."""
    ours = f"--directory={FOLDER}/{f'{name}/' if name else ''}"
    found = {
        pid: words[0]
        for pid, words in processes.command_lines().items()
        if any(word.startswith(ours) for word in words)
    }
    for pid, program in found.items():
        if program == "/bin/sh":  # first, or it would start again what ends below
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for pid, program in found.items():
        if program == "systemd-nspawn":
            _end(pid)


def _end(nspawn: int) -> None:
    for child in processes.children(nspawn):
        processes.terminate(child, patience=0.1)
    processes.terminate(nspawn, patience=2)


def process_tree(name: str) -> list[int]:
    """Process ids as this machine numbers them: who starts the host again, nspawn, and process 1.

    :raises RuntimeError: the host does not run.
    """
    if (pid := processes.alive(f"host-{name}")) is not None:
        for nspawn in processes.children(pid):
            if inside := processes.children(nspawn):
                return [pid, nspawn, inside[0]]
    raise RuntimeError(f"{name} does not run; start it with: python -m lab up")


def _leader(name: str) -> int:
    """The host's own process 1, as this machine numbers it; between two boots it is waited for."""
    deadline = time.monotonic() + _BETWEEN_BOOTS
    while True:
        try:
            return process_tree(name)[2]
        except RuntimeError:
            if processes.alive(f"host-{name}") is None or time.monotonic() > deadline:
                raise
        time.sleep(0.5)
