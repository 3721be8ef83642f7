"""A machine in both groups: a gateway, and a host behind it and the others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.golden import check_golden
from tests.unit.fakes import listening
from tests.unit.fleets import both, fleet, gateway
from tests.unit.projects import AGENT
from tests.unit.projects import Project as Site
from tests.unit.samples import QWEN, settings
from tests.unit.test_edge_conf import DEBIAN_13
from tests.unit.test_firewall import AROUND
from tests.unit.test_gateway_machine import EDGE, SMALL
from tests.unit.test_preflight import GOOD, GOOD_RELEASE, NGINX, PROXY
from vllm_hosts.doctor import doctors_balancer
from vllm_hosts.doctor.query import deployed_file
from vllm_hosts.doctor.seen import HaproxySeen, Seen
from vllm_hosts.errors import SettingsError
from vllm_hosts.host.balancer import Server
from vllm_hosts.host.certificates import left_over
from vllm_hosts.host.files import Absent, File
from vllm_hosts.host.paths import GATEWAY_CLIENT, INNER_CERTIFICATE, INNER_KEY
from vllm_hosts.host.sockets import unexpected_sockets
from vllm_hosts.keys import ClientKey, HostKeys, KeyStore
from vllm_hosts.keys.host_keys import remembered_keys
from vllm_hosts.keys.hosts import rotate_secrets, with_gateways, with_host
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.store_content import DeployedHost, add_client, new_content, with_internal
from vllm_hosts.project.endpoints import endpoints
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.project.loaded import Project
from vllm_hosts.roles.balancer.plan import configuration
from vllm_hosts.roles.firewall.plan import rules
from vllm_hosts.roles.inner_tls.plan import inner
from vllm_hosts.roles.nginx.lua_files import lua_entries
from vllm_hosts.roles.nginx.plan import edge_conf, edge_entries, included, internal_map
from vllm_hosts.roles.nginx.worker_connections import worker_connections
from vllm_hosts.roles.preflight.plan import folders, problems
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import closed_ports, exposed
from vllm_hosts.settings.fleet import inner_name
from vllm_hosts.settings.joined import contradictions, joined
from vllm_hosts.verify.promises import promises

BOTH = both(edge={"names": ["llm.example.com"]})
ONE = BOTH["one"]
KEYS = HostKeys(
    internal=SecretStr("INTERNAL-KEY"),
    clients=(ClientKey("alice", SecretStr("KEY-A")),),
    hf_token=None,
    front=SecretStr("FLEET-KEY"),
)


def front(host: HostSettings) -> HostSettings:
    found = host.as_gateway
    assert found is not None
    return found


# What it is.


def test_it_is_a_host_behind_gateways_and_one_of_them() -> None:
    assert [agent.name for agent in ONE.agents] == ["qwen", "coder"]
    assert (ONE.is_gateway, ONE.behind_gateways, ONE.runs_agents) == (True, True, True)
    assert ONE.own_agents == ONE.agents
    assert [(known.name, known.networks) for known in ONE.gateways] == [
        ("one", (ip_network("192.0.2.11/32"),)),
        ("two", (ip_network("192.0.2.12/32"),)),
    ]
    # Its cards and networks are those of its own agents.
    assert (ONE.gpus, front(ONE).gpus) == ((0, 1, 2), ())


def test_as_a_gateway_it_serves_the_fleet_and_runs_nothing() -> None:
    two = BOTH["two"]
    assert [agent.name for agent in two.agents] == ["qwen"]
    assert [agent.name for agent in front(two).agents] == ["qwen", "coder"]
    assert (front(two).runs_agents, front(two).behind_gateways) == (False, False)
    assert two.edge_side is front(two)
    assert front(two).edge_side is front(two)
    assert front(two).as_gateway is front(two)
    assert (two.chooses_by_model, front(two).chooses_by_model) == (False, True)


def test_it_reaches_itself_on_loopback_and_others_by_their_address() -> None:
    for name, host in BOTH.items():
        [qwen, coder] = front(host).pools
        there = {replica.host: replica.address for replica in qwen.replicas}
        others = {"one": "192.0.2.11", "two": "192.0.2.12"}
        assert there == others | {name: "127.0.0.1"}
        assert {replica.port for replica in (*qwen.replicas, *coder.replicas)} == {8443}
    # All gateways choose alike: what a server is called says nothing of its address.
    names = [
        {one.server for pool in front(host).pools for one in pool.replicas}
        for host in BOTH.values()
    ]
    assert names[0] == names[1]


def test_hosts_of_other_kinds_are_what_they_would_be_without_it() -> None:
    known = fleet()
    hosts = {
        "gw1": gateway("gw1"),
        "one": settings(name="one", address="192.0.2.21"),
        "gpu2": settings(name="gpu2", address="192.0.2.12"),
    }
    found = joined(hosts, ["gw1", "one"])
    assert (found["gw1"].as_gateway, found["gpu2"].as_gateway) == (found["gw1"], None)
    assert [one.name for one in found["gpu2"].gateways] == ["gw1", "one"]
    assert found["gpu2"].edge_side is found["gpu2"]
    assert {one.address for one in found["gw1"].pools[0].replicas} == {"192.0.2.21", "192.0.2.12"}
    assert known["gw1"].front is known["gpu1"].front is None


def test_what_contradicts_is_said_of_such_machines_too() -> None:
    hosts = {
        "one": settings(name="one", firewall={"extra_tcp_ports": [8443]}),
        "two": settings(name="two", agents=[QWEN | {"model": "org/other"}]),
    }
    told = [sentence for sentence, _ in contradictions(hosts, ["one", "two"])]
    assert len(told) == 2
    assert told[0].startswith("firewall.extra_tcp_ports opens 8443 (gateway.port)")
    assert told[1].startswith("agent 'qwen' is Qwen/Qwen3-8B on one and org/other on two")
    larger = {
        "one": settings(name="one", edge={"timeout": 7200}),
        "two": settings(name="two"),
    }
    [(said, _)] = contradictions(larger, ["one"])
    assert said.startswith("edge.timeout of the gateway one is 7200, and two behind it")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.chdir(tmp_path)
    made.write(
        "inventory/prod.py",
        "gateways = ['192.0.2.1', ('two', {'ssh_hostname': '192.0.2.2'})]\n"
        "gpu_hosts = ['192.0.2.1', ('two', {'edge': {'burst': 9}}), '192.0.2.3']\n",
    )
    return made


def test_both_groups_data_is_its_own_and_the_later_group_wins(site: Site) -> None:
    site.write(
        "group_data/gateways.py",
        "edge = {'names': ['llm.example.com'], 'requests_per_second': 7}\n"
        "gateway = {'drain_timeout': 60}\n",
    )
    site.group(edge={"requests_per_second": 8, "burst": 6})
    found = validate(load(site.folder / "inventory" / "prod.py"))
    assert [(name, one.is_gateway, one.runs_agents) for name, one in found.items()] == [
        ("192.0.2.1", True, True),
        ("two", True, True),
        ("192.0.2.3", False, True),
    ]
    one, two = found["192.0.2.1"], found["two"]
    assert (one.address, two.address) == ("192.0.2.1", "192.0.2.2")
    for side in (one, front(one)):
        assert side.edge.names == ("llm.example.com",)
        assert (side.edge.requests_per_second, side.edge.burst) == (8, 6)
        assert side.gateway.drain_timeout == 60
    assert two.edge.burst == 9
    assert found["192.0.2.3"].edge.names == ()
    site.write("inventory/other.py", "gpu_hosts = ['192.0.2.1']\ngateways = ['192.0.2.1']\n")
    one = validate(load(site.folder / "inventory" / "other.py"))["192.0.2.1"]
    assert (one.edge.requests_per_second, one.edge.burst) == (7, 6)


def test_one_without_agents_is_refused(site: Site) -> None:
    site.write("group_data/gpu_hosts.py", "")
    with pytest.raises(SettingsError) as error:
        validate(load(site.folder / "inventory" / "prod.py"))
    assert any("agents is missing" in problem for problem in error.value.problems)


def test_check_shows_both(site: Site) -> None:
    done = site.run("vllm-hosts", "check", "inventory/prod.py")
    assert done.returncode == 0, done.stdout
    assert "192.0.2.1 (192.0.2.1), a gateway and a GPU host\n" in done.stdout
    one = done.stdout.partition("\ntwo ")[0]
    assert f"  {AGENT['name']:32} of 192.0.2.1, two, 192.0.2.3\n" in one
    assert "port 8001" in one
    assert "3 hosts and 3 agents: all settings are valid" in done.stdout


def test_clients_are_told_of_it_as_of_any_gateway(tmp_path: Path) -> None:
    found = list(endpoints(BOTH, tmp_path, "a key", "default"))
    assert [(one.host, one.agent, one.base_url) for one in found] == [
        (host, agent, "https://llm.example.com/v1")
        for host in ("one", "two")
        for agent in ("qwen", "coder")
    ]


def test_what_settings_allow_on_it_is_said_once() -> None:
    risky = QWEN | {
        "extra_args": ["--trust-remote-code"],
        "accepted_risks": ["--trust-remote-code"],
    }
    found = both(agents=[risky])["one"]
    assert len(exposed(found)) == 1
    assert closed_ports(found) == [8001, 8443]


# Keys.


def test_it_has_the_secret_of_gateways_and_its_own(tmp_path: Path) -> None:
    file = tmp_path / "inventory" / "prod.py"
    file.parent.mkdir()
    file.touch()
    made = Project(file, None, KeyStore(file))  # type: ignore[arg-type]
    vars(made).update(settings=BOTH)
    one, two = made.keys["one"], made.keys["two"]
    assert one.internal != two.internal
    assert one.front == two.front == made.opened.content.gateways.value  # type: ignore[union-attr]
    assert one.edge_side.internal == one.front
    # No key of ours: its edge is for clients.
    assert [key.client for key in one.clients] == ["default"]
    assert made.on_hosts == {"qwen": 2, "coder-14b": 1}
    assert made.keys["one"].internal_of("qwen") != one.edge_side.internal_of("qwen")


def test_what_a_store_remembers_of_it() -> None:
    now = utc_now()
    content = with_gateways(with_internal(new_content(now), ["one", "gpu1"], now), now)
    content = add_client(content, "ada", now)
    rotated = rotate_secrets(content, ["one", "gw"], ["one", "gw"], now)
    assert rotated.gateways != content.gateways
    assert rotated.internal["one"] != content.internal["one"]
    assert rotated.internal["gpu1"] == content.internal["gpu1"]
    assert "gw" not in rotated.internal
    known = with_host(content, "one", _way(ONE))
    assert {key.client for key in remembered_keys(known, "one")} >= {"ada"}


def _way(host: HostSettings) -> DeployedHost:
    # As Project.claim has it.
    return DeployedHost(
        data={},
        agents=tuple(agent.name for agent in host.edge_side.agents),
        behind=host.behind_gateways and not host.is_gateway,
    )


# Its files.


def test_golden_edge() -> None:
    check_golden("nginx/both.conf", edge_conf(ONE, DEBIAN_13))
    texts = included(ONE, DEBIAN_13)
    check_golden("nginx/both-inner.conf", texts["inner"])
    alone = fleet({"edge": {"names": ["llm.example.com"]}})["gw1"]
    # What clients' requests get on the way is a gateway's, word for word.
    as_gateway = included(alone, DEBIAN_13)
    assert {name: text for name, text in texts.items() if name != "inner"} == as_gateway


def test_each_side_of_nginx_has_names_of_its_own() -> None:
    text = edge_conf(ONE, DEBIAN_13) + included(ONE, DEBIAN_13)["inner"]
    declared = [
        words[1]
        for line in text.splitlines()
        if (words := line.split()) and words[0] in ("upstream", "log_format", "lua_shared_dict")
    ]
    assert len(declared) == len(set(declared)), declared
    maps = [line.split()[-2] for line in text.splitlines() if line.startswith("map ")]
    assert len(maps) == len(set(maps)), maps
    assert {"vllm_hosts_qwen", "vllm_hosts_front_qwen", "vllm_hosts_front_coder"} <= set(declared)
    two = edge_conf(BOTH["two"], DEBIAN_13)
    # An agent that it has not has no upstream, but a pool.
    assert "upstream vllm_hosts_coder " not in two
    assert "upstream vllm_hosts_front_coder " in two


def test_keys_and_salts_of_each_side() -> None:
    own, fleet_s = KEYS.internal_of("qwen"), KEYS.edge_side.internal_of("qwen")
    lines = internal_map(ONE, KEYS).splitlines()
    assert lines == sorted(lines)
    assert [line.partition(" ")[0] for line in lines] == [
        "vllm_hosts_coder",
        "vllm_hosts_front_coder",
        "vllm_hosts_front_qwen",
        "vllm_hosts_qwen",
    ]
    assert lines[2] == f'vllm_hosts_front_qwen "{fleet_s.get_secret_value()}";'
    assert lines[3] == f'vllm_hosts_qwen "{own.get_secret_value()}";'
    # The salt is that of every other gateway.
    gateways = HostKeys(SecretStr("FLEET-KEY"), (), None)
    assert fleet_s == gateways.internal_of("qwen")


def test_lua_of_both_sides() -> None:
    two = {entry.path: entry for entry in lua_entries(BOTH["two"]) if isinstance(entry, File)}
    names = {path.rpartition("/")[2] for path in two}
    assert {"by_model.lua", "balancing.lua", "counting.lua", "engine_pulse.lua"} <= names
    texts = {path.rpartition("/")[2]: entry.content.decode() for path, entry in two.items()}
    # Models are the fleet's, and pulses those of its own agents.
    assert "coder-14b" in texts["by_model.lua"]
    assert "coder" not in texts["pulse.lua"]
    assert str(BOTH["two"].cell("qwen").address) in texts["pulse.lua"]


def test_files_of_one_side_go_and_those_of_the_other_stay() -> None:
    entries = edge_entries(ONE, KEYS, DEBIAN_13)
    assert left_over(ONE) == []
    assert not [entry for entry in entries if isinstance(entry, Absent) and "gateway" in entry.path]
    assert [entry.path for entry in left_over(front(ONE))] == [INNER_KEY, INNER_CERTIFICATE]


def test_golden_balancer() -> None:
    check_golden("balancer/both.cfg", configuration(front(BOTH["two"])))


def test_golden_firewall() -> None:
    text = rules(ONE, [22], AROUND)
    check_golden("firewall/both.nft", text)
    assert "ip saddr { 192.0.2.11/32, 192.0.2.12/32 } tcp dport { 8443 } accept" in text


def test_a_certificate_for_each_side() -> None:
    client, server = inner(ONE)
    assert (client.names, client.role, client.key) == (("one",), "client", GATEWAY_CLIENT)
    assert server.names == (inner_name("one", "qwen"), inner_name("one", "coder"))
    assert (server.role, server.certificate, server.key) == ("server", INNER_CERTIFICATE, INNER_KEY)


def test_room_for_clients_and_for_what_gateways_pass_on() -> None:
    edge, known = ONE.edge, ONE.gateways
    assert worker_connections(edge, known, both=True) == 2 * 3 * edge.requests + 8192
    assert worker_connections(edge, known) == 2 * 2 * edge.requests + 8192


# Its machine.


def test_it_may_have_been_either() -> None:
    there = {"/var/lib/vllm/agents", "/var/lib/vllm-hosts/balancer"}
    system = replace(GOOD, present=GOOD.present | there)
    assert problems(ONE, GOOD_RELEASE, system) == []
    assert "/var/lib/vllm-hosts/balancer" in folders(ONE)
    # What it needs of its machine is what a GPU host needs.
    assert any("image needs" in said for said in problems(ONE, GOOD_RELEASE, _full(system)))
    assert problems(front(ONE), GOOD_RELEASE, replace(SMALL, present=frozenset())) == []


def _full(system: Any) -> Any:
    return replace(system, has_image=False, free=dict.fromkeys(system.free, 1 << 30))


def test_what_listens_on_it() -> None:
    agents = [listening(f"127.0.0.1:{port}", PROXY) for port in (8001, 8002)]
    ours = (*EDGE, *agents, listening("0.0.0.0:8443", NGINX))
    assert list(unexpected_sockets(ours, ONE, [22])) == []


# Who looks at it.


def test_every_promise_is_made_of_it() -> None:
    exempt = [name for name, one in promises().items() if one.exempt(ONE) is not None]
    assert exempt == ["GW-06", *(f"MIRROR-0{n}" for n in range(1, 5))], "what others ask for"


def test_the_doctor_looks_at_both() -> None:
    assert deployed_file(ONE) == "/opt/vllm/compose.yaml"
    servers = {
        (pool.name, one.server): Server(pool.name, one.server, False, False, 0, "L4CON")
        for pool in front(ONE).pools
        for one in pool.replicas
    }
    seen = Seen(balancer=HaproxySeen(servers))
    models = [
        finding.values["model"] for finding in doctors_balancer.model_without_agent(ONE, seen)
    ]
    assert models == ["qwen", "coder-14b"]
