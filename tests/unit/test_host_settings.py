"""Settings of one host, where sections are compared: what is refused, and what follows."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.samples import CODER, GATEWAYS, POOLS, QWEN, behind, gateway, settings
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import VirtualAddress
from vllm_hosts.settings.host import OF_A_GATEWAY
from vllm_hosts.settings.types import AcrossError

#: A second agent on a card of its own.
TWO: dict[str, Any] = {"name": "two", "model": "org/other", "port": 8002, "gpus": [1]}


def two(**changes: Any) -> list[dict[str, Any]]:
    return [QWEN, TWO | changes]


def refused(**values: Any) -> tuple[str, str | None]:
    """The sentence, and the section whose file it names."""
    with pytest.raises(ValidationError) as error:
        settings(**values)
    [problem] = error.value.errors()
    cause = problem["ctx"]["error"]
    return str(cause), cause.section if isinstance(cause, AcrossError) else None


# Agents beside each other.


def test_only_a_gateway_has_no_agents_of_its_own() -> None:
    assert refused(agents=[]) == ("agents is empty; add at least one agent", "agents")
    bare = {"name": "gw1", "address": "192.0.2.21", "agents": []}
    assert HostSettings.model_validate(bare, context=OF_A_GATEWAY).agents == ()
    with pytest.raises(ValidationError):
        HostSettings.model_validate(bare, context={"gateway": False})


def test_each_agent_has_a_name_and_a_port_of_its_own() -> None:
    three = [*two(), TWO | {"name": "qwen", "port": 8003, "gpus": [2]}]
    assert refused(agents=three) == (
        "two agents have the name 'qwen', agents[0] and agents[2]; each needs its own",
        "agents",
    )
    assert refused(agents=[*two(), TWO | {"name": "three", "gpus": [2]}]) == (
        "agents 'two' and 'three' both have port 8002; each needs its own",
        "agents",
    )


@pytest.mark.parametrize("setting", ["https_port", "http_port"])
def test_no_agent_takes_a_port_of_the_edge(setting: str) -> None:
    assert refused(agents=two(), edge={setting: 8002}) == (
        f"agent 'two' has port 8002, which is edge.{setting}; give it another",
        "agents",
    )


def test_no_agent_hides_the_api() -> None:
    assert refused(agents=two(name="v1")) == (
        "agent 'v1' would have the API's own path; give it another name",
        "agents",
    )


def test_agents_on_one_card_fit_into_it() -> None:
    shares = [
        QWEN | {"gpu_memory_utilization": 0.5},
        TWO | {"gpus": [1, 0], "gpu_memory_utilization": 0.51},
    ]
    assert refused(agents=shares) == (
        "agents 'qwen' (0.5) and 'two' (0.51) ask for 1.01 of GPU 0's memory; lower"
        " gpu_memory_utilization so that they add up to 1 or less",
        "agents",
    )
    for first, second in ((0.5, 0.5), (0.7, 0.3), (0.1, 0.9)):
        shares[0]["gpu_memory_utilization"] = first
        shares[1]["gpu_memory_utilization"] = second
        assert settings(agents=shares).gpus == (0, 1)


def test_shares_that_are_a_whole_although_not_in_binary() -> None:
    shares = (0.05, 0.55, 0.3, 0.1)
    assert sum(shares) > 1
    agents = [
        QWEN | {"name": f"a{n}", "port": 8001 + n, "gpu_memory_utilization": share}
        for n, share in enumerate(shares)
    ]
    assert len(settings(agents=agents).agents) == len(shares)


# Models.


@pytest.mark.parametrize("token", [{"hf_token_env": "T"}, {"hf_token_command": "t"}])
def test_a_token_is_never_sent_in_the_clear(token: dict[str, str]) -> None:
    assert refused(hub={"endpoint": "http://mirror.example"}, secrets=token) == (
        "hub.endpoint http://mirror.example would get the Hugging Face token in the clear; use"
        " https, or remove the token from secrets",
        "hub",
    )
    assert settings(hub={"endpoint": "https://mirror.example"}, secrets=token)
    assert settings(secrets=token)
    assert settings(hub={"endpoint": "http://mirror.example"})


def test_one_folder_has_one_source() -> None:
    both = {"model": "/srv/models/x"}
    differ = [QWEN | both | {"copy_from": "/a/x"}, TWO | both | {"copy_from": "/b/x"}]
    wanted = (
        "agents with the model /srv/models/x name different copy_from; give them the same, or"
        " folders of their own",
        "agents",
    )
    assert refused(agents=differ) == wanted
    del differ[1]["copy_from"]
    assert refused(agents=differ) == wanted
    differ[1]["copy_from"] = "/a/x"
    assert settings(agents=differ)
    # Of the hub's models there is nothing to copy.
    assert settings(agents=[QWEN, TWO | both | {"copy_from": "/a/x"}])


def test_each_agent_has_a_network_of_its_own() -> None:
    text, section = refused(agents=two(port=8001 + 512), vllm={"network": "198.18.0.0/20"})
    assert text == (
        "agents 'qwen' and 'two' with ports 8001 and 8513 would share a network in vllm.network"
        " 198.18.0.0/20; give one another port, or vllm.network a shorter prefix"
    )
    assert section == "agents"
    assert settings(agents=two(port=8001 + 512), vllm={"network": "198.18.0.0/16"})


# Ports that are open to everybody.


def test_an_agent_is_never_open_to_everybody() -> None:
    assert refused(agents=two(), firewall={"extra_tcp_ports": [9, 8002]}) == (
        "firewall.extra_tcp_ports has 8002, the port of agent 'two', which only the edge is to"
        " reach; remove it, or open it to named networks with the agent's expose",
        "firewall",
    )


@pytest.mark.parametrize(("setting", "port"), [("https_port", 443), ("http_port", 80)])
def test_what_is_for_some_networks_is_not_open_to_everybody(setting: str, port: int) -> None:
    firewall = {"extra_tcp_ports": [port]}
    assert refused(edge={"allow_from": ["10.0.0.0/8"]}, firewall=firewall) == (
        f"firewall.extra_tcp_ports opens {port} (edge.{setting}) to everybody, which"
        " edge.allow_from closes; remove one of them",
        "firewall",
    )
    assert settings(firewall=firewall)
    assert settings(edge={"allow_from": ["10.0.0.0/8"]}, firewall={"extra_tcp_ports": [9100]})


# Which model a name means.


@pytest.mark.parametrize("other", [{}, {"model": QWEN["model"], "revision": "a" * 40}])
def test_a_name_means_one_model(other: dict[str, str]) -> None:
    agents = [
        QWEN | {"served_model_name": "chat"},
        TWO | {"served_model_name": "chat"} | other,
    ]
    text, section = refused(agents=agents)
    assert text == (
        "agents 'qwen' and 'two' have different models and are both called 'chat' by clients, who"
        " choose by that name at /v1; give one another served_model_name, or set edge.by_model to"
        " False"
    )
    assert section is None
    assert settings(agents=agents, edge={"by_model": False})
    assert settings(agents=[agents[0], agents[1] | {"served_model_name": "x"}])


def test_twins_answer_for_each_other() -> None:
    same = {"model": QWEN["model"], "served_model_name": "chat"}
    agents = [
        QWEN | same,
        TWO | same,
        TWO | {"name": "three", "port": 8003, "gpus": [2]},
        TWO | same | {"name": "four", "port": 8004, "gpus": [3], "served_model_name": "z"},
        TWO | same | {"name": "five", "port": 8005, "gpus": [4], "revision": "a" * 40},
    ]
    found = settings(agents=agents, edge={"by_model": False})
    assert [found.twins(one.name) for one in found.agents] == [("two",), ("qwen",), (), (), ()]
    assert {name: [one.name for one in ones] for name, ones in found.model_names.items()} == {
        "chat": ["qwen", "two", "five"],
        "three": ["three"],
        "z": ["four"],
    }


# What a host is.


def test_a_host_alone() -> None:
    one = settings()
    assert (one.is_gateway, one.behind_gateways, one.in_fleet) == (False, False, False)
    assert (one.as_gateway, one.edge_side is one) == (None, True)
    assert (one.runs_agents, one.own_agents) == (True, one.agents)
    assert (one.pools, one.gateways, one.front, one.virtual) == ((), (), None, None)


def test_a_gateway() -> None:
    one = gateway()
    assert (one.is_gateway, one.behind_gateways, one.in_fleet) == (True, False, True)
    assert (one.as_gateway is one, one.edge_side is one) == (True, True)
    assert (one.runs_agents, one.own_agents) == (False, ())
    assert one.pool("coder") == POOLS[1]


def test_a_host_behind_gateways() -> None:
    one = behind()
    assert (one.is_gateway, one.behind_gateways, one.in_fleet) == (False, True, True)
    assert (one.as_gateway, one.edge_side is one) == (None, True)
    assert (one.runs_agents, one.own_agents) == (True, one.agents)


def test_a_machine_that_is_both() -> None:
    front = gateway()
    one = behind().model_copy(update={"front": front})
    assert (one.is_gateway, one.behind_gateways, one.in_fleet) == (True, True, True)
    assert (one.as_gateway is front, one.edge_side is front) == (True, True)
    assert (one.runs_agents, one.own_agents) == (True, one.agents)


def test_what_others_are_never_comes_from_a_file() -> None:
    """Nor is it shown as somebody's settings."""
    kept = {"pools", "gateways", "front", "virtual"}
    assert not kept & set(behind().model_dump())
    assert behind().gateways == GATEWAYS


PLAIN = {"count_tokens": False, "cache_isolation": "off"}


@pytest.mark.parametrize(
    ("agents", "edge", "chooses", "all_at_v1", "lua"),
    [
        (two(), {}, True, True, True),
        (two(), {"by_model": False}, False, False, True),
        (two(), PLAIN, True, True, True),
        (two(), PLAIN | {"by_model": False}, False, False, False),
        ([QWEN], PLAIN, False, True, False),
        ([QWEN], PLAIN | {"count_tokens": True}, False, True, True),
        ([QWEN], PLAIN | {"cache_isolation": "client"}, False, True, True),
    ],
)
def test_who_reads_requests(
    agents: list[dict[str, Any]], edge: dict[str, Any], chooses: bool, all_at_v1: bool, lua: bool
) -> None:
    one = settings(agents=agents, edge=edge)
    assert (one.chooses_by_model, one.serves_all_at_v1, one.edge_runs_lua) == (
        chooses,
        all_at_v1,
        lua,
    )


def test_a_fleet_always_reads_requests() -> None:
    edge = PLAIN | {"by_model": False}
    assert gateway(edge=edge).edge_runs_lua
    assert behind(edge=edge).edge_runs_lua


def test_cards() -> None:
    one = settings(agents=[CODER, QWEN | {"gpus": [2], "gpu_memory_utilization": 0.4}])
    assert (one.gpus, one.needs_gpu) == ((1, 2), True)
    none = settings(agents=[QWEN | {"gpus": []}])
    assert (none.gpus, none.needs_gpu) == ((), False)


# What its certificate covers.


@pytest.mark.parametrize(
    ("names", "mode", "alone", "shared"),
    [
        ((), "local-ca", ("192.0.2.11",), ("192.0.2.9", "192.0.2.11")),
        (("a.example",), "local-ca", ("a.example",), ("a.example", "192.0.2.9")),
        (("192.0.2.9", "b"), "local-ca", ("192.0.2.9", "b"), ("192.0.2.9", "b")),
        (("a.example",), "files", ("a.example",), ("a.example",)),
    ],
)
def test_names_for_clients(
    names: tuple[str, ...], mode: str, alone: tuple[str, ...], shared: tuple[str, ...]
) -> None:
    files = {"certificate": "c.pem", "key": "c.key"} if mode == "files" else {}
    one = settings(edge={"names": names}, tls={"mode": mode, **files})
    assert one.edge_names == alone
    own = ip_address("192.0.2.11")
    address = VirtualAddress(ip_address("192.0.2.9"), own, (), 0)
    assert one.model_copy(update={"virtual": address}).edge_names == shared
