"""A lab host's file system: a base system with its network, who may log in, and its GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab import base, gpu, layout
from lab.layout import (
    APT_PROXY_PORT,
    ARCHIVE_NAME,
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


def make(found: Host, root: Path, tar: Path, models: Path) -> None:
    """Unpack a base system, and make it this host."""
    base.unpack(tar, root)
    (root / "etc/hostname").write_text(f"{found.name}\n")
    (root / "etc/hosts").write_text(_hosts_file(found))
    (root / "etc/systemd/network/10-lab.network").write_text(
        f"[Match]\nName=host0\n\n[Network]\nAddress={found.ipv4}/{BRIDGE_V4.network.prefixlen}\n"
        f"Address={found.ipv6}/{BRIDGE_V6.network.prefixlen}\n"
        f"Gateway={BRIDGE_V4.ip}\nGateway={BRIDGE_V6.ip}\n"
        "IPv6AcceptRA=no\nLLMNR=no\nMulticastDNS=no\nIPv6DuplicateAddressDetection=0\n"
    )
    # What mmdebstrap was told is kept there: the proxy of the lab that built the system.
    (root / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    (root / "etc/apt/apt.conf.d/80lab-proxy").write_text(
        f'Acquire::http::Proxy "http://{BRIDGE_V4.ip}:{APT_PROXY_PORT}";\n'
        f'Acquire::https::Proxy::{ARCHIVE_NAME} "DIRECT";\n'
        # Names are in /etc/hosts, and no name server answers: apt waited ten seconds for one
        # whenever it asked which server has the archive over HTTPS.
        'Acquire::EnableSrvRecords "false";\n'
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
        f"{other.ipv4} {other.name}.lab" for other in _everybody() if other.name != found.name
    ]
    return "\n".join([*lines, ""])


def _everybody() -> list[Host]:
    return [*layout.gpu_hosts(9), *layout.gateways(9), *layout.FURTHER.values(), NEIGHBOUR]


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


def make_keys() -> None:
    """The key that logs in to every host, made once for all times."""
    SSH_KEY.parent.mkdir(parents=True, exist_ok=True)
    if not SSH_KEY.exists():
        _keygen(SSH_KEY)


def write_known_hosts(wanted: Sequence[Host]) -> None:
    """Host keys, made once for each host, and the list of them for SSH clients."""
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
