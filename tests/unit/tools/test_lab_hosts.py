"""Which hosts the lab has, and what its inventory with gateways says about them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from lab import archive, hosts, layout, network
from tests.lab import fleet_many
from tests.unit.projects import ROOT
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.roles.nginx.worker_connections import open_files, worker_connections

FLEET = ROOT / "inventory/lab_fleet.py"


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hosts.json"
    monkeypatch.setattr(hosts, "_LIST", path)
    monkeypatch.setattr(network, "is_up", lambda: True)
    monkeypatch.setattr(archive, "fingerprints", lambda: {"docker": "A" * 40, "nvidia": "B" * 40})
    return path


def boots(path: Path, *words: Any) -> None:
    path.write_text(json.dumps([found.name for found in hosts._wanted(*words)]))


def test_every_host_has_a_name_and_addresses_of_its_own() -> None:
    every = [*layout.gpu_hosts(9), *layout.gateways(9), *layout.FURTHER.values(), layout.NEIGHBOUR]
    for what in ("name", "ipv4", "ipv6"):
        assert len({getattr(one, what) for one in every}) == len(every)
    assert {hosts.host(one.name) for one in every} == set(every)


def test_gateways_are_no_gpu_hosts(listed: Path) -> None:
    boots(listed, 3, ["debian12"], 2)
    assert hosts.gpu_host_names() == ["gpu1", "gpu2", "gpu3", "debian12"]
    assert hosts.gateway_names() == ["gw1", "gw2"]
    assert {hosts.host(name).gpus for name in hosts.gateway_names()} == {0}
    assert hosts.are(3, ["debian12"], 2)
    assert not hosts.are(3, ["debian12"])
    boots(listed, 2, [], 0)
    assert hosts.gateway_names() == []
    assert hosts.are(2)


def test_the_inventory_with_gateways(listed: Path) -> None:
    boots(listed, 3, [], 2)
    found = runpy.run_path(str(FLEET))
    agents = {name: [one["name"] for one in data["agents"]] for name, data in found["gpu_hosts"]}
    assert agents == {"gpu1": ["chat", "draft"], "gpu2": ["chat"], "gpu3": ["chat"]}
    models = {one["served_model_name"] for _, data in found["gpu_hosts"] for one in data["agents"]}
    assert len(models) == 2
    assert [name for name, _ in found["gateways"]] == ["gw1", "gw2"]
    assert not any("agents" in data for _, data in found["gateways"])
    names, settings = found["lab"]
    assert names == ["gw1", "gw2", "gpu1", "gpu2", "gpu3"]
    assert "agents" not in settings
    assert settings["edge"]["expected_clients"] * settings["edge"]["connections"] < 5000


def test_the_settings_of_the_fleet_make_sense(listed: Path) -> None:
    boots(listed, 3, [], 2)
    found = validate(load(FLEET))
    assert {name for name, host in found.items() if host.is_gateway} == {"gw1", "gw2"}
    pools = {pool.model: [one.host for one in pool.replicas] for pool in found["gw1"].pools}
    assert pools == {"lab/chat": ["gpu1", "gpu2", "gpu3"], "lab/draft": ["gpu1"]}
    assert all(found[host].behind_gateways for host in ("gpu1", "gpu2", "gpu3"))


def test_two_hosts_that_are_gateways_as_well(listed: Path) -> None:
    boots(listed, 2, [], 0)
    found = validate(load(ROOT / "inventory/lab_both.py"))
    assert list(found) == ["gpu1", "gpu2"]
    assert all(host.is_gateway and host.runs_agents for host in found.values())
    assert [len(host.own_agents) for host in found.values()] == [2, 1]
    assert {one.model for one in found["gpu2"].edge_side.pools} == {"lab/chat", "lab/draft"}
    # This machine may not give a process more than 20,000 open files.
    for host in found.values():
        wanted = worker_connections(host.edge, host.gateways, both=True)
        assert open_files(wanted) < 20_000


def test_one_run_s_settings_are_its_hosts_(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boots(listed, 2, [], 1)
    other = {"name": "other"}
    changed = {"hosts": {"gpu2": {"agents": [other]}}, "gateway": {"drain_timeout": 5}}
    monkeypatch.setenv("LAB_SETTINGS", json.dumps(changed))
    found = runpy.run_path(str(FLEET))
    assert dict(found["gpu_hosts"])["gpu2"]["agents"] == [other]
    assert len(dict(found["gpu_hosts"])["gpu1"]["agents"]) == 2
    assert found["lab"][1]["gateway"] == {"drain_timeout": 5}


def test_without_gateways_it_says_how_to_have_some(listed: Path) -> None:
    boots(listed, 2, [], 0)
    with pytest.raises(RuntimeError, match="make lab-up HOSTS=3 GATEWAYS=2"):
        runpy.run_path(str(FLEET))


def test_the_inventory_of_stand_ins(listed: Path, tmp_path: Path) -> None:
    """One gateway in front of as many agents as issue 16 wants, at addresses of no lab host."""
    boots(listed, 2, [], 3)
    path = tmp_path / "inventory/many.py"
    path.parent.mkdir()
    path.write_text(fleet_many._TEXT)
    found = validate(load(path))
    gateway = found[fleet_many.GATEWAY]
    assert [len(pool.replicas) for pool in gateway.pools] == [50] * 4
    replicas = [one for pool in gateway.pools for one in pool.replicas]
    assert len({(one.address, one.inner_name) for one in replicas}) == 200
    every = [*layout.gpu_hosts(9), *layout.gateways(9), *layout.FURTHER.values(), layout.NEIGHBOUR]
    assert {one.address for one in replicas}.isdisjoint(str(one.ipv4) for one in every)
