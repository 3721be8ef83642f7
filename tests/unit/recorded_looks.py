"""What facts answered on a host that was installed a minute ago, and how a deploy changes that.

By the name of a fact, what ``look`` returns of it. Files, packages, keys and certificates are not
here: ``recording.py`` has those as the run leaves them.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from tests.unit.driver_hosts import DEBIAN_13, H100, bare, card
from tests.unit.fakes import listening
from tests.unit.model_files import safetensors
from tests.unit.projects import ROOT
from vllm_hosts.facts.docker import Daemon, ImageFound, Served
from vllm_hosts.facts.docker_state import DockerSays
from vllm_hosts.facts.firewall import Loaded, Others
from vllm_hosts.facts.nginx import Nginx
from vllm_hosts.facts.vllm_images import ImagesFound, ImageUse
from vllm_hosts.host.compose import ComposeFound, Network
from vllm_hosts.host.containers import Container
from vllm_hosts.host.docker_unit import DockerOptions
from vllm_hosts.host.files import Found
from vllm_hosts.host.firewall import Surroundings
from vllm_hosts.host.gateway_reach import IpRoute, Ways
from vllm_hosts.host.mirror import MirrorThere
from vllm_hosts.host.nginx import MainConf
from vllm_hosts.host.nginx_sites import Sites
from vllm_hosts.host.nvidia_smi import NOT_INSTALLED, parse
from vllm_hosts.host.system import ModelFolder, System
from vllm_hosts.host.systemctl import UnitState
from vllm_hosts.hub.hub_models import Fetched
from vllm_hosts.keys.store_marks import Marked
from vllm_hosts.operations.gpu import GpuCheck
from vllm_hosts.rehearsal.fact import Grounds

SSHD = 'users:(("sshd",pid=1,fd=3))'
NGINX_TEXT = "nginx version: nginx/1.26.3\nbuilt with OpenSSL 3.5.0 8 Apr 2025\n"
NGINX_CONF = (
    b"user www-data;\ninclude /etc/nginx/modules-enabled/*.conf;\n"
    b"events {\n\tworker_connections 768;\n}\nhttp {\n}\n"
)
IMAGE_ID = f"sha256:{'1' * 64}"
CONFIG = (ROOT / "tests/unit/models/Qwen3-8B.json").read_bytes()
AWQ = (ROOT / "tests/unit/models/Qwen3-8B-AWQ.json").read_bytes()
#: What agents' models are made of, bytes by name.
FILES = {"config.json": len(CONFIG), "model.safetensors": len(safetensors())}
SMI = [
    f"{number}, NVIDIA H100 80GB HBM3, GPU-{number}, 81559, 550.163.01, 9.0, Disabled, Enabled"
    for number in range(3)
]
CARDS = parse([*SMI, "exit 0"])
SILENT = bare(H100, H100, H100)
HUB_MODEL = "/var/lib/vllm/huggingface/hub/models--Qwen--Qwen3-8B"
RUNS = UnitState(enabled=True, active=True)

FRESH: dict[str, Any] = {
    "OsRelease": DEBIAN_13,
    "SystemState": System(
        user="0",
        init="systemd",
        free=dict.fromkeys(
            ("/run", "/tmp", "/var/lib/docker", "/var/lib/vllm", HUB_MODEL, "/srv/models/coder"),
            900 << 30,
        ),
        present=frozenset(),
        has_image=False,
        listeners=(listening("0.0.0.0:22", SSHD),),
        container_ports={},
        gpus=(),
        gpu_failure=NOT_INSTALLED,
    ),
    "HostMemory": 125 << 30,
    "DockerUnit": DockerOptions([], [], "", False),
    "AptSourceFiles": {
        "/etc/apt/sources.list.d/debian.sources": (
            "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        )
    },
    "AptKeyFingerprints": {},
    "AptVersions": {"nvidia-fabricmanager-550": ("550.163.01-1",)},
    "NginxSites": Sites(),
    "ListeningSockets": (listening("0.0.0.0:22", SSHD),),
    "SshPorts": (22,),
    "PasswordLogins": (),
    "HostMark": Marked(None),
    "GpuState": SILENT,
    "DockerState": DockerSays(),
    "DockerDaemon": Daemon(False, False, None, ()),
    "AgentsServed": Served(False, False, (), {}),
    "NginxState": Nginx("", active=False, enabled=False),
    "NginxMainConf": None,
    "MirrorState": MirrorThere(),
    "ImageId": "",
    "ImageVersion": ImageFound("", None),
    "ImagesUsed": ImageUse((), ()),
    "ImagesThere": ImagesFound((), (), ()),
    "LastGpuCheck": GpuCheck((), ("GPU-0, 550.163.01", "1.18.1-1", "0,1,2")),
    "HostSurroundings": Surroundings(33),
    "FirewallLoaded": Loaded(in_force=False, enabled=False, active=False),
    "OtherFirewalls": Others(()),
    "HubModels": {"Qwen/Qwen3-8B": Fetched(None, "", {}, {})},
    "ModelCopy": FILES,
    "ComposeProject": ComposeFound({"qwen": "h1", "coder": "h2"}, (), None),
    "EdgeRuns": False,
    "AgentStates": {},
    "RehearsalGrounds": Grounds(IMAGE_ID, {}, CARDS),
    "Rehearsals": {},
    "WaysToHosts": Ways(
        {}, {ip_address(f"192.0.2.{n}"): IpRoute(ip_address("192.0.2.1")) for n in range(1, 255)}
    ),
    "Units": {
        name: UnitState(enabled=False, active=False)
        for name in (
            "nvidia-persistenced.service",
            "nvidia-fabricmanager.service",
            "vllm-hosts-balancer.service",
            "vllm-hosts-edge-logs.timer",
            "vllm-hosts-keys.timer",
            "vllm-hosts-mirror.service",
            "vllm-hosts-watchdog.timer",
            "vllm-hosts-balancer.service",
        )
    },
}


#: What the archives have.
OFFERED = {
    **dict.fromkeys(("linux-headers-6.12.48+deb13-amd64", "linux-headers-amd64"), "6.12.48-1"),
    **dict.fromkeys(("nvidia-open-kernel-dkms", "libcuda1", "libnvidia-nvvm4"), "550.163.01-4"),
    **dict.fromkeys(("nvidia-smi", "nvidia-persistenced"), "550.163.01-4"),
    **dict.fromkeys(("docker-ce", "docker-ce-cli"), "5:29.1.0-1"),
    "containerd.io": "2.2.0-1",
    "docker-buildx-plugin": "0.30.0-1",
    "docker-compose-plugin": "5.0.1-1",
    "nginx": "1.26.3-3",
    "libnginx-mod-http-lua": "1:0.10.28-2",
    "nftables": "1.1.3-1",
    "logrotate": "3.22.0-1",
    "haproxy": "3.0.11-1+deb13u1",
    "socat": "1.8.0.3-1",
    "skopeo": "1.18.0+ds1-1+b5",
}

#: What preflight sees of a host with all of it.
_SYSTEM = replace(
    FRESH["SystemState"],
    present=frozenset({HUB_MODEL, "/srv/models/coder"}),
    has_image=True,
    gpus=CARDS.gpus,
    gpu_failure=None,
    models={
        HUB_MODEL: ModelFolder(CONFIG, 16 << 30),
        "/srv/models/coder": ModelFolder(AWQ, 16 << 30),
    },
)
_CONTAINERS = tuple(
    Container(name, "running", "healthy", service=name, config_hash=known)
    for name, known in (("qwen", "h1"), ("coder", "h2"))
)
_NETWORKS = (
    Network("qwen", "vllm_qwen", "198.18.250.8/29", "vllm-8001", ("qwen",)),
    Network("coder", "vllm_coder", "198.18.250.16/29", "vllm-8002", ("coder",)),
)
_PROXY = 'users:(("docker-proxy",pid=7,fd=4))'
_NGINX = 'users:(("nginx",pid=9,fd=6))'

#: A part of a command, and what is otherwise once it ran.
AFTER: dict[str, dict[str, Any]] = {
    "installing linux-headers": {
        "GpuState": replace(SILENT, has_persistenced=True, has_headers=True)
    },
    "modprobe nvidia ": {
        "GpuState": replace(
            SILENT,
            devices=tuple(card(H100, "nvidia", 0x18 + number) for number in range(3)),
            module="550.163.01",
            has_persistenced=True,
            has_headers=True,
            smi=CARDS,
        ),
        "SystemState": _SYSTEM,
    },
    "installing docker-ce": {
        "DockerState": DockerSays(compose="5.0.1"),
        "DockerDaemon": Daemon(True, True, None, ()),
        "AgentsServed": Served(True, False, (), {}),
    },
    "installing nginx": {
        "NginxState": Nginx(NGINX_TEXT, active=False, enabled=False),
        "NginxMainConf": MainConf("f", NGINX_CONF, 0o644, "root", "root"),
        "NginxSites": Sites("distribution"),
        "paths": {"/etc/nginx/sites-enabled/default": Found("l", 0o777, *(("root", "0"),) * 2)},
    },
    "pulling vllm/": {
        "ImageId": IMAGE_ID,
        "ImageVersion": ImageFound(IMAGE_ID, None),
    },
    "checking which vLLM": {"ImageVersion": ImageFound(IMAGE_ID, "0.33.0")},
    "running nvidia-smi in a container": {"LastGpuCheck": GpuCheck(("seen",), ("seen",))},
    "nft -f /etc/vllm-hosts/firewall.nft": {
        "FirewallLoaded": Loaded(in_force=True, enabled=False, active=False)
    },
    "systemctl enable --now vllm-hosts-firewall.service": {
        "FirewallLoaded": Loaded(in_force=True, enabled=True, active=True)
    },
    "fetching Qwen/Qwen3-8B": {
        "HubModels": {"Qwen/Qwen3-8B": Fetched("c" * 40, "c" * 40, FILES, FILES)}
    },
    "starting qwen coder": {
        "ComposeProject": ComposeFound({"qwen": "h1", "coder": "h2"}, _CONTAINERS, None, _NETWORKS),
        "AgentStates": {one.name: one for one in _CONTAINERS},
        "ListeningSockets": (
            *FRESH["ListeningSockets"],
            listening("127.0.0.1:8001", _PROXY),
            listening("127.0.0.1:8002", _PROXY),
            listening("0.0.0.0:443", _NGINX),
            listening("0.0.0.0:80", _NGINX),
        ),
    },
    "systemctl enable --now nginx.service": {
        "NginxState": Nginx(NGINX_TEXT, active=True, enabled=True),
        "EdgeRuns": True,
    },
}
