"""Settings of the lab's hosts: the lab's own archives and image, and a model that fits a CPU."""

from __future__ import annotations

import json
import os
from typing import Any

from lab import archive, hosts, layout

#: vLLM's CPU build: no compiler in the image, little memory for the KV cache, and one thread on any
#: processor. By itself every agent binds its threads to the first, where one that starts behind a
#: busy one gets next to nothing. Without the last one each has a process more than where it has one
#: GPU: the CPU build gives its engine a worker apart, which imports everything once more.
_CPU: dict[str, Any] = {
    "extra_args": ["--enforce-eager"],
    "env": {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    },
}

AGENTS: list[dict[str, Any]] = [
    {
        "name": "tiny",
        "model": layout.MODEL_FOLDER,
        "port": 8001,
        "gpus": [0],
        "max_model_len": 1024,
        "tool_call_parser": "hermes",
        **_CPU,
    },
    {
        "name": "spare",
        # From the lab's hub, so that every deploy to fresh hosts fetches a model.
        "model": layout.HUB_MODEL,
        "revision": "v1",
        "port": 8002,
        "gpus": [1],
        "max_model_len": 512,
        **_CPU,
    },
]

#: What hosts behind gateways run: the first model on each of them, the second on gpu1 only.
FLEET_AGENTS: list[dict[str, Any]] = [
    AGENTS[0]
    | {
        "name": "chat",
        "served_model_name": "lab/chat",
        "env": _CPU["env"] | {"VLLM_ENABLE_RESPONSES_API_STORE": "1"},
        "accepted_risks": ["VLLM_ENABLE_RESPONSES_API_STORE"],
    },
    AGENTS[1] | {"name": "draft", "served_model_name": "lab/draft"},
]


#: Hosts that are gateways as well, in an inventory of their own.
BOTH = ("gpu1", "gpu2")


def settings() -> dict[str, Any]:
    """What the group `lab` sets. LAB_SETTINGS (JSON) changes it for one run of a test."""
    fingerprints = archive.fingerprints()
    base = f"https://{layout.ARCHIVE_NAME}"
    usual: dict[str, Any] = {
        "docker": {
            "archive_url": f"{base}/docker/linux",
            "key_fingerprint": fingerprints["docker"],
        },
        "nvidia": {
            "archive_url": f"{base}/nvidia/libnvidia-container/stable/deb",
            "key_url": f"{base}/nvidia/libnvidia-container/gpgkey",
            "key_fingerprint": fingerprints["nvidia"],
            "driver_archive_url": f"{base}/cuda/repos",
            "driver_key_fingerprint": fingerprints["nvidia"],
        },
        "hub": {"endpoint": layout.HUB_URL},
        # This machine may not give a process more than 20,000 open files.
        "edge": {"expected_clients": 2},
        "vllm": {"image": layout.IMAGE, "image_disk": 6, "model_disk": 2, "health_timeout": 600},
        "secrets": {"hf_token_env": "HF_TOKEN_OF_THE_LAB"}
        if "HF_TOKEN_OF_THE_LAB" in os.environ
        else {},
        "agents": AGENTS,
    }
    changed = _changed()
    return usual | {
        name: {**usual[name], **value} if isinstance(usual.get(name), dict) else value
        for name, value in changed.items()
        if name not in ("hosts", "mirror_hosts")
    }


def host_data(name: str, login: dict[str, Any]) -> dict[str, Any]:
    """How a host is entered, and what it sets for itself: only gpu1 has room for both agents.

    LAB_SETTINGS changes it under ``hosts``, by name; null takes a part of it away.
    """
    changed = _changed()
    usual = {} if name == "gpu1" or "agents" in changed else {"agents": AGENTS[:1]}
    own: dict[str, Any] = changed.get("hosts", {}).get(name, {})
    return {key: value for key, value in (login | usual | own).items() if value is not None}


def login(name: str) -> dict[str, Any]:
    """How a host of the lab is entered."""
    host = hosts.host(name)
    return {
        "ssh_hostname": str(host.ipv4),
        "ssh_user": host.ssh_user,
        "ssh_key": str(layout.SSH_KEY),
        "ssh_known_hosts_file": str(layout.KNOWN_HOSTS),
        "ssh_strict_host_key_checking": "yes",
        "_sudo": host.ssh_user != "root",
    }


def fleet_settings() -> dict[str, Any]:
    """What the group `lab` of the inventory with gateways sets: agents are their hosts' own."""
    # Clients of a load share a key and an address. More connections would want more open files than
    # a process may have where the lab's machine is itself a container.
    edge = {"requests_per_second": 10_000, "burst": 2000, "connections": 200}
    usual = settings()
    usual["edge"] = edge | usual["edge"]
    del usual["agents"]
    return usual


def both_settings() -> dict[str, Any]:
    """The same for hosts that are gateways too, whose nginx has connections of both kinds."""
    usual = fleet_settings()
    usual["edge"]["connections"] = 130
    return usual


def fleet_host_data(name: str) -> dict[str, Any]:
    """How a GPU host behind gateways is entered, and its agents. LAB_SETTINGS changes them as it
    does in the inventory without gateways."""
    changed = _changed()
    agents = changed.get("agents", FLEET_AGENTS)
    usual = login(name) | {"agents": agents if name == "gpu1" else agents[:1]}
    own: dict[str, Any] = changed.get("hosts", {}).get(name, {})
    return {key: value for key, value in (usual | own).items() if value is not None}


def mirror_hosts() -> list[str]:
    """Which hosts are in the group of mirrors. LAB_SETTINGS changes it."""
    found: list[str] = _changed().get("mirror_hosts", ["gpu1"])
    return found


def mirror_host_data(name: str) -> dict[str, Any]:
    """How a host is entered where gpu1 is the mirror, and its agents: only the others need a model
    from the hub, which gpu1 fetches for them."""
    agents = AGENTS[:1] if name == "gpu1" else AGENTS[1:]
    own: dict[str, Any] = _changed().get("hosts", {}).get(name, {})
    return login(name) | {"agents": agents} | own


def _changed() -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(os.environ.get("LAB_SETTINGS", "{}"))
    return changed
