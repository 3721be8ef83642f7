"""Inventories with gateways: what the group means, and what is refused of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.projects import AGENT, Project
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.inventory import gateways, load, validate
from vllm_hosts.settings import HostSettings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.chdir(tmp_path)
    project.write(
        "inventory/prod.py",
        "gateways = ['192.0.2.1', ('gw2', {'ssh_hostname': '192.0.2.2'})]\n"
        "gpu_hosts = ['192.0.2.11', '192.0.2.12']\n",
    )
    return project


def hosts(project: Project) -> dict[str, HostSettings]:
    return validate(load(project.folder / "inventory" / "prod.py"))


def refused(project: Project) -> list[str]:
    with pytest.raises(SettingsError) as error:
        hosts(project)
    return error.value.problems


def test_a_gateway_needs_no_agents_and_has_data_of_its_own(project: Project) -> None:
    project.write("group_data/all.py", "edge = {'burst': 5}\n")
    project.write("group_data/gateways.py", "edge = {'requests_per_second': 7}\n")
    found = hosts(project)
    assert gateways(load(project.folder / "inventory" / "prod.py")) == ["192.0.2.1", "gw2"]
    for name in ("192.0.2.1", "gw2"):
        edge = found[name].edge
        assert (edge.burst, edge.requests_per_second) == (5, 7)
        assert [replica.host for replica in found[name].pools[0].replicas] == [
            "192.0.2.11",
            "192.0.2.12",
        ]
    assert found["192.0.2.11"].edge.requests_per_second == 20
    assert [known.name for known in found["192.0.2.12"].gateways] == ["192.0.2.1", "gw2"]


def test_hosts_of_an_inventory_without_gateways_know_of_none(project: Project) -> None:
    project.write("inventory/prod.py", "gpu_hosts = ['192.0.2.11']\n")
    [host] = hosts(project).values()
    assert (host.pools, host.gateways, host.behind_gateways) == ((), (), False)


@pytest.mark.parametrize("name", ["gateways", "all"])
def test_agents_for_a_gateway_are_refused(project: Project, name: str) -> None:
    project.write(f"group_data/{name}.py", f"agents = [{AGENT!r}]\n")
    [problem] = refused(project)
    assert problem == (
        f"group_data/{name}.py: agents are set for a host of the group gateways, which runs none;"
        " set them in group_data/gpu_hosts.py, for the hosts of that group (on 192.0.2.1, gw2)"
    )


@pytest.mark.parametrize("group", ["gpu_hosts", "neighbours"])
def test_a_gateway_is_nothing_else(project: Project, group: str) -> None:
    inventory = "gateways = ['192.0.2.1']\ngpu_hosts = ['192.0.2.11']\n"
    project.write("inventory/prod.py", f"{inventory}{group} = ['192.0.2.1', '192.0.2.9']\n")
    [problem] = refused(project)
    assert problem == (
        f"the inventory: '192.0.2.1' is in the groups gateways and {group}, and a gateway is that"
        " alone; leave it in one of them, and use another machine for the other"
    )


def test_no_host_behind_a_gateway_is_refused(project: Project) -> None:
    project.write("inventory/prod.py", "gateways = ['192.0.2.1']\n")
    [problem] = refused(project)
    assert problem.startswith("the inventory: no host is behind the gateways 192.0.2.1; add hosts")


def test_a_problem_of_all_hosts_behind_names_them(project: Project) -> None:
    project.group(firewall={"extra_tcp_ports": [8443]})
    [problem] = refused(project)
    assert problem.endswith("or set gateway.port (on 192.0.2.11, 192.0.2.12)")


def test_what_is_wrong_with_one_host_comes_first(project: Project) -> None:
    project.write("group_data/gateways.py", "edge = {'timeout': 7200, 'burst': -1}\n")
    [problem] = refused(project)
    assert problem.startswith("group_data/gateways.py: edge.burst must be at least 0")
