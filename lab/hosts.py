"""Lab hosts: made from a base system, booted with systemd, reset and stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lab import base, ca, gpu, layout, model, network, processes, recipe, services
from lab.layout import (
    ARCHIVE_NAME,
    BRIDGE,
    BRIDGE_V4,
    BRIDGE_V6,
    HUB_CDN_NAME,
    HUB_NAME,
    KNOWN_HOSTS,
    LAB_CA,
    NEIGHBOUR,
    REGISTRY_NAME,
    SSH_KEY,
    STATE,
    Host,
)

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
_LIST = STATE / "hosts.json"
_FOLDER = STATE / "hosts"


def up(count: int, further: Sequence[str] = ()) -> None:
    """Bring up ``count`` GPU hosts and the neighbour, with the services they need.

    What runs is left alone, what a crash left behind is repaired.

    :param further: of ``layout.FURTHER``, what to bring up besides.
    :raises RuntimeError: something does not come up; the text says what and where its log is.
    """
    with _locked():
        recipe.ensure_packages(base.MACHINE_PACKAGES)
        network.up()
        ca.prepare()
        wanted = _wanted(count, further)
        services.up(found.release for found in wanted)
        _keys()
        _LIST.write_text(json.dumps([found.name for found in wanted]))
        _write_known_hosts(wanted)
        tars = _tars(wanted)
        folder = model.build()
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(lambda found: _bring_up(found, tars, folder), wanted))


def down() -> None:
    """Stop everything and remove the hosts. What is cached stays."""
    with _locked():
        for name in _known():
            _stop(name)
            shutil.rmtree(_FOLDER / name, ignore_errors=True)
        _stop_strays()
        services.down()
        network.down()
        _LIST.unlink(missing_ok=True)


def remove(names: Sequence[str]) -> None:
    """Stop hosts for good, and forget them. The others run on."""
    with _locked():
        for name in names:
            _stop(name)
            shutil.rmtree(_FOLDER / name, ignore_errors=True)
        left = [name for name in _known() if name not in names]
        _LIST.write_text(json.dumps(left))
        _write_known_hosts([host(name) for name in left])


def reset(names: Sequence[str] = ()) -> None:
    """Return hosts (all, if none is named) to their fresh state."""
    chosen = list(names) or _known()
    with _locked():
        _require_up()
        tars = _tars([host(name) for name in chosen])
        folder = model.build()

        def again(name: str) -> None:
            _stop(name)
            shutil.rmtree(_FOLDER / name, ignore_errors=True)
            _bring_up(host(name), tars, folder)

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(again, chosen))


def restart(name: str) -> None:
    """Stop a host and boot it again, as it is."""
    with _locked():
        _stop(name)
        _boot(host(name), root(name))


def host(name: str) -> Host:
    """A host by name.

    :raises KeyError: the lab has no such host.
    """
    if name == NEIGHBOUR.name:
        return NEIGHBOUR
    return (layout.FURTHER | {found.name: found for found in layout.gpu_hosts(200)})[name]


def gpu_host_names() -> list[str]:
    """The GPU hosts that the lab has; the usual two where it was never up."""
    return [name for name in _known() if name != NEIGHBOUR.name] or ["gpu1", "gpu2"]


def are(count: int, further: Sequence[str] = ()) -> bool:
    """Whether the lab has exactly the hosts that ``up`` would bring up."""
    return _known() == [found.name for found in _wanted(count, further)]


def is_up() -> bool:
    """Whether all hosts that the lab should have run."""
    names = _known()
    return bool(names) and network.is_up() and all(alive(name) for name in names)


def alive(name: str) -> bool:
    """Whether a host runs."""
    return processes.alive(f"host-{name}") is not None


def root(name: str) -> Path:
    """A host's file system, as a folder of this machine."""
    return _FOLDER / name / "root"


def run(
    name: str, command: str, *, check: bool = True, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a shell command as root in a host, without SSH, so that it works when SSH does not.

    :raises RuntimeError: the host does not run, or the command failed and ``check`` is set.
    """
    done = subprocess.run(
        ["nsenter", "-t", str(_leader(name)), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        + ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"]
        + ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
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


def _wanted(count: int, further: Sequence[str]) -> list[Host]:
    return [
        *layout.gpu_hosts(count),
        *(layout.FURTHER[name] for name in dict.fromkeys(further)),
        NEIGHBOUR,
    ]


def _tars(wanted: Sequence[Host]) -> dict[str, Path]:
    """The base system of each host, by name."""
    return {found.name: base.build(found is NEIGHBOUR, found.release) for found in wanted}


def _bring_up(found: Host, tars: dict[str, Path], models: Path) -> None:
    if alive(found.name):
        return
    started = time.monotonic()
    folder = _FOLDER / found.name
    complete = folder / "complete"
    _stop_strays(found.name)
    network.drop_link(found.name)
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _make(found, folder / "root", tars[found.name], models)
        complete.touch()
    _boot(found, folder / "root")
    recipe.say(f"{found.name} is up at {found.ipv4} after {time.monotonic() - started:.1f} s")


def _make(found: Host, root: Path, tar: Path, models: Path) -> None:
    base.unpack(tar, root)
    (root / "etc/hostname").write_text(f"{found.name}\n")
    (root / "etc/hosts").write_text(_hosts_file(found))
    (root / "etc/systemd/network/10-lab.network").write_text(
        f"[Match]\nName=host0\n\n[Network]\nAddress={found.ipv4}/{BRIDGE_V4.network.prefixlen}\n"
        f"Address={found.ipv6}/{BRIDGE_V6.network.prefixlen}\n"
        f"Gateway={BRIDGE_V4.ip}\nGateway={BRIDGE_V6.ip}\n"
        "IPv6AcceptRA=no\nLLMNR=no\nMulticastDNS=no\nIPv6DuplicateAddressDetection=0\n"
    )
    # A user's manager that ends is waited for, two minutes where control groups of version 1 do not
    # tell that they are empty; whoever logs in meanwhile waits too.
    logind = root / "etc/systemd/logind.conf.d"
    logind.mkdir(parents=True, exist_ok=True)
    (logind / "lab.conf").write_text("[Login]\nUserStopDelaySec=infinity\n")
    _authorize(root)
    certificates = root / "usr/local/share/ca-certificates"
    shutil.copy(LAB_CA, certificates / "lab.crt")
    subprocess.run(["chroot", root, "update-ca-certificates"], check=True, capture_output=True)
    if found.gpus:
        gpu.install(root, found.gpus, found.name)
        target = root / layout.MODEL_FOLDER.lstrip("/")
        shutil.copytree(models, target)
        subprocess.run(["chmod", "-R", "a+rX", target], check=True)


def _hosts_file(found: Host) -> str:
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {found.name}", "::1 localhost"]
    lines += [f"{BRIDGE_V4.ip} {ARCHIVE_NAME} {REGISTRY_NAME} {HUB_NAME} {HUB_CDN_NAME}"]
    lines += [
        f"{other.ipv4} {other.name}.lab"
        for other in [*layout.gpu_hosts(9), *layout.FURTHER.values(), NEIGHBOUR]
        if other.name != found.name
    ]
    return "\n".join([*lines, ""])


def _authorize(root: Path) -> None:
    """The lab's key may log in as everybody; host keys stay the same over resets."""
    public = SSH_KEY.with_suffix(".pub").read_text()
    homes = [(root / "root", 0)]
    for line in (root / "etc/passwd").read_text().splitlines():
        name, _, number, _, _, home, _ = line.split(":")
        if name in (layout.SUDO_USER, layout.PASSWORD_USER):
            homes.append((root / home.lstrip("/"), int(number)))
    for place, uid in homes:
        folder = place / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(public)
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, uid, uid)
    for source in (STATE / "ssh" / "hosts" / (root / "etc/hostname").read_text().strip()).iterdir():
        shutil.copy(source, root / "etc/ssh" / source.name)


def _boot(found: Host, root: Path) -> None:
    own_init = (root / INIT).exists()
    processes.start(
        f"host-{found.name}",
        [
            *("/bin/sh", "-c", _AGAIN, f"vb-{found.name}"),
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            *(["--kill-signal=SIGRTMIN+3"] if own_init else ["--boot"]),
            f"--directory={root}",
            f"--machine={found.name}",
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


def _stop(name: str) -> None:
    """End a host at once: its file system is thrown away or was synced by what wrote it."""
    pid = processes.alive(f"host-{name}")
    if pid is not None:
        for nspawn in processes.children(pid):
            _end(nspawn)
    processes.stop(f"host-{name}", patience=2)
    network.drop_link(name)


def _stop_strays(name: str = "") -> None:
    """Processes of hosts (of one, if named) whose records a crash has lost."""
    ours = f"--directory={_FOLDER}/{f'{name}/' if name else ''}"
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


def _known() -> list[str]:
    try:
        names: list[str] = json.loads(_LIST.read_text())
    except (OSError, ValueError):
        return []
    return names


def _require_up() -> None:
    if not network.is_up():
        raise RuntimeError("the lab is not up; start it with: python -m lab up")


def _keys() -> None:
    SSH_KEY.parent.mkdir(parents=True, exist_ok=True)
    if not SSH_KEY.exists():
        _keygen(SSH_KEY)


def _write_known_hosts(wanted: Sequence[Host]) -> None:
    lines = []
    for found in wanted:
        folder = SSH_KEY.parent / "hosts" / found.name
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / "ssh_host_ed25519_key"
        if not key.exists():
            _keygen(key)
        kind, public, *_ = key.with_suffix(".pub").read_text().split()
        lines.append(f"{found.ipv4},{found.ipv6} {kind} {public}\n")
    KNOWN_HOSTS.write_text("".join(lines))


def _keygen(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vllm-hosts-lab", "-f", path],
        check=True,
    )


@contextmanager
def _locked() -> Iterator[None]:
    """One command at a time changes the lab."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
