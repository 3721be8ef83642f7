"""Hosts as other people have them, and as fresh lab hosts are not. A reset ends every state."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from lab import archive, hosts, layout, recipe

_STANDINS = Path(__file__).with_name("standins")
_APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y"
#: What somebody's site and containers answer with.
PAGE, ANSWER = "their page", "their container"
SITE = "wiki.lab"
SITE_FILE = "/etc/nginx/sites-available/default"


def without_ipv6(name: str) -> None:
    """Boot a running host again as with ``ipv6.disable=1``."""
    root = hosts.root(name)
    init = root / hosts.INIT
    shutil.copy(_STANDINS / "no-ipv6" / "init", init)
    init.chmod(0o755)
    network = root / "etc/systemd/network/10-lab.network"
    text = network.read_text()
    network.write_text(re.sub(r"^\w+=\S*:\S*\n", "", text, flags=re.M))
    hosts.restart(name)


def with_firewalld(name: str) -> None:
    """firewalld as its package starts it: SSH is open, and nothing else."""
    hosts.run(name, f"{_APT} update && {_APT} install firewalld", timeout=300)
    hosts.run(name, "systemctl is-active firewalld.service")


def with_docker_disk(name: str, size: str) -> None:
    """/var/lib/docker is a disk of its own: a loop device. Unmounted with the host's last process.

    :param size: as ``truncate`` takes it; the file is sparse.
    """
    recipe.ensure_packages(["e2fsprogs"])
    disk = hosts.root(name) / "docker.img"
    for command in (["truncate", "-s", size, str(disk)], ["mkfs.ext4", "-q", str(disk)]):
        subprocess.run(command, check=True, capture_output=True)
    loop = subprocess.run(
        ["losetup", "--find", "--show", disk], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        minor = Path(loop).stat().st_rdev & 0xFF
        hosts.run(
            name,
            f"mknod /dev/lab-disk b 7 {minor} && mkdir -p /var/lib/docker &&"
            " mount /dev/lab-disk /var/lib/docker",
        )
    finally:
        # The device goes when its mount does.
        subprocess.run(["losetup", "--detach", loop], check=True, capture_output=True)


def with_site_and_containers(name: str) -> None:
    """nginx with a site in place of the distribution's, and Docker as its own instructions install
    it: a container without a restart policy behind the site, one with one, in a network of theirs;
    and one that listens on every address of the host.
    """
    root = hosts.root(name)
    keys = root / "etc/apt/keyrings"
    keys.mkdir(exist_ok=True)
    shutil.copy(archive.build() / "docker/linux/debian/gpg", keys / "docker.asc")
    (root / "etc/apt/sources.list.d/docker.list").write_text(
        "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc]"
        f" https://{layout.ARCHIVE_NAME}/docker/linux/debian trixie stable\n"
    )
    packages = "docker-ce docker-ce-cli containerd.io nginx busybox-static"
    hosts.run(name, f"{_APT} update && {_APT} install {packages}", timeout=300)
    (root / SITE_FILE.lstrip("/")).write_text(
        f"server {{\n    listen 80 default_server;\n    server_name {SITE};\n"
        "    location / { root /srv/wiki; }\n"
        "    location /app/ { proxy_pass http://127.0.0.1:9000/; }\n}\n"
    )
    serve = "/bin/busybox httpd -f -p 8080 -h /srv"
    hosts.run(
        name,
        f"mkdir -p /srv/wiki && echo '{PAGE}' >/srv/wiki/index.html && nginx -t -q &&"
        " systemctl reload nginx && mkdir -p /tmp/image/bin /tmp/image/srv &&"
        f" echo '{ANSWER}' >/tmp/image/srv/index.html &&"
        " cp $(command -v busybox) /tmp/image/bin/busybox &&"
        " tar -C /tmp/image -c . | docker import - theirs:1 && docker network create theirs &&"
        f" docker run -d --name app --network theirs -p 127.0.0.1:9000:8080 theirs:1 {serve} &&"
        f" docker run -d --name wide -p 9001:8080 theirs:1 {serve} &&"
        f" docker run -d --name db --network theirs --restart always theirs:1 {serve}",
        timeout=120,
    )
