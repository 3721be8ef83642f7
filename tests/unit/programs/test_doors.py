"""Judging the firewall packet by packet: a table as it should be, and each way to be wrong."""

from __future__ import annotations

import json
import subprocess
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.sabotage import SABOTAGE, Sabotage
from tests.unit.fleets import fleet
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.errors import HostError
from vllm_hosts.host.firewall import Surroundings
from vllm_hosts.roles.firewall.plan import RULES, rules
from vllm_hosts.suite.doors import wrong
from vllm_hosts.suite.packets import Packet, Table

EDGE = (33, "www-data")
GOOD = """
table inet vllm_hosts {
	set clients { type ipv4_addr; size 65535; flags dynamic; timeout 1m; }
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iif != "lo" ip daddr 127.0.0.0/8 drop
		iif != "lo" ip6 daddr ::1 drop
	}
	chain input {
		type filter hook input priority filter - 10; policy drop;
		iif "lo" accept
		ct state established,related accept
		ct state invalid drop
		iifname { "vllm-8001", "vllm-8002" } reject
		icmp type { echo-request } accept
		icmpv6 type { nd-router-solicit } ip6 hoplimit 255 accept
		tcp dport { 443 } add @clients { ip saddr limit rate over 99/second } drop
		ip saddr { 10.0.0.0/8 } tcp dport { 22 } accept
		tcp dport { 80, 443 } accept
		ip saddr { 10.1.0.0/16 } tcp dport { 8002 } accept
		udp dport { 51820 } accept
	}
	chain forward {
		type filter hook forward priority filter - 10; policy drop;
		ct state established,related accept
		iifname vmap { "vllm-8001" : jump agent_8001, "vllm-8002" : jump agent_8002 }
		oifname "vllm-8002" ip saddr 10.1.0.0/16 tcp dport 8000 ct original proto-dst 8002 accept
		oifname { "vllm-8001", "vllm-8002" } drop
		meta iifkind "bridge" accept
		meta oifkind "bridge" drop
	}
	chain agent_8001 {
		reject
	}
	chain agent_8002 {
		ip daddr 192.0.2.128/25 tcp dport { 443 } accept
		reject
	}
	chain output {
		type filter hook output priority filter - 10; policy accept;
		ct state established,related accept
		oifname { "vllm-8001", "vllm-8002" } meta skuid { 0, 33 } accept
		oifname { "vllm-8001", "vllm-8002" } reject
		oifname "lo" ip daddr 127.0.0.0/8 tcp dport { 8001, 8002 } meta skuid != 0 reject
	}
}
"""


def cell(name: str) -> SimpleNamespace:
    port = {"one": 8001, "two": 8002}[name]
    subnet = ip_network(f"198.18.0.{8 * (port - 8000)}/29")
    return SimpleNamespace(
        bridge=f"vllm-{port}", subnet=subnet, gateway=subnet[1], address=subnet[2]
    )


SETTINGS: Any = SimpleNamespace(
    firewall=SimpleNamespace(
        ssh_from=(ip_network("10.0.0.0/8"),), extra_tcp_ports=(), extra_udp_ports=(51820,)
    ),
    edge=SimpleNamespace(http_port=80, https_port=443, allow_from=()),
    gateway=SimpleNamespace(port=8443),
    gateways=(),
    mirror=SimpleNamespace(port=8444),
    mirror_for=(),
    runs_agents=True,
    agents=(
        SimpleNamespace(name="one", port=8001, expose=None, egress=None),
        SimpleNamespace(
            name="two",
            port=8002,
            expose=SimpleNamespace(networks=(ip_network("10.1.0.0/16"),)),
            egress=SimpleNamespace(
                networks=(ip_network("192.0.2.128/25"),), tcp_ports=(443,), names=False
            ),
        ),
    ),
    cell=cell,
)


SETTINGS.own_agents = SETTINGS.agents


def loaded(text: str) -> Table:
    """The table as the kernel's own tool has it, in an empty network namespace."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", "nft -f - && nft -j list ruleset"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Table(json.loads(done.stdout)["nftables"])


def judged(text: str) -> list[str]:
    return wrong(loaded(text), SETTINGS, {22}, EDGE)


def test_a_table_as_it_should_be() -> None:
    assert judged(GOOD) == []


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {
            "firewall": {
                "ssh_from": ["10.0.0.0/8", "2001:db8::/32"],
                "extra_tcp_ports": [9100],
                "extra_udp_ports": [51820],
            },
            "edge": {"https_port": 8443, "http_port": 8080, "allow_from": ["192.0.2.0/24"]},
        },
        {
            "agents": [
                QWEN
                | {
                    "expose": {
                        "networks": ["10.9.0.0/16", "2001:db8:5::/64"],
                        "unguarded_routes": "accepted",
                    }
                },
                CODER,
            ]
        },
        {
            "agents": [
                QWEN | {"egress": {"networks": ["192.0.2.0/24"]}},
                CODER | {"egress": {"networks": ["10.0.0.0/8"], "tcp_ports": [22], "names": True}},
            ]
        },
    ],
)
def test_the_file_that_a_deploy_writes(changed: dict[str, Any]) -> None:
    host = settings(**{"agents": [QWEN, CODER]} | changed)
    table = loaded(rules(host, [22], Surroundings(edge_user=EDGE[0])))
    assert wrong(table, host, {22}, EDGE) == []


@pytest.mark.parametrize("name", ["gw1", "gpu1"])
def test_the_file_that_a_deploy_writes_where_there_are_gateways(name: str) -> None:
    host = fleet()[name]
    text = rules(host, [22], Surroundings(edge_user=EDGE[0]))
    assert wrong(loaded(text), host, {22}, EDGE) == []
    # The port for gateways is theirs, and on a gateway nobody's.
    for source in ("ip saddr 203.0.113.9 ", ""):
        opened = text.replace(
            "ct state invalid drop", f"ct state invalid drop\n{source}tcp dport 8443 accept", 1
        )
        assert any("port 8443 passes" in one for one in wrong(loaded(opened), host, {22}, EDGE))
    if name == "gpu1":
        closed = text.replace("tcp dport { 8443 } accept", "tcp dport { 8443 } drop")
        assert any("is kept out" in one for one in wrong(loaded(closed), host, {22}, EDGE))


@pytest.mark.parametrize(
    "row", [row for row in SABOTAGE if "NET-04" in row.broken], ids=lambda row: row.name
)
def test_each_sabotage_of_the_file_is_seen(row: Sabotage, tmp_path: Path) -> None:
    """As on gpu1 in the lab, in an empty network namespace."""
    host = settings(agents=[QWEN, CODER])
    path = tmp_path / "firewall.nft"
    path.write_text(rules(host, [22], Surroundings(edge_user=EDGE[0])))
    words = ["unshare", "--net", "sh", "-ec", row.do.replace(RULES, str(path))]
    subprocess.run(words, check=True)
    assert wrong(loaded(path.read_text()), host, {22}, EDGE) != []


def with_rule(chain: str, rule: str) -> str:
    """The good table with one more rule at the beginning of a chain's rules."""
    head, mark, rest = GOOD.partition(f"chain {chain} {{\n")
    if rest.lstrip().startswith("type "):
        first, _, rest = rest.partition("\n")
        mark += f"{first}\n"
    return f"{head}{mark}\t\t{rule}\n{rest}"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (GOOD.replace("priority filter - 10; policy drop", "priority filter - 10; policy accept"),
         "from 203.0.113.9 to port 8000 passes"),
        (with_rule("input", "tcp dport 8001 accept"), "from 203.0.113.9 to port 8001 passes"),
        (with_rule("input", "tcp dport 3000-4000 accept"), "to port 3000 passes"),
        # Open to one network alone, which no setting names.
        (with_rule("input", "ip saddr 10.87.0.9 tcp dport 8001 accept"),
         "from 10.87.0.9 to port 8001 passes"),
        (with_rule("input", "ip saddr { 10.87.0.9-10.87.0.12 } accept"),
         "from 10.87.0.12 to port 80"),
        (with_rule("input", "ip6 saddr 2001:db8:77::/64 tcp dport 8001 accept"),
         "from 2001:db8:77:0:ffff:ffff:ffff:ffff to port 8001 passes"),
        (with_rule("forward", 'ip saddr 192.168.7.7 oifname "docker0" accept'),
         "from 192.168.7.7 to a container on docker0 passes"),
        (with_rule("agent_8001", "ip daddr 192.168.7.7 tcp dport 5432 accept"),
         "what agent one sends to 192.168.7.7 passes"),
        (with_rule("input", "meta nfproto ipv6 accept"), "2001:db8:ffff::9 to port 22 passes"),
        (with_rule("input", "meta l4proto udp accept"), "to port 53 over UDP passes"),
        (GOOD.replace("ip saddr { 10.0.0.0/8 } tcp", "tcp"), "203.0.113.9 to port 22 passes"),
        (GOOD.replace("{ 80, 443 } accept", "{ 80 } accept"), "to port 443 is kept out"),
        (GOOD.replace("ct state established,related accept\n\t\tct state invalid drop", ""),
         "that is there already is kept out"),
        (GOOD.replace("ip6 daddr ::1 drop", "ip6 daddr ::2 drop"), "to ::1 passes"),
        (GOOD.replace('{ "vllm-8001", "vllm-8002" } reject', '"vllm-8001" reject', 1),
         "what agent two sends to port 443 of its host passes"),
        (GOOD.replace('meta oifkind "bridge" drop', 'oifname != { "docker0", "br-*" } accept'),
         "to a container on podman0 passes"),
        (GOOD.replace('oifname "vllm-8002" ip saddr', "ip saddr"),
         "to 172.17.0.2 by port 8002 passes"),
        (GOOD.replace("192.0.2.128/25 tcp dport { 443 }", "0.0.0.0/0 tcp dport { 80, 443 }"),
         "what agent two sends to 169.254.169.254"),
        (GOOD.replace('meta iifkind "bridge" accept', 'meta iifkind "bridge" drop'),
         "what another container sends outside is kept out"),
        (GOOD.replace('oifname { "vllm-8001", "vllm-8002" } drop\n', "\n"),
         "what another container sends to the agent of port 8001 passes"),
        (GOOD.replace("10.1.0.0/16 tcp dport 8000 ct", "0.0.0.0/0 tcp dport 8000 ct"),
         "what comes from 203.0.113.9 to agent two passes"),
        (with_rule("agent_8001", "tcp dport 443 accept"), "what agent one sends to 203.0.113.9"),
        (with_rule("agent_8001", "udp dport 53 accept"), "what agent one sends to 192.168.1.1"),
        (with_rule("agent_8001", 'oifname "vllm-8002" accept'), "agent one sends to agent two"),
        (with_rule("agent_8002", "udp dport 53 accept"), "what agent two sends to 192.168.1.1"),
        (GOOD.replace("ip daddr 192.0.2.128/25 tcp dport { 443 } accept", ""),
         "as its egress says, is kept out"),
        (GOOD.replace("skuid { 0, 33 }", "skuid { 0, 33, 65534 }"),
         "what user nobody sends to agent one at 198.18.0.10 passes"),
        (GOOD.replace("skuid { 0, 33 }", "skuid { 0 }"), "what user www-data sends to agent"),
        (GOOD.replace("{ 8001, 8002 } meta skuid != 0", "{ 8001 } meta skuid != 0"),
         "what user nobody sends to agent two at 127.0.0.1 passes"),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong(changed: str, words: str) -> None:
    assert changed != GOOD
    found = judged(changed)
    assert any(words in sentence for sentence in found), found


def test_a_map_by_what_a_packet_does_not_have() -> None:
    rule = "ip saddr vmap { 203.0.113.9 : accept }"
    found = judged(with_rule("input", rule))
    assert any("from 203.0.113.9 to port 8000 passes" in sentence for sentence in found)
    assert not any("2001:db8" in sentence for sentence in found)


def test_what_is_not_understood_is_never_a_guess() -> None:
    table = loaded(with_rule("input", "meta mark set 1"))
    with pytest.raises(HostError, match="not known here"):
        table.accepts(Packet("input", "203.0.113.9", "192.0.2.1", 443))
    table = loaded(with_rule("input", "ip dscp 1 accept"))
    with pytest.raises(HostError, match="not known here"):
        table.accepts(Packet("input", "203.0.113.9", "192.0.2.1", 443))


def test_no_table_is_not_checked() -> None:
    with pytest.raises(HostError, match="no chain"):
        loaded("table ip other {}")
