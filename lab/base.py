"""The file systems that lab hosts start from: Debian as a minimal cloud server has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import layout, recipe, services
from lab.layout import APT_PROXY_PORT, BRIDGE_V4

#: What this machine needs to run the lab.
MACHINE_PACKAGES = [
    "systemd-container",
    "mmdebstrap",
    "debian-archive-keyring",
    "iproute2",
    "nftables",
    "openssh-client",
    "zstd",
    "docker-registry",
    "apt-cacher-ng",
    "openssl",
    "curl",
    "age",
]

_SYSTEM = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "openssh-server",
    "sudo",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "procps",
    "less",
]
#: The neighbour scans the others from outside.
_TOOLS = [*_SYSTEM, "nmap", "curl", "python3-minimal"]

_SOURCES = """Types: deb
URIs: http://deb.debian.org/debian
Suites: @RELEASE@ @RELEASE@-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.debian.org/debian-security
Suites: @RELEASE@-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_SSHD = """PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""

#: Run by mmdebstrap in the new system's folder ($1).
_CUSTOMIZE = f"""set -eu
cat >"$1/etc/apt/sources.list.d/debian.sources" <<'END'
{_SOURCES}END
rm -f "$1/etc/apt/sources.list"
cat >"$1/etc/ssh/sshd_config.d/lab.conf" <<'END'
{_SSHD}END
rm -f "$1"/etc/ssh/ssh_host_*
chroot "$1" useradd --create-home --shell /bin/bash {layout.SUDO_USER}
chroot "$1" useradd --create-home --shell /bin/bash --groups sudo {layout.PASSWORD_USER}
echo '{layout.PASSWORD_USER}:{layout.PASSWORD}' | chroot "$1" chpasswd
echo '{layout.SUDO_USER} ALL=(ALL) NOPASSWD: ALL' >"$1/etc/sudoers.d/{layout.SUDO_USER}"
chmod 0440 "$1/etc/sudoers.d/{layout.SUDO_USER}"
chroot "$1" systemctl enable systemd-networkd.service ssh.service
chroot "$1" systemctl mask systemd-networkd-wait-online.service getty.target console-getty.service
: >"$1/etc/machine-id"
"""


def build(tools: bool, release: str = "trixie") -> Path:
    """The tar of a base system.

    :param tools: the neighbour's, with programs to scan other hosts.
    :param release: a key of ``layout.RELEASES``.
    """
    packages = _TOOLS if tools else _SYSTEM
    customize = _CUSTOMIZE.replace("@RELEASE@", release)

    def make(folder: Path) -> None:
        hook = folder / "customize"
        hook.write_text(customize)
        services.apt_proxy_alone()
        recipe.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(packages)}",
                "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg",
                f'--aptopt=Acquire::http::Proxy "http://{BRIDGE_V4.ip}:{APT_PROXY_PORT}"',
                f'--customize-hook=sh {hook} "$1"',
                release,
                folder / "root.tar",
                "http://deb.debian.org/debian",
            ],
            f"making Debian {layout.RELEASES[release]} with mmdebstrap",
        )
        hook.unlink()

    name = "base-tools" if tools else "base"
    name += "" if release == "trixie" else f"-{release}"
    return recipe.keep(name, [" ".join(packages), customize], make) / "root.tar"


def unpack(tar: Path, root: Path) -> None:
    """Unpack a base system into a new folder."""
    root.mkdir(parents=True)
    subprocess.run(
        ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", tar, "-C", root],
        check=True,
    )
