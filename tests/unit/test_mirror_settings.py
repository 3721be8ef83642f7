"""An inventory with a mirror: who asks it, and what is refused."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.unit.fleets import gateway, with_a_mirror
from tests.unit.projects import Project
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.host.mirror import client_files, image_key, mirrored_name, source_name
from vllm_hosts.host.models import download, models_for_others, through_mirror
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import closed_ports
from vllm_hosts.settings.fleet import inner_name
from vllm_hosts.settings.joined import joined
from vllm_hosts.settings.mirror import MirrorAt, asking_name
from vllm_hosts.settings.mirrored import (
    asking_networks,
    asks_from,
    mirror_contradictions,
    with_mirror,
)

AT = MirrorAt("gpu1", "192.0.2.11", 8444)
TWO = {"name": "gpu2", "address": "192.0.2.12"}


def of(*hosts: HostSettings) -> dict[str, HostSettings]:
    return {host.name: host for host in hosts}


def told(*hosts: HostSettings, mirrors: tuple[str, ...] = ("gpu1",)) -> list[str]:
    return [sentence for sentence, _ in mirror_contradictions(of(*hosts), mirrors)]


def test_without_a_mirror_every_host_is_what_it_was() -> None:
    hosts = of(settings(), settings(**TWO))
    assert list(mirror_contradictions(hosts, [])) == []
    assert all(with_mirror(hosts, [])[name] is host for name, host in hosts.items())
    assert (hosts["gpu1"].is_mirror, hosts["gpu1"].mirror_at) == (False, None)
    assert through_mirror(hosts["gpu1"]) == download(hosts["gpu1"])


def test_hosts_know_the_mirror_and_it_knows_them() -> None:
    hosts = with_a_mirror()
    assert [host.is_mirror for host in hosts.values()] == [True, False, False]
    assert hosts["gpu2"].mirror_at == hosts["gpu3"].mirror_at == AT
    assert hosts["gpu1"].mirror_at == MirrorAt("gpu1", "192.0.2.11", 8444, itself=True)
    assert [one.name for one in hosts["gpu1"].mirror_for] == ["gpu1", "gpu2", "gpu3"]
    assert asking_networks(hosts["gpu1"]) == [
        ip_network("192.0.2.12/32"),
        ip_network("10.0.0.0/24"),
        ip_network("2001:db8::7/128"),
    ]
    assert closed_ports(hosts["gpu1"]) == [8001, 8444]
    assert closed_ports(hosts["gpu2"]) == [8001]


def test_gateways_ask_no_mirror_and_what_is_both_may_be_one() -> None:
    hosts = of(gateway(), settings(), settings(**TWO))
    found = with_mirror(joined(hosts, ["gw1"]), ["gpu1"])
    assert found["gw1"].mirror_at is None
    assert [one.name for one in found["gpu1"].mirror_for] == ["gpu1", "gpu2"]
    both = with_mirror(joined(of(settings(), settings(**TWO)), ["gpu1"]), ["gpu1"])
    assert (both["gpu1"].is_mirror, both["gpu1"].is_gateway) == (True, True)


def test_the_mirror_fetches_what_others_need_once() -> None:
    hosts = with_a_mirror()
    found = [(one.model, one.revision) for one in models_for_others(hosts["gpu1"])]
    assert found == [("org/two", "main"), ("org/three", "v3")]
    assert through_mirror(hosts["gpu1"]).mirror is None
    way = through_mirror(hosts["gpu2"]).mirror
    assert way is not None
    assert (way.host, way.place, way.files) == ("gpu1", "192.0.2.11:8444", client_files(AT))


@pytest.mark.parametrize(
    ("hosts", "mirrors", "words"),
    [
        ([settings(), settings(**TWO)], ("gpu1", "gpu2"), "has 2 hosts (gpu1, gpu2)"),
        ([], ("a", "b", "c", "d"), "has 4 hosts (a, b, c)"),
        ([gateway("gpu1"), settings(**TWO)], ("gpu1",), "the mirror 'gpu1' runs no agents"),
        ([settings(address="127.0.0.1"), settings(**TWO)], ("gpu1",), "each of them itself"),
        ([settings(address="2001:db8::1"), settings(**TWO)], ("gpu1",), "an IPv4 address"),
        (
            [settings(), settings(name="gpu2", address="gpu2.example.com")],
            ("gpu1",),
            'come from, in its data: {"mirror": {"networks": ["192.0.2.7/32"]}}',
        ),
        ([settings(mirror={"port": 8001}), settings(**TWO)], ("gpu1",), "the port of agent 'qwen'"),
        ([settings(mirror={"port": 443}), settings(**TWO)], ("gpu1",), "is edge.https_port"),
        (
            [settings(firewall={"extra_tcp_ports": [8444]}), settings(**TWO)],
            ("gpu1",),
            "opens 8444 (mirror.port) to everybody, which only hosts of the inventory are to reach",
        ),
    ],
)
def test_what_is_no_mirror_is_refused(
    hosts: list[HostSettings], mirrors: tuple[str, ...], words: str
) -> None:
    [sentence] = told(*hosts, mirrors=mirrors)
    assert words in sentence


def test_the_port_for_gateways_is_another() -> None:
    hosts = joined(of(gateway(), settings(mirror={"port": 8443}), settings(**TWO)), ["gw1"])
    assert told(*hosts.values()) == ["mirror.port 8443 is gateway.port; set one of them to another"]


def test_a_name_says_nothing_of_where_connections_come_from() -> None:
    named = settings(name="gpu2", address="gpu2.example.com")
    assert asks_from(named) == ()
    hosts = with_mirror(of(settings(), named), ["gpu1"])
    assert asking_networks(hosts["gpu1"]) == []


def test_a_host_has_one_name_for_the_mirror_which_no_gateway_has() -> None:
    names = {asking_name(host) for host in ("gpu1", "gpu2", "gpu1.example.com")}
    assert len(names) == 3
    for name in names:
        assert re.fullmatch(r"asks\.mirror\.h[0-9a-f]{16}\.[a-z.-]+", name)
    assert asking_name("gpu1") == asking_name("gpu1") != inner_name("gpu1", "mirror")


def test_everybody_is_no_network_of_a_host() -> None:
    with pytest.raises(ValueError, match="the mirror is for hosts of the inventory only"):
        settings(mirror={"networks": ["0.0.0.0/0"]})


@pytest.mark.parametrize(
    ("image", "source"),
    [
        ("vllm/vllm-openai:v0.32.0", "vllm/vllm-openai:v0.32.0"),
        ("r.lab:5000/a/b", "r.lab:5000/a/b"),
        ("r.lab:5000/a/b:v1@sha256:" + "0" * 64, "r.lab:5000/a/b@sha256:" + "0" * 64),
        ("r.lab:5000/a/b@sha256:" + "0" * 64, "r.lab:5000/a/b@sha256:" + "0" * 64),
    ],
)
def test_images_are_asked_for_as_skopeo_has_them(image: str, source: str) -> None:
    assert source_name(image) == source


def test_an_image_s_name_at_the_mirror() -> None:
    key = image_key("vllm/vllm-openai:v0.32.0")
    name = mirrored_name(AT, "vllm/vllm-openai:v0.32.0")
    assert name == f"192.0.2.11:8444/{key}-$(uname -m):mirrored"
    assert len(key) == 16


def test_an_inventory_says_who_is_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path)
    monkeypatch.chdir(tmp_path)
    project.write(
        "inventory/prod.py",
        'gpu_hosts = ["192.0.2.1", "192.0.2.2"]\nmirror = ["192.0.2.2"]\n',
    )
    found = validate(load(tmp_path / "inventory/prod.py"))
    assert [host.is_mirror for host in found.values()] == [False, True]
    project.write(
        "inventory/scan.py",
        'gpu_hosts = ["192.0.2.1"]\nneighbours = ["192.0.2.2"]\nmirror = ["192.0.2.2"]\n',
    )
    with pytest.raises(SettingsError, match="is in the groups mirror and neighbours"):
        validate(load(tmp_path / "inventory/scan.py"))


CODER_ONLY = settings(agents=[CODER, QWEN | {"gpus": [0]}])


def test_a_folder_is_no_matter_of_the_mirror() -> None:
    hosts = with_mirror(of(CODER_ONLY, settings(**TWO)), ["gpu1"])
    assert models_for_others(hosts["gpu1"]) == []
