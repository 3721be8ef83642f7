"""The hosts of an inventory with gateways as one: pools, gateways, and what contradicts."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from tests.unit.fleets import gateway
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool, Replica
from vllm_hosts.settings.joined import contradictions, joined


def hosts_of(*hosts: HostSettings) -> dict[str, HostSettings]:
    return {host.name: host for host in hosts}


def told(*hosts: HostSettings) -> list[tuple[str, tuple[str, ...]]]:
    front = [host.name for host in hosts if not host.agents]
    return list(contradictions(hosts_of(*hosts), front))


def test_without_gateways_every_host_is_what_it_was() -> None:
    hosts = hosts_of(settings(), settings(name="gpu2", agents=[{**QWEN, "model": "org/other"}]))
    assert list(contradictions(hosts, [])) == []
    found = joined(hosts, [])
    assert all(found[name] is host for name, host in hosts.items())


def test_gateways_know_pools_and_hosts_know_gateways() -> None:
    one = settings(name="gpu1", address="192.0.2.11", agents=[QWEN | {"weight": 2}, CODER])
    two = settings(name="gpu2", address="gpu2.example.com", gateway={"port": 9443})
    second = gateway("gw2", gateway={"networks": ["10.0.0.0/24", "2001:db8::7/128"]})
    found = joined(hosts_of(gateway(), one, second, two), ["gw1", "gw2"])
    assert found["gw1"].pools == (
        Pool(
            "qwen",
            "qwen",
            (
                Replica("gpu1", "qwen", "192.0.2.11", 8443, 2),
                Replica("gpu2", "qwen", "gpu2.example.com", 9443, 1),
            ),
        ),
        Pool("coder", "coder-14b", (Replica("gpu1", "coder", "192.0.2.11", 8443, 1),)),
    )
    assert found["gw2"].pools == found["gw1"].pools
    assert [agent.name for agent in found["gw1"].agents] == ["qwen", "coder"]
    assert (found["gw1"].is_gateway, found["gw1"].runs_agents) == (True, False)
    assert (found["gw1"].own_agents, found["gw1"].behind_gateways) == ((), False)
    for name, host in (("gpu1", one), ("gpu2", two)):
        assert (found[name].is_gateway, found[name].behind_gateways) == (False, True)
        assert found[name].own_agents == host.agents
        assert [(known.name, known.networks) for known in found[name].gateways] == [
            ("gw1", (ip_network("192.0.2.1/32"),)),
            ("gw2", (ip_network("10.0.0.0/24"), ip_network("2001:db8::7/128"))),
        ]


def test_nothing_of_an_agent_runs_on_a_gateway() -> None:
    open_one = CODER | {
        "tensor_parallel_size": 2,
        "copy_from": "/models/coder",
        "egress": {"networks": ["10.0.0.0/8"]},
        "expose": {"networks": ["10.0.0.0/8"], "unguarded_routes": "accepted"},
    }
    [agent] = joined(hosts_of(gateway(), settings(agents=[open_one])), ["gw1"])["gw1"].agents
    assert (agent.gpus, agent.tensor_parallel_size, agent.copy_from) == ((), None, None)
    assert (agent.egress, agent.expose) == (None, None)
    assert (agent.client_model_name, agent.max_model_len) == ("coder-14b", 16384)


def test_agents_of_different_names_answer_for_one_model() -> None:
    one = settings(name="gpu1", agents=[QWEN | {"name": "one", "served_model_name": "q"}])
    two = settings(name="gpu2", agents=[QWEN | {"name": "two", "served_model_name": "q"}])
    assert told(gateway(), one, two) == []
    found = joined(hosts_of(gateway(), one, two), ["gw1"])["gw1"]
    [pool] = found.pools
    assert (pool.name, pool.model) == ("one", "q")
    assert [replica.server.partition(".")[0] for replica in pool.replicas] == ["one", "two"]
    assert found.pool("one") == found.pool("two") == pool


def test_hosts_that_agree_are_a_fleet() -> None:
    lora = QWEN | {"extra_args": ["--enable-lora", "--lora-modules", "a=org/a", "b=org/b"]}
    other = QWEN | {"extra_args": ["--enable-lora", "--lora-modules", "b=org/b", "a=org/a"]}
    hosts = [settings(name="gpu1", agents=[lora, CODER]), settings(name="gpu2", agents=[other])]
    assert told(gateway(), *hosts) == []


LORA = QWEN | {"extra_args": ["--enable-lora", "--lora-modules", "law=org/law"]}
#: What is wrong: settings of the gateway and of two hosts, and the sentence with its hosts.
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = {
    "one name, two models": (
        {},
        {"agents": [QWEN | {"served_model_name": "q"}]},
        {"agents": [CODER | {"served_model_name": "q"}]},
        "clients who ask for 'q' would get Qwen/Qwen3-8B from agent 'qwen' on gpu1 and"
        " /srv/models/coder from agent 'coder' on gpu2; give one of them another served_model_name",
        (),
    ),
    "one name, two models on one host, which does not choose": (
        {},
        {
            "agents": [QWEN | {"served_model_name": "q"}, CODER | {"served_model_name": "q"}],
            "edge": {"by_model": False},
        },
        {"agents": [QWEN | {"served_model_name": "q"}]},
        "clients who ask for 'q' would get Qwen/Qwen3-8B from agent 'qwen' on gpu1 and"
        " /srv/models/coder from agent 'coder' on gpu1; give one of them another served_model_name",
        (),
    ),
    "an adapter with another model's name": (
        {},
        {"agents": [LORA]},
        {"agents": [CODER | {"served_model_name": "law"}]},
        "clients who ask for 'law' would get Qwen/Qwen3-8B from agent 'qwen' on gpu1 and"
        " /srv/models/coder from agent 'coder' on gpu2; give one of them another served_model_name",
        (),
    ),
    "two revisions": (
        {},
        {"agents": [QWEN | {"name": "one", "served_model_name": "q", "revision": "a1"}]},
        {"agents": [QWEN | {"name": "two", "served_model_name": "q"}]},
        "clients who ask for 'q' would get Qwen/Qwen3-8B at a1 from agent 'one' on gpu1 and"
        " Qwen/Qwen3-8B from agent 'two' on gpu2; give one of them another served_model_name",
        (),
    ),
    "one agent's name, two models": (
        {},
        {},
        {"agents": [QWEN | {"model": "org/other"}]},
        "agent 'qwen' is Qwen/Qwen3-8B on gpu1 and org/other on gpu2, and behind gateways an"
        " agent's name stands for one model; give one of them another name",
        (),
    ),
    "one agent's name, two names for clients": (
        {},
        {},
        {"agents": [QWEN | {"served_model_name": "q"}]},
        "agent 'qwen' is Qwen/Qwen3-8B on gpu1 and Qwen/Qwen3-8B as 'q' on gpu2, and behind"
        " gateways an agent's name stands for one model; give one of them another name",
        (),
    ),
    "different adapters": (
        {},
        {"agents": [LORA]},
        {},
        "agent 'qwen' on gpu1 has the adapter 'law' and agent 'qwen' on gpu2 has no adapter, and"
        " requests for 'qwen' may go to either; give both the same --lora-modules, or one of them"
        " another served_model_name",
        (),
    ),
    "the port of an agent": (
        {},
        {"gateway": {"port": 8001}},
        {},
        "gateway.port 8001 is the port of agent 'qwen'; set one of them to another",
        ("gpu1",),
    ),
    "the port of the edge": (
        {},
        {},
        {"gateway": {"port": 443}},
        "gateway.port 443 is edge.https_port; set one of them to another",
        ("gpu2",),
    ),
    "a port that is open to everybody": (
        {},
        {},
        {"firewall": {"extra_tcp_ports": [8443]}},
        "firewall.extra_tcp_ports opens 8443 (gateway.port) to everybody, which only gateways are"
        " to reach; remove it there, or set gateway.port",
        ("gpu2",),
    ),
    "larger requests": (
        {"edge": {"max_body_size": "1g"}},
        {"edge": {"max_body_size": "1024m"}},
        {"edge": {"max_body_size": "1023m"}},
        "edge.max_body_size of the gateway gw1 is 1g, and gpu2 behind it would cut off what it"
        " accepts, with 1023m; set it no larger for the gateway (in group_data/gateways.py), or no"
        " smaller for the hosts",
        (),
    ),
    "longer answers": (
        {"edge": {"timeout": 7200}},
        {},
        {},
        "edge.timeout of the gateway gw1 is 7200, and gpu1, gpu2 behind it would cut off what it"
        " accepts, with 3600; set it no larger for the gateway (in group_data/gateways.py), or no"
        " smaller for the hosts",
        (),
    ),
    "more routes": (
        {"edge": {"routes": ["POST /v2/embed"]}},
        {"edge": {"routes": ["POST /v2/embed"]}},
        {},
        "edge.routes of the gateway gw1 has 'POST /v2/embed', which gpu2 behind it would refuse;"
        " add it there too, or leave it out for the gateway",
        (),
    ),
    "a gateway that is known by name": (
        {"address": "gw1.example.com"},
        {},
        {},
        "the inventory: hosts accept the gateway 'gw1' by its address only, which"
        " 'gw1.example.com' is not; say where its connections come from, in its data:"
        ' {"gateway": {"networks": ["192.0.2.7/32"]}}, or for all of them in'
        " group_data/gateways.py",
        (),
    ),
    "a gateway with an odd name": (
        {"name": 'gw 1"'},
        {},
        {},
        "the inventory: the gateway 'gw 1\"' is to be known to hosts by that name; call it by up to"
        " 64 letters, digits and . - _, and give its address as ssh_hostname",
        (),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_contradicts_is_one_sentence(what: str) -> None:
    front, one, two, sentence, on = WRONG[what]
    hosts = settings(**{"name": "gpu1"} | one), settings(**{"name": "gpu2"} | two)
    assert told(gateway(**front), *hosts) == [(sentence, on)]


def test_gateways_that_differ_in_case_only() -> None:
    assert told(gateway(), gateway("GW1", address="192.0.2.3"), settings(name="gpu1")) == [
        (
            "the inventory: hosts tell the gateways 'gw1' and 'GW1' apart by their names without"
            " regard to case; call one of them otherwise",
            (),
        )
    ]


def test_a_gateway_needs_a_host() -> None:
    [(sentence, _)] = told(gateway())
    assert sentence == (
        "the inventory: no host is behind the gateways gw1; add hosts with agents to the group"
        " gpu_hosts, or leave the group gateways out"
    )


def test_many_hosts_that_differ_are_one_sentence() -> None:
    hosts = [settings(name=f"gpu{number}") for number in range(1, 51)]
    [(sentence, _)] = told(gateway(edge={"timeout": 7200}), *hosts)
    assert "gpu1, gpu2, gpu3 and 47 more behind it" in sentence
    different = [settings(name=f"o{n}", agents=[QWEN | {"model": "org/o"}]) for n in range(50)]
    assert len(told(gateway(), *hosts, *different)) == 1


def test_each_model_is_told_once_however_many_hosts_contradict() -> None:
    def served(number: int, **changes: object) -> HostSettings:
        agent = QWEN | {"name": f"agent-{number}", "served_model_name": "q"} | changes
        return settings(name=f"gpu{number}", agents=[agent])

    others = [served(number, model="org/other") for number in (2, 3, 4)]
    [(sentence, _)] = told(gateway(), served(1), *others)
    assert "'agent-1' on gpu1 and org/other from agent 'agent-2' on gpu2" in sentence
    lora = ["--enable-lora", "--lora-modules", "a=org/a", "b=org/b"]
    others = [served(number, extra_args=lora) for number in (2, 3, 4)]
    [(sentence, _)] = told(gateway(), served(1), *others)
    assert "'agent-1' on gpu1 has no adapter and" in sentence
    assert "agent 'agent-2' on gpu2 has the adapters 'a', 'b'" in sentence


def test_up_to_three_hosts_are_named() -> None:
    for number, words in (
        (3, "gpu1, gpu2, gpu3 behind"),
        (4, "gpu1, gpu2, gpu3 and 1 more behind"),
    ):
        hosts = [settings(name=f"gpu{one + 1}") for one in range(number)]
        [(sentence, _)] = told(gateway(edge={"timeout": 7200}), *hosts)
        assert words in sentence


def test_the_port_that_redirects_is_taken_too() -> None:
    [(sentence, on)] = told(gateway(), settings(gateway={"port": 80}))
    assert (sentence, on) == (
        "gateway.port 80 is edge.http_port; set one of them to another",
        ("gpu1",),
    )


def test_a_smaller_gateway_is_fine() -> None:
    assert told(gateway(edge={"max_body_size": "1m", "timeout": 60}), settings()) == []


def test_a_gateway_is_not_everybody() -> None:
    with pytest.raises(ValueError, match=r"0\.0\.0\.0/0 means everybody"):
        gateway(gateway={"networks": ["0.0.0.0/0"]})


def test_agents_are_needed_where_they_run() -> None:
    with pytest.raises(ValueError, match="agents is empty; add at least one agent"):
        settings(agents=[])
