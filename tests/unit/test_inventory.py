"""How settings of several origins become one host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.projects import AGENT, Project
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return project


def hosts(project: Project) -> dict[str, HostSettings]:
    # By its whole path: pyinfra remembers what it has loaded under a name.
    return validate(load(project.folder / "inventory" / "prod.py"))


def test_sections_merge_and_the_nearest_wins(project: Project) -> None:
    project.write(
        "group_data/all.py", "edge = {'burst': 1, 'connections': 1, 'requests_per_second': 1}\n"
    )
    project.group(edge={"burst": 2, "connections": 2})
    project.write(
        "inventory/prod.py", "gpu_hosts = [('a', {'edge': {'burst': 3}}), ('b', {'x_rack': 7})]\n"
    )
    found = hosts(project)
    a, b = found["a"].edge, found["b"].edge
    assert (a.burst, a.connections, a.requests_per_second) == (3, 2, 1)
    assert (b.burst, b.connections, b.requests_per_second) == (2, 2, 1)


def test_agents_of_a_host_replace_those_of_its_group(project: Project) -> None:
    own = [dict(AGENT, name="own")]
    project.write("inventory/prod.py", f"gpu_hosts = ['a', ('b', {{'agents': {own!r}}})]\n")
    names = {name: [agent.name for agent in host.agents] for name, host in hosts(project).items()}
    assert names == {"a": ["one"], "b": ["own"]}


def test_the_address_is_what_ssh_connects_to(project: Project) -> None:
    project.write("inventory/prod.py", "gpu_hosts = [('a', {'ssh_hostname': '192.0.2.7'}), 'b.c']")
    found = hosts(project)
    assert (found["a"].address, found["b.c"].address) == ("192.0.2.7", "b.c")
    assert found["a"].edge_names == ("192.0.2.7",)


def test_this_machine_itself_needs_an_address(project: Project) -> None:
    project.write("inventory/prod.py", "gpu_hosts = ['@local']")
    with pytest.raises(SettingsError, match="'@local' has no address that clients can use"):
        hosts(project)


def test_this_machine_itself_with_an_address(project: Project) -> None:
    project.write("inventory/prod.py", "gpu_hosts = [('@local', {'ssh_hostname': '192.0.2.7'})]")
    assert hosts(project)["@local"].edge_names == ("192.0.2.7",)


def test_a_problem_says_which_layer_and_which_hosts(project: Project) -> None:
    project.write(
        "inventory/prod.py",
        "gpu_hosts = ['a', ('b', {'edge': {'burst': -1}}), ('c', {'edge': {'burst': -1}})]\n",
    )
    with pytest.raises(SettingsError) as refused:
        hosts(project)
    assert refused.value.problems == [
        "the inventory: edge.burst must be at least 0, not -1 (on b, c)"
    ]


def test_names_for_pyinfra_are_no_settings(project: Project) -> None:
    data = {"ssh_user": "u", "ssh_port": 22, "_sudo": True, "ssh_known_hosts_file": "k", "x_y": 1}
    project.write("inventory/prod.py", f"gpu_hosts = [('a', {data!r})]\n")
    assert hosts(project)["a"].name == "a"
