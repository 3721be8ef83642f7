"""Where the lab keeps its things, and who has which name and address."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

#: Which of this machine's labs. Each has a bridge, addresses, hosts and state of its own, so that
#: two runs of tests do not meet; what is built they share.
NUMBER = int(os.environ.get("VLLM_HOSTS_LAB_NUMBER", "0"))
_SUFFIX = f"-{NUMBER}" if NUMBER else ""
#: Built once and kept: base system, packages, image, wheels. Safe to delete; rebuilt when missing.
CACHE = Path(os.environ.get("VLLM_HOSTS_LAB_CACHE", "/var/cache/vllm-hosts-lab"))
#: What belongs to running hosts: their file systems, keys, process ids, logs.
STATE = Path(os.environ.get("VLLM_HOSTS_LAB_STATE", f"/var/lib/vllm-hosts-lab{_SUFFIX}"))

BRIDGE = f"vllmlab{NUMBER}"
BRIDGE_V4 = IPv4Interface(f"10.87.{NUMBER}.1/24")
BRIDGE_V6 = IPv6Interface(f"fd87:6c61:{62 + NUMBER}::1/64")

#: What the hosts would get from the internet, served on the bridge's address.
ARCHIVE_NAME = "archive.lab"  # HTTPS, port 443
REGISTRY_NAME = "registry.lab"  # HTTPS, port 5000
REGISTRY_PORT = 5000
HUB_NAME = "hub.lab"  # HTTPS, port 8443
HUB_CDN_NAME = "hub-cdn.lab"  # the same server, under the name from which large files come
HUB_PORT = 8443
HUB_URL = f"https://{HUB_NAME}:{HUB_PORT}"
APT_PROXY_PORT = 3142  # apt-cacher-ng, in front of Debian's own mirrors
#: One for each lab: the program has to itself what it keeps.
APT_CACHE = CACHE / f"apt{_SUFFIX}"

#: Image and model as the lab's inventory names them.
IMAGE = f"{REGISTRY_NAME}:{REGISTRY_PORT}/vllm/vllm-openai:v0.32.0"
MODEL_FOLDER = "/srv/models/tiny-qwen2"  # on every lab host
HUB_MODEL = "lab/tiny"  # the same model, from the lab's hub

SSH_KEY = STATE / "ssh" / "id_ed25519"
KNOWN_HOSTS = STATE / "ssh" / "known_hosts"
LAB_CA = STATE / "ca.pem"  # signs the lab's own servers; trusted by the hosts' system store
HUB_TOKENS = STATE / "hub-tokens"  # who may read the hub's gated models; see hub.py

#: Debian's releases that hosts are made of, with their numbers.
RELEASES = {"trixie": 13, "bookworm": 12}

#: Login of the hosts that are not entered as root: sudo without a password.
SUDO_USER = "deploy"
#: A second login on every host, with a password for sudo, for the tests that get it wrong.
PASSWORD_USER = "alice"
PASSWORD = "lab-alice"


def machine(name: str) -> str:
    """A host's name among all hosts of all labs that this machine runs."""
    return f"{name}{_SUFFIX}"


@dataclass(frozen=True)
class Host:
    """One lab host: its name, addresses, the login that deploys use, and its Debian release."""

    name: str
    ipv4: IPv4Address
    ipv6: IPv6Address
    ssh_user: str
    gpus: int
    release: str = "trixie"

    @property
    def machine(self) -> str:
        """As ``machine``."""
        return machine(self.name)


def _host(name: str, number: int, ssh_user: str, gpus: int) -> Host:
    return Host(name, BRIDGE_V4.network[number], BRIDGE_V6.network[number], ssh_user, gpus)


def gpu_hosts(count: int) -> list[Host]:
    """gpu1 is entered as root, the others as an unprivileged user with sudo."""
    return [
        _host(f"gpu{n}", 10 + n, "root" if n == 1 else SUDO_USER, gpus=2)
        for n in range(1, count + 1)
    ]


def gateways(count: int) -> list[Host]:
    """Hosts without cards; gw1 is entered as root, the others as an unprivileged user with sudo."""
    return [
        _host(f"gw{n}", 40 + n, "root" if n == 1 else SUDO_USER, gpus=0)
        for n in range(1, count + 1)
    ]


NEIGHBOUR = _host("neighbour", 9, "root", gpus=0)
#: Hosts that the lab has only where they are named (`up --with NAME`): a usual run needs none.
FURTHER = {
    found.name: found
    for found in [replace(_host("debian12", 30, SUDO_USER, gpus=2), release="bookworm")]
}
