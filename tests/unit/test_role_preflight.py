"""Which looks the preflight takes of which host, and that nothing of what they find is dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hosts.facts.docker_state import DockerState
from vllm_hosts.facts.system import SystemState
from vllm_hosts.operations import outside
from vllm_hosts.roles import preflight as role

#: What judges a host, and what the look at it is part of.
JUDGES = (
    *("problems", "unit_problems", "haproxy_problems", "reach_problems", "virtual_problems"),
    *("mirror_room", "archives", "site_problems", "strangers"),
)


@dataclass(frozen=True)
class Seen:
    """The part of a host's system that the role itself goes by."""

    user: str = "0"
    docker: str = ""
    images: tuple[str, ...] = ()
    swarm: str = ""
    trouble: str = ""
    models: tuple[str, ...] = ()

    @property
    def smi(self) -> Any:
        return SimpleNamespace(trouble=lambda gpus: self.trouble)

    @property
    def project_ports(self) -> dict[str, set[int]]:
        return {"/opt/vllm": {8001}}


@dataclass
class Host:
    """A host with a problem of each kind, unless it is taken away."""

    system: Seen = Seen()
    wrong: set[str] = field(default_factory=lambda: {*JUDGES})
    said: list[str] = field(default_factory=list)
    looks: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: list[tuple[Any, ...]] = field(default_factory=list)
    given: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    haproxy: dict[str, str] = field(default_factory=lambda: {"haproxy": "2"})

    def look(self, fact: type, **given: Any) -> Any:
        self.looks[f"{fact.__name__} {given['names']}" if "names" in given else fact.__name__] = (
            given
        )
        if fact is SystemState:
            return self.system
        if fact is DockerState:
            return SimpleNamespace(there="26", images=("image",), swarm="a manager")
        if fact.__name__ == "DockerUnit":
            return Seen(swarm="unknown")
        return SimpleNamespace(name=fact.__name__, versions=self.haproxy)

    def judge(self, name: str) -> Callable[..., list[str]]:
        def judged(*given: Any, **options: Any) -> list[str]:
            self.given[name] = given, options
            return [name] if name in self.wrong else []

        return judged


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(role, "look", host.look)
    for name in JUDGES:
        monkeypatch.setattr(role, name, host.judge(name))
    monkeypatch.setattr(role, "say", host.said.extend)
    monkeypatch.setattr(role, "notes", lambda *_: ["notes"])
    monkeypatch.setattr(role, "memory", lambda *_: ["memory"])
    monkeypatch.setattr(role, "occupied", lambda *_: ["occupied"])
    monkeypatch.setattr(role, "models_of", lambda *_: {})
    monkeypatch.setattr(role, "cards", lambda *_: ("card",))
    monkeypatch.setattr(role, "site_ports", lambda sites: f"ports of {sites.name}")
    monkeypatch.setattr(role, "replicas_elsewhere", lambda settings: settings.others)
    monkeypatch.setattr(role, "closed_ports", lambda settings: [8001])
    monkeypatch.setattr(role, "folders", lambda settings: ["/folder"])
    monkeypatch.setattr(role, "model_folders", lambda settings: ["/model", "/b"])
    monkeypatch.setattr(role, "own_folders", lambda settings: ["/a", "/b"])
    monkeypatch.setattr(
        outside, "begin_ahead", lambda *given, **options: host.begun.append((*given, options))
    )
    return host


def settings(**changed: Any) -> Any:
    """A GPU host's, with what this role asks of them."""
    return SimpleNamespace(
        **{
            "runs_agents": True,
            "is_gateway": False,
            "is_mirror": False,
            "needs_gpu": True,
            "gpus": [0],
            "address": "192.0.2.1",
            "capacity": SimpleNamespace(preflight="warn"),
            "vllm": SimpleNamespace(image="image", fetch_user="7:8", directory="/opt/vllm"),
            "edge": SimpleNamespace(https_port=443),
            "secrets": "secrets",
            "others": [SimpleNamespace(address="b"), SimpleNamespace(address="a")],
            "virtual": SimpleNamespace(address="192.0.2.9", peers=["192.0.2.2"]),
            **changed,
        }
    )


def test_a_gpu_host(host: Host) -> None:
    # Archives are only asked about where all else is well.
    assert role._problems(settings()) == [
        "problems", "unit_problems", "site_problems", "strangers"
    ]  # fmt: skip
    assert host.said == ["notes", "memory", "occupied"]
    assert host.begun == [("192.0.2.1", [8001], {"answering": 443})]
    assert host.looks["SystemState"] == {
        "folders": ["/folder"],
        "image": "image",
        "reader": "7:8",
        "models": ["/a", "/b", "/model"],
    }
    # What Docker itself says is what the others go by.
    (_, _, system), _ = host.given["problems"]
    assert (system.docker, system.images, system.swarm) == ("26", ("image",), "a manager")
    assert host.given["unit_problems"][0][1].swarm == "a manager"
    assert host.given["strangers"][1] == {"own": {8001}, "of_sites": "ports of NginxSites"}


def test_archives_are_asked_about_where_all_else_is_well(host: Host) -> None:
    host.wrong = {"archives"}
    assert role._problems(settings()) == ["archives"]
    host.wrong = {"archives", "problems"}
    assert role._problems(settings()) == ["problems"]


def test_who_is_not_root_does_not_see_others_programs(host: Host) -> None:
    host.system = Seen(user="1000")
    assert role._problems(settings()) == ["problems", "unit_problems"]
    assert "ListeningSockets" not in host.looks


def test_a_gpu_host_that_is_a_gateway_or_a_mirror_too(host: Host) -> None:
    front = ["haproxy_problems", "reach_problems", "virtual_problems"]
    found = role._problems(settings(is_gateway=True))
    assert found[:5] == ["problems", "unit_problems", *front]
    found = role._problems(settings(is_mirror=True))
    assert found[:3] == ["problems", "unit_problems", "mirror_room"]


@pytest.mark.parametrize(
    ("changed", "trouble"),
    [
        ({"needs_gpu": False}, ""),
        ({"capacity": SimpleNamespace(preflight="off")}, ""),
        ({}, "no driver"),
    ],
)
def test_nothing_is_planned_without_cards_or_where_nobody_asks(
    host: Host, changed: dict[str, Any], trouble: str
) -> None:
    host.system = Seen(trouble=trouble)
    assert "strangers" in role._problems(settings(**changed))
    assert host.said == ["notes"]
    # Models that the host has are looked for where they are planned with.
    assert ("/model" in host.looks["SystemState"]["models"]) == bool(trouble)


def test_a_gateway_by_itself(host: Host) -> None:
    alone = settings(runs_agents=False, is_gateway=True)
    assert role._problems(alone) == [
        *("problems", "haproxy_problems", "reach_problems", "virtual_problems"),
        *("site_problems", "strangers"),
    ]
    assert host.said == ["notes"] and host.begun == []
    assert host.looks["SystemState"]["models"] == []
    assert "AptPackages ['haproxy']" in host.looks
    assert host.looks["WaysToHosts"] == {"hosts": ["a", "b"]}
    assert host.looks["VirtualGround"] == {"address": "192.0.2.9", "peers": ["192.0.2.2"]}
    assert host.given["strangers"][1]["own"] == set()
    host.system = Seen(user="1000")
    assert role._problems(alone)[-1] == "virtual_problems"


@pytest.mark.parametrize("installed", [{}, {"haproxy": "2"}])
def test_archives_are_asked_for_haproxy_where_there_is_none(
    host: Host, installed: dict[str, str]
) -> None:
    host.haproxy = installed
    role._problems(settings(runs_agents=False, is_gateway=True))
    (_, had, offered), _ = host.given["haproxy_problems"]
    assert had == installed and bool(offered) is not bool(installed)
    assert ("AptVersions ['haproxy']" in host.looks) is not bool(installed)


def test_a_gateway_without_others_or_a_shared_address(host: Host) -> None:
    alone = settings(runs_agents=False, is_gateway=True, others=[], virtual=None)
    assert role._problems(alone)[:3] == ["problems", "haproxy_problems", "site_problems"]
    assert "WaysToHosts" not in host.looks and "VirtualGround" not in host.looks


def test_the_hub_is_asked_once_for_a_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, float]] = []

    def client(token: object, *, seconds: int, rest: Any) -> str:
        made.append((seconds, rest.total_seconds()))
        return "client"

    monkeypatch.setattr(role, "HubClient", client)
    monkeypatch.setattr(role, "_hubs", {})
    for _ in range(2):
        role._problems(settings())
    assert made == [(5, 3600)]
