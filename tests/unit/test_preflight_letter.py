"""Reasons not to deploy, in whole sentences, and what lies just on this side of each."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from tests.unit.fakes import listening
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_preflight import APACHE, GOOD, GOOD_RELEASE, NGINX, PROXY, SETTINGS
from vllm_hosts.host.image_places import ImagePlaces
from vllm_hosts.host.nvidia_smi import failure
from vllm_hosts.host.release import Release
from vllm_hosts.host.system import ModelFolder, NetworkRoute, System
from vllm_hosts.roles.preflight import plan
from vllm_hosts.roles.preflight.plan import archives, folders, notes, own_folders, problems
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.cells import BRIDGE_PREFIX

GIB = 1 << 30
HUB = "/var/lib/vllm/huggingface/hub/models--Qwen--Qwen3-8B"
INSTALL = settings(agents=[QWEN, CODER], nvidia={"driver": "install"})


def said(host: HostSettings = SETTINGS, release: Release = GOOD_RELEASE, **there: Any) -> list[str]:
    return problems(host, release, replace(GOOD, **there))


@pytest.mark.parametrize(
    ("os_id", "version"),
    [("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")],
)
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_every_supported_system_is_taken(os_id: str, version: str, architecture: str) -> None:
    codename = "trixie" if os_id == "debian" else "noble"
    assert said(release=Release(os_id, version, codename, "", architecture)) == []


def test_systems_that_are_not() -> None:
    odd = Release("ubuntu", "13", "x", "Ubuntu 13", "riscv64")
    assert said(release=odd)[:2] == [
        "Ubuntu 13 is not supported; use one of Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04",
        "architecture riscv64 is not supported; use one of amd64, arm64",
    ]
    assert said(init="tini", user="7") == [
        "the first process is tini, not systemd, which runs the services; deploy to the machine"
        " itself and not to a container on it, or boot it with systemd",
        "commands do not run as root; connect as root, or set _sudo = True for this host",
    ]


@pytest.mark.parametrize(
    ("clock", "away"),
    [(3601.4, "1:00:01 ahead of"), (-7200.0, "2:00:00 behind"), (3600.0, ""), (-3600.0, "")],
)
def test_a_wrong_clock(clock: float, away: str) -> None:
    sentence = (
        f"its clock is {away} the one here, so archives, certificates and expiring keys would be"
        " judged by a wrong date; set it: timedatectl set-ntp true, or date -s"
    )
    assert said(clock=clock) == ([sentence] if away else [])


def test_which_folders_matter() -> None:
    was_a_gateway = "/var/lib/vllm-hosts/balancer"
    ours = ["/var/lib/docker", "/var/lib/vllm", HUB, "/srv/models/coder"]
    assert folders(SETTINGS) == ["/run", "/tmp", was_a_gateway, *ours]
    assert own_folders(SETTINGS) == ["/srv/models/coder"]
    copied = settings(agents=[CODER | {"copy_from": "/models/coder"}])
    assert own_folders(copied) == []


@pytest.mark.parametrize(
    ("where", "programs", "more", "sentence"),
    [
        (
            "*:443", APACHE, {},
            "port 443 is taken by apache2 (pid 9); stop it: see ps -fp 9, then kill 9, or set"
            " edge.https_port",
        ),
        (
            "*:80", PROXY, {"container_ports": {80: "web"}},
            "port 80 is taken by container web; stop it: docker stop web, or set edge.http_port",
        ),
        (
            "*:8001", 'users:(("a",pid=3,fd=3),("b",pid=4,fd=3))', {},
            "port 8001 of agent 'qwen' is taken by a (pid 3) and b (pid 4); stop it: see ps -fp"
            " 3,4, then kill 3 4, or give the agent another port",
        ),
        ("*:443", NGINX, {}, None),
        # Another agent of ours, before it moves.
        ("*:8001", PROXY, {"container_ports": {8001: "coder"}}, None),
        ("*:8001", PROXY, {"containers": frozenset({"qwen"})}, None),
        # And one that replaces it, and has not got its name yet.
        ("*:8001", PROXY, {"container_ports": {8001: "6a145f9dbb26_qwen"}}, None),
        (
            "*:8001", PROXY,
            {"containers": frozenset({"qwen"}), "container_ports": {8001: "other"}},
            "port 8001 of agent 'qwen' is taken by container other; stop it: docker stop other, or"
            " give the agent another port",
        ),
        ("*:9999", APACHE, {}, None),
    ],
)  # fmt: skip
def test_ports_that_are_taken(
    where: str, programs: str, more: dict[str, Any], sentence: str | None
) -> None:
    found = said(listeners=(listening(where, programs),), **more)
    assert found == ([sentence] if sentence else [])


def test_networks_that_agents_would_hide() -> None:
    inner = SETTINGS.vllm.network
    ours = NetworkRoute(inner, f"{BRIDGE_PREFIX}qwen")
    far = NetworkRoute(IPv4Network("192.0.2.0/24"), "eth0")
    assert said(routes=(far, NetworkRoute(inner, "eth1"))) == [
        f"the host reaches {inner} through eth1, which overlaps vllm.network {inner}; set"
        " vllm.network to a range that is used nowhere around this host"
    ]
    assert said(routes=(ours, far)) == []


def test_settings_that_are_impossible_without_ipv6() -> None:
    exposed = {"expose": {"networks": ["2001:db8::/32"], "unguarded_routes": "accepted"}}
    host = settings(agents=[QWEN | exposed, CODER], edge={"names": ["2001:db8::11"]})
    assert said(host) == []
    assert said(host, ipv6=False) == [
        "clients should use the address 2001:db8::11, and this host has no IPv6 (ipv6.disable=1);"
        " correct edge.names",
        "agent 'qwen' is exposed to an IPv6 network, and this host has no IPv6 (ipv6.disable=1);"
        " take the network out of its expose.networks, or switch IPv6 on",
    ]


def test_room_for_the_image() -> None:
    def free(size: int, folder: str = "/var/lib/docker") -> dict[str, int]:
        return GOOD.free | {folder: size}

    assert said(free=free(40 * GIB)) == []
    assert said(free=free(40 * GIB - 1)) == [
        "/var/lib/docker has 40.0 GiB free, and the image needs 40 (vllm.image_disk); make room"
    ]
    assert said(free=free(0), has_image=True) == []


@pytest.mark.parametrize("folder", ["/run", "/tmp"])
def test_room_for_a_moment(folder: str) -> None:
    assert said(free=GOOD.free | {folder: 1 << 20}) == []
    assert said(free=GOOD.free | {folder: (1 << 20) - 1}) == [
        f"{folder} has 1023 KiB free, and 1 MiB is needed there for a moment; make room"
    ]


def test_room_for_models() -> None:
    cache = SETTINGS.vllm.cache_directory
    assert said(free=GOOD.free | {cache: 20 * GIB}) == []
    assert said(free=GOOD.free | {cache: 20 * GIB - 1}) == [
        f"{cache} has 20.0 GiB free, and 1 model(s) to download need 20 each (vllm.model_disk);"
        " make room"
    ]
    twice = settings(agents=[QWEN, QWEN | {"name": "again", "port": 8003, "gpus": [1]}])
    # One model, for two agents.
    assert said(twice, free=GOOD.free | {cache: 20 * GIB}) == []
    there = GOOD.present | {HUB}
    assert said(free=GOOD.free | {cache: 0}, present=there) == []


def test_models_on_the_host() -> None:
    assert said(present=frozenset()) == [
        "model /srv/models/coder of agent 'coder' is not a folder on this host; copy it there, set"
        " copy_from, or name a hub id"
    ]
    copied = settings(agents=[CODER | {"copy_from": "/models/coder"}])
    assert said(copied, present=frozenset()) == []
    damaged = {"/srv/models/coder": ModelFolder(b"", None, "holds no weights")}
    assert said(models=damaged) == ["model /srv/models/coder on this host holds no weights"]
    twice = settings(agents=[CODER, CODER | {"name": "twin", "port": 8003, "gpus": [0, 3],
                                             "served_model_name": "twin"}])  # fmt: skip
    there = (*GOOD.gpus, replace(GOOD.gpus[0], index=3))
    assert len(said(twice, models=damaged, gpus=there)) == 1
    assert said(models={"/srv/models/coder": ModelFolder(b"", None)}) == []


def test_cards_that_a_role_sees_to_are_no_obstacle() -> None:
    lost: dict[str, Any] = {"gpus": GOOD.gpus[:2], "gpus_lost": {2: "GPU is lost"}}
    assert len(said(**lost)) == 1
    assert said(INSTALL, **lost) == []
    # Unless it is none that a reboot brings back.
    [missing] = said(INSTALL, gpus=GOOD.gpus[:2])
    assert "asks for GPU 2" in missing
    silent: dict[str, Any] = {"gpus": (), "gpu_failure": failure("GPU is lost")}
    assert len(said(**silent)) == 1
    assert said(INSTALL, **silent) == []


def test_what_is_odd_and_prevents_nothing() -> None:
    odd = replace(GOOD, gpu_notes=("a", "b"), ipv6=False)
    no_ipv6 = "this host has no IPv6 (ipv6.disable=1); the edge listens on IPv4 alone"
    assert notes(SETTINGS, odd) == ["nvidia-smi says: a", "nvidia-smi says: b", no_ipv6]
    assert notes(SETTINGS, GOOD) == []


@pytest.mark.parametrize(
    ("host", "there", "asked"),
    [
        (INSTALL, replace(GOOD, gpu_failure=failure("x")), True),
        (INSTALL, GOOD, False),
        (SETTINGS, replace(GOOD, gpu_failure=failure("x")), False),
        (
            settings(agents=[QWEN | {"gpus": []}], nvidia={"driver": "install"}),
            replace(GOOD, gpu_failure=failure("x")),
            False,
        ),
    ],
)
def test_the_driver_s_archive_matters_where_a_deploy_names_it(
    host: HostSettings, there: System, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problem(*given: object, driver: bool) -> list[str]:
        assert given == (host, GOOD_RELEASE, {"/etc/apt/sources.list": "x"})
        return [str(driver)]

    monkeypatch.setattr(plan, "archive_problems", problem)
    files = {"/etc/apt/sources.list": "x"}
    assert archives(host, GOOD_RELEASE, there, files) == [str(asked)]


def test_images_have_a_place_of_their_own() -> None:
    there = ImagePlaces("docker", None, ("/data", 5 * GIB), ("/other", 0))
    assert said(images=there) == [
        "/data has 5.0 GiB free, and the image needs 40 (vllm.image_disk); make room"
    ]
