"""One address for all gateways: what may be set, what is refused, and what clients are told."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fleets import fleet, gateway
from tests.unit.projects import AGENT, Project
from tests.unit.samples import settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import VirtualAddress
from vllm_hosts.settings.virtual import virtual_contradictions, virtual_of

PROD = "inventory/prod.py"
SHARED = {"virtual_ip": "192.0.2.9"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.chdir(tmp_path)
    project.write(
        PROD,
        "gateways = ['192.0.2.1', ('gw2', {'ssh_hostname': '192.0.2.2'})]\n"
        "gpu_hosts = ['192.0.2.11', '192.0.2.12']\n",
    )
    return project


def hosts(project: Project) -> dict[str, HostSettings]:
    return validate(load(project.folder / PROD))


def refused(project: Project) -> str:
    with pytest.raises(SettingsError) as error:
        hosts(project)
    [problem] = error.value.problems
    return problem


def shares(project: Project, **values: Any) -> None:
    project.write("group_data/gateways.py", f"gateway = {SHARED | values!r}\n")


def test_each_gateway_knows_the_address_and_the_others(project: Project) -> None:
    shares(project)
    found = hosts(project)
    address, first, second = (IPv4Address(f"192.0.2.{n}") for n in (9, 1, 2))
    assert found["192.0.2.1"].virtual == VirtualAddress(address, first, (second,), 0)
    assert found["gw2"].virtual == VirtualAddress(address, second, (first,), 1)
    assert found["192.0.2.11"].virtual is None


def test_hosts_that_are_no_gateways_may_have_the_setting_too(project: Project) -> None:
    project.write("group_data/all.py", f"gateway = {SHARED!r}\n")
    assert {name for name, one in hosts(project).items() if one.virtual} == {"192.0.2.1", "gw2"}


def test_without_the_setting_nothing_is_shared(project: Project) -> None:
    assert [one.virtual for one in hosts(project).values()] == [None] * 4


def test_the_certificate_has_the_address(project: Project) -> None:
    def names(edge: dict[str, Any], **more: Any) -> tuple[str, ...]:
        return fleet({"gateway": SHARED, "edge": edge} | more)["gw1"].edge_names

    assert names({}) == ("192.0.2.9", "192.0.2.1")
    assert names({"names": ["llm.example.com"]}) == ("llm.example.com", "192.0.2.9")
    assert names({"names": ["192.0.2.9", "a.b"]}) == ("192.0.2.9", "a.b")
    # What is theirs need not have it.
    files = {"mode": "files", "certificate": "/a.pem", "key": "/a.key"}
    assert names({"names": ["llm.example.com"]}, tls=files) == ("llm.example.com",)


def test_clients_are_told_of_one_address(project: Project) -> None:
    shares(project)
    done = project.run("vllm-hosts", "endpoints", PROD, "--json")
    assert [one["base_url"] for one in json.loads(done.stdout)] == ["https://192.0.2.9/v1"]
    shown = project.run("vllm-hosts", "check", PROD).stdout
    assert shown.count("  shares 192.0.2.9 with the other gateways\n") == 2


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("llm.example.com", "'llm.example.com' is not an address; write it like '192.0.2.9'"),
        ("192.0.2.9/24", "'192.0.2.9/24' is not an address"),
        (7, "is not an address"),
        ("127.0.0.9", "127.0.0.9 is a loopback address; write one of the network that the"),
        ("224.0.0.18", "224.0.0.18 is a multicast address"),
        ("0.0.0.0", "0.0.0.0 is no address at all"),
        ("169.254.1.1", "169.254.1.1 is a link-local address"),
        ("255.255.255.255", "255.255.255.255 is a reserved address"),
        ("fe80::9", "fe80::9 is a link-local address"),
    ],
)
def test_what_is_no_address_of_a_machine(project: Project, address: object, says: str) -> None:
    project.write("group_data/gateways.py", f"gateway = {{'virtual_ip': {address!r}}}\n")
    problem = refused(project)
    assert problem.startswith("group_data/gateways.py: gateway.virtual_ip")
    assert says in problem


@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.2", "192.0.2.12"])
def test_no_machine_has_it_for_itself(project: Project, address: str) -> None:
    project.write("group_data/gateways.py", f"gateway = {{'virtual_ip': {address!r}}}\n")
    name = "gw2" if address == "192.0.2.2" else address
    assert refused(project) == (
        f"gateway.virtual_ip {address} is the own address of {name}, and no machine may have it for"
        " itself; choose a free one of the same network"
    )


def test_one_gateway_has_nobody_to_share_with(project: Project) -> None:
    shares(project)
    project.write(PROD, "gateways = ['192.0.2.1']\ngpu_hosts = ['192.0.2.11']\n")
    assert refused(project).startswith(
        "gateway.virtual_ip 192.0.2.9 is for two gateways or more, and 192.0.2.1 is the only one"
    )


def test_all_gateways_share_the_same(project: Project) -> None:
    project.write(
        PROD,
        "gateways = [('192.0.2.1', {'gateway': {'virtual_ip': '192.0.2.9'}}), '192.0.2.2']\n"
        "gpu_hosts = ['192.0.2.11']\n",
    )
    assert refused(project) == (
        "gateway.virtual_ip is 192.0.2.9 for 192.0.2.1, none for 192.0.2.2, and all gateways of an"
        " inventory share one; set it in group_data/gateways.py"
    )


def test_clients_use_the_same_port_at_all_of_them(project: Project) -> None:
    shares(project)
    project.write(
        PROD,
        "gateways = [('192.0.2.1', {'edge': {'https_port': 8443}}), '192.0.2.2']\n"
        "gpu_hosts = ['192.0.2.11']\n",
    )
    assert refused(project).startswith("edge.https_port is 8443 for 192.0.2.1, 443 for 192.0.2.2,")


def test_a_gateway_that_is_entered_by_name_says_its_address(project: Project) -> None:
    shares(project)
    networks = "'networks': ['192.0.2.2/32']"
    project.write(
        PROD,
        f"gateways = ['192.0.2.1', ('gw2.example.com', {{'gateway': {{{networks}}}}})]\n"
        "gpu_hosts = ['192.0.2.11']\n",
    )
    problem = refused(project)
    assert "the gateway gw2.example.com speaks with the others from an IPv4 address" in problem
    assert '{"gateway": {"virtual_source": "ADDRESS"}}' in problem
    own = "'virtual_source': '192.0.2.2'"
    other = "inventory/other.py"
    project.write(
        other,
        f"gateways = ['192.0.2.1', ('gw2.example.com', {{'gateway': {{{networks}, {own}}}}})]\n"
        "gpu_hosts = ['192.0.2.11']\n",
    )
    shared = validate(load(project.folder / other))["192.0.2.1"].virtual
    assert shared is not None
    assert shared.peers == (IPv4Address("192.0.2.2"),)


def test_addresses_are_of_one_kind(project: Project) -> None:
    shares(project, virtual_ip="2001:db8::9")
    with pytest.raises(SettingsError) as error:
        hosts(project)
    assert len(error.value.problems) == 2
    assert "from an IPv6 address" in error.value.problems[0]


def test_two_gateways_do_not_speak_from_one_address(project: Project) -> None:
    shares(project, virtual_source="192.0.2.3")
    assert "gw2 would speak with each other from the same address 192.0.2.3" in refused(project)


def test_numbers_of_routers_follow_from_the_address() -> None:
    def number(address: str) -> int:
        own = IPv4Address("192.0.2.1")
        return VirtualAddress(IPv4Address(address), own, (), 0).router_id

    assert len({number(f"192.0.2.{n}") for n in range(255)}) == 255
    assert {number(f"10.{n}.0.9") for n in range(256)} <= set(range(1, 256))


def test_three_gateways_take_over_one_after_the_other() -> None:
    front = [gateway(f"gw{n}", address=f"192.0.2.{n}", gateway=SHARED) for n in (1, 2, 3)]
    assert list(virtual_contradictions(front, [settings()])) == []
    found = [virtual_of(one, front) for one in front]
    assert [one.place for one in found if one] == [0, 1, 2]
    assert [len(one.peers) for one in found if one] == [2, 2, 2]


def test_an_agent_s_host_has_no_part_in_it(project: Project) -> None:
    shares(project)
    project.group(agents=[AGENT])
    behind = hosts(project)["192.0.2.11"]
    assert behind.edge_names == ("192.0.2.11",)
