"""What a run and a command know of their project: who is what, and what the store claims."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from tests.stores import made
from tests.unit.fleets import both, fleet
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_inventory_letter import groups
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.store_content import DeployedHost
from vllm_hosts.project import loaded
from vllm_hosts.project.loaded import Project
from vllm_hosts.settings import HostSettings

FILE = Path("inventory/prod.py")


def project(
    folder: Path, known: dict[str, HostSettings] | None = None, **hosts: list[str]
) -> Project:
    """One with these groups of hosts, whose settings are validated already."""
    store = KeyStore(folder / "prod.py")
    found = Project(FILE, groups(None, **hosts), store)
    vars(found)["settings"] = known or {}
    return found


def test_who_is_what(tmp_path: Path) -> None:
    alone = project(tmp_path, gpu_hosts=["a", "b"], neighbours=["n"])
    assert (alone.hosts, alone.gateways, alone.neighbours) == (("a", "b"), (), ("n",))
    assert alone.edges == ("a", "b")
    behind = project(tmp_path, gpu_hosts=["a"], gateways=["gw"])
    assert (behind.hosts, behind.gateways, behind.neighbours) == (("a", "gw"), ("gw",), ())
    # Clients know the gateways alone.
    assert behind.edges == ("gw",)


def test_how_many_hosts_serve_a_model(tmp_path: Path) -> None:
    twin = QWEN | {"name": "twin", "port": 8003, "gpus": [3], "served_model_name": "qwen"}
    named = QWEN | {"served_model_name": "qwen"}
    gateway = fleet()["gw1"]
    assert gateway.agents and not gateway.runs_agents
    known = {
        "a": settings(agents=[named, twin, CODER]),
        "b": settings(agents=[named]),
        "gw": gateway,
    }
    assert project(tmp_path, known).on_hosts == {"qwen": 2, "coder-14b": 1}


def test_settings_are_checked_once_and_nobody_changes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = project(tmp_path, gpu_hosts=["a"])
    del vars(found)["settings"]
    asked: list[object] = []

    def validate(inventory: object) -> dict[str, HostSettings]:
        asked.append(inventory)
        return {"a": settings(name="a")}

    monkeypatch.setattr(loaded, "validate", validate)
    assert list(found.settings) == ["a"] == list(found.keys)
    assert found.settings is found.settings and found.keys is found.keys
    assert asked == [found.inventory]
    for values in (found.settings, found.keys):
        with pytest.raises(TypeError):
            values["b"] = None  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        found.file = Path("b")  # type: ignore[misc]
    # One by one: two of the same file are two.
    assert len({found, project(tmp_path)}) == 2


def test_it_is_loaded_with_a_store_of_its_own_or_one_that_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "load", lambda file: ("loaded", file))
    found: Any = Project.load(FILE)
    assert (found.file, found.inventory) == (FILE, ("loaded", FILE))
    assert found.store.path == KeyStore(FILE).path
    store = KeyStore(tmp_path / "prod.py")
    assert Project.load(FILE, store).store is store


def test_hosts_that_only_the_store_remembers(tmp_path: Path) -> None:
    found = project(tmp_path, gpu_hosts=["a"], neighbours=["n"])
    content = made(found.store)
    hosts = {name: DeployedHost(data={}) for name in ("a", "gone", "n")}
    assert found.left(None) == []
    assert found.left(content.__class__(**{**vars(content), "hosts": hosts})) == ["gone", "n"]


class TestClaims:
    def claim(self, folder: Path, known: HostSettings) -> Any:
        return project(folder, {"a": known}, gpu_hosts=["a"]).claim("a")

    def test_on_a_host_with_an_edge_of_its_own(self, tmp_path: Path) -> None:
        made = project(
            tmp_path,
            {"a": settings(agents=[QWEN, CODER], vllm={"directory": "/opt/v"})},
            gpu_hosts=["a"],
        )
        claim = made.claim("a")
        assert (claim.host, claim.inventory, claim.directory) == ("a", FILE, "/opt/v")
        assert claim.opened is made.opened
        assert claim.way == DeployedHost(data={}, agents=("qwen", "coder"), behind=False)
        assert claim.own_keys

    def test_on_one_behind_gateways(self, tmp_path: Path) -> None:
        claim = self.claim(tmp_path, fleet()["gpu1"])
        assert claim.way.behind and claim.own_keys

    def test_on_a_gateway(self, tmp_path: Path) -> None:
        """It has no agents of its own, by whose keys the store would know it."""
        claim = self.claim(tmp_path, fleet()["gw1"])
        assert not claim.own_keys and not claim.way.behind
        assert claim.way.agents == tuple(one.name for one in fleet()["gw1"].edge_side.agents)

    def test_on_one_that_is_both(self, tmp_path: Path) -> None:
        [one, *_] = both().values()
        assert one.behind_gateways and one.is_gateway
        claim = self.claim(tmp_path, one)
        assert not claim.way.behind and claim.own_keys

    @pytest.mark.parametrize(
        "secrets", [{"internal_key_env": "KEY"}, {"internal_key_command": "pass key"}]
    )
    def test_on_one_whose_keys_are_elsewhere(
        self, tmp_path: Path, secrets: dict[str, object]
    ) -> None:
        """They say nothing of whose host it is."""
        assert not self.claim(tmp_path, settings(secrets=secrets)).own_keys


def test_a_store_that_is_damaged_is_said_when_it_is_opened(tmp_path: Path) -> None:
    found = project(tmp_path, gpu_hosts=["a"])
    made(found.store)
    found.store.path.write_text("{")
    with pytest.raises(SettingsError):
        _ = found.opened.content
