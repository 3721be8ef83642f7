"""The firewall as text, and as the kernel's own tool reads it."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.golden import check_golden
from tests.unit.fleets import fleet, gateway, with_a_mirror
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.firewall import HostSurroundings, Others, SshPorts
from vllm_hosts.host.files import File, Folder
from vllm_hosts.host.firewall import Surroundings
from vllm_hosts.roles.firewall.plan import RULES, UNIT, firewall_entries, rules
from vllm_hosts.settings.fleet import VirtualAddress
from vllm_hosts.settings.joined import joined

NARROW = settings(
    agents=[QWEN | {"egress": {"networks": ["198.51.100.0/24", "2001:db8:1::/48"]}}, CODER],
    firewall={
        "forward_from": ["wg0"],
        "ssh_from": ["10.0.0.0/8", "2001:db8::/32"],
        "extra_tcp_ports": [9100],
        "extra_udp_ports": [51820],
    },
    edge={"https_port": 8443, "http_port": 8080, "allow_from": ["192.0.2.0/24"]},
)

#: Published ports are let in for their networks, by Docker's rewriting and by its proxy.
OWN_PORTS = settings(
    agents=[
        one | {"expose": {"networks": networks, "unguarded_routes": "accepted"}}
        for one, networks in (
            (QWEN, ["10.0.0.0/8", "2001:db8::/32"]),
            (CODER, ["2001:db8:1::/48"]),
        )
    ]
)
AROUND = Surroundings(33, ("br0",))
#: One gateway is known by its address, the other by what somebody said of both families.
BEHIND_TWO = joined(
    {
        "gw1": gateway("gw1"),
        "gw2": gateway("gw2", gateway={"networks": ["192.0.2.1/32", "2001:db8::7/128"]}),
        "gpu1": settings(gateway={"port": 9443}),
    },
    ["gw1", "gw2"],
)["gpu1"]
ITS_GATEWAY = fleet({"edge": {"allow_from": ["10.0.0.0/8"]}})["gw1"]


def test_golden_open_to_everybody() -> None:
    check_golden("firewall/default.nft", rules(settings(), [22], AROUND))


def test_golden_narrow() -> None:
    check_golden("firewall/narrow.nft", rules(NARROW, [2222, 22], AROUND))


def test_golden_exposed() -> None:
    check_golden("firewall/exposed.nft", rules(OWN_PORTS, [22], AROUND))


def test_golden_behind_gateways() -> None:
    check_golden("firewall/behind-gateways.nft", rules(BEHIND_TWO, [22], AROUND))


def test_golden_of_a_gateway() -> None:
    check_golden("firewall/gateway.nft", rules(ITS_GATEWAY, [22], AROUND))


def test_gateways_alone_reach_their_port_and_none_is_counted() -> None:
    text = rules(BEHIND_TWO, [22], AROUND)
    assert [line.strip() for line in text.splitlines() if "9443" in line] == [
        'ip saddr { 192.0.2.1/32 } tcp dport { 9443 } accept comment "gateways"',
        'ip6 saddr { 2001:db8::7/128 } tcp dport { 9443 } accept comment "gateways"',
    ]
    assert "9443" not in rules(settings(gateway={"port": 9443}), [22], AROUND)


def test_a_gateway_opens_its_edge_and_nothing_of_agents() -> None:
    text = rules(ITS_GATEWAY, [22], AROUND)
    for word in ("8001", "8002", "8443", str(ITS_GATEWAY.vllm.network)):
        assert word in rules(settings(agents=[QWEN, CODER]), [22], AROUND) or word == "8443"
        assert word not in text


@pytest.mark.parametrize(
    ("addresses", "rule"),
    [
        (["192.0.2.9", "192.0.2.1", "192.0.2.3", "192.0.2.2"], "ip saddr { 192.0.2.2, 192.0.2.3 }"),
        (["2001:db8::9", "2001:db8::1", "2001:db8::2"], "ip6 saddr { 2001:db8::2 }"),
    ],
)
def test_gateways_alone_tell_each_other_who_has_the_shared_address(
    addresses: list[str], rule: str
) -> None:
    shared, own, *peers = map(ip_address, addresses)
    virtual = VirtualAddress(shared, own, tuple(peers), 0)
    host = ITS_GATEWAY.model_copy(update={"virtual": virtual})
    lines = [line.strip() for line in rules(host, [22], AROUND).splitlines()]
    assert [line for line in lines if "112 accept" in line] == [
        f'{rule} meta l4proto 112 accept comment "other gateways"'
    ]
    assert "l4proto 112" not in rules(ITS_GATEWAY, [22], AROUND)


def test_a_mirror_is_for_the_inventory_s_hosts_alone() -> None:
    hosts = with_a_mirror()
    mirror = rules(hosts["gpu1"], [22], AROUND)
    assert [line.strip() for line in mirror.splitlines() if "the mirror" in line] == [
        'ip saddr { 10.0.0.0/24, 192.0.2.12/32 } tcp dport { 8444 } accept comment "the mirror"',
        'ip6 saddr { 2001:db8::7/128 } tcp dport { 8444 } accept comment "the mirror"',
    ]
    assert "the mirror" not in rules(hosts["gpu2"], [22], AROUND)


def test_golden_unit() -> None:
    [unit] = [e for e in firewall_entries(settings(), [22], AROUND) if e.path.endswith(".service")]
    assert isinstance(unit, File)
    check_golden("firewall/vllm-hosts-firewall.service", unit.content.decode())


def test_where_it_lies_and_who_may_change_it() -> None:
    folder, table, unit = firewall_entries(settings(), [22], AROUND)
    assert folder == Folder("/etc/vllm-hosts")
    assert isinstance(table, File) and isinstance(unit, File)
    assert table.path == RULES == "/etc/vllm-hosts/firewall.nft"
    assert unit.path == f"/etc/systemd/system/{UNIT}"
    assert UNIT == "vllm-hosts-firewall.service"
    assert {(one.mode, one.owner) for one in (table, unit)} == {(0o644, "root")}
    assert table.content.decode() == rules(settings(), [22], AROUND)


def test_each_port_is_named_once_and_in_order() -> None:
    text = rules(settings(), [2222, 22, 2222], AROUND)
    assert 'tcp dport { 22, 2222 } accept comment "SSH"' in text


def test_networks_of_one_family_stand_together() -> None:
    networks = ["192.0.2.0/24", "2001:db8::/32", "10.0.0.0/8"]
    text = rules(settings(firewall={"ssh_from": networks}), [22], AROUND)
    assert "ip saddr { 10.0.0.0/8, 192.0.2.0/24 } tcp dport { 22 } accept" in text
    assert "ip6 saddr { 2001:db8::/32 } tcp dport { 22 } accept" in text


def test_a_site_may_have_four_sources_connections() -> None:
    text = rules(settings(edge={"connections_per_source": 17}), [22], AROUND)
    assert "ct count over 17 " in text and "ct count over 68 " in text


def test_a_network_of_one_family_opens_nothing_for_the_other() -> None:
    text = rules(settings(edge={"allow_from": ["192.0.2.0/24"]}), [22], AROUND)
    assert [
        line
        for line in text.splitlines()
        if "80, 443" in line and "accept" in line and "ip saddr" not in line
    ] == []


@pytest.mark.parametrize("which", [settings(), NARROW, OWN_PORTS, BEHIND_TWO, ITS_GATEWAY])
def test_loads_twice_and_leaves_other_tables_alone(which: object, tmp_path: Path) -> None:
    path = tmp_path / "firewall.nft"
    path.write_text(rules(which, [22], AROUND))  # type: ignore[arg-type]
    script = f"""
        nft add table ip mine; nft add chain ip mine c
        nft -c -f {path}; nft -f {path}; nft -s -t list table inet vllm_hosts >{tmp_path}/first
        nft -f {path}; nft -s -t list table inet vllm_hosts >{tmp_path}/second
        nft list tables
    """
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["table ip mine", "table inet vllm_hosts"]
    assert (tmp_path / "first").read_text() == (tmp_path / "second").read_text()


def test_no_known_ssh_port_is_never_a_firewall() -> None:
    with pytest.raises(ValueError, match="locks everybody out"):
        rules(settings(), [], AROUND)


SSHD = 'users:(("sshd",pid=1,fd=3)) ino:1 sk:1 cgroup:/system.slice/ssh.service <->'


def ssh_ports(*listeners: str, configured: tuple[str, ...] = ("2222",)) -> tuple[int, ...]:
    output = ["== listeners", *listeners, "== configured", *configured, "== socket"]
    return SshPorts().process([*output, END])


def test_ssh_ports_are_those_in_use() -> None:
    output = [
        "== listeners",
        f"tcp LISTEN 0 128 0.0.0.0:2222 0.0.0.0:* {SSHD}",
        f"tcp LISTEN 0 128 [::]:2222 [::]:* {SSHD}",
        'tcp LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=2,fd=3))',
        "== configured",
        "2222",
        "== socket",
        "[::]:22 (Stream)",
        END,
    ]
    assert SshPorts().process(output) == (22, 2222)


@pytest.mark.parametrize(
    "stranger",
    [
        # A user's program of that name, and a user's session that forwards a port.
        'tcp LISTEN 0 128 0.0.0.0:4444 0.0.0.0:* users:(("sshd",pid=9,fd=3)) uid:1000 ino:9 sk:2',
        # Forwarded for root itself: not in sshd's configuration.
        f"tcp LISTEN 0 128 0.0.0.0:4444 0.0.0.0:* {SSHD}",
        f"tcp LISTEN 0 128 127.0.0.1:6010 0.0.0.0:* {SSHD}",
        f"tcp LISTEN 0 128 [::1]:2222 [::]:* {SSHD}",
        f"tcp LISTEN 0 128 [::ffff:127.0.0.1]:2222 [::]:* {SSHD}",
    ],
)
def test_nobody_opens_a_port_by_calling_a_program_sshd(stranger: str) -> None:
    assert ssh_ports(f"tcp LISTEN 0 128 *:22 *:* {SSHD}", stranger, configured=("22", "6010")) == (
        22,
    )
    with pytest.raises(HostError, match="no sshd that runs as root"):
        ssh_ports(stranger, configured=("22", "2222"))


def test_an_address_with_its_interface() -> None:
    assert ssh_ports(f"tcp LISTEN 0 128 [fe80::1]%eth0:2222 [::]:* {SSHD}") == (2222,)
    assert ssh_ports(f"tcp LISTEN 0 128 192.0.2.11%eth0:2222 0.0.0.0:* {SSHD}") == (2222,)


def test_no_sshd_stops_the_host() -> None:
    with pytest.raises(HostError, match="no sshd"):
        SshPorts().process(["== listeners", "== configured", "22", "== socket", END])


def test_a_look_that_was_cut_short_stops_the_host() -> None:
    with pytest.raises(HostError, match="cut short"):
        SshPorts().process(
            ["== listeners", 'tcp LISTEN 0 128 *:22 *:* users:(("sshd",pid=1,fd=3))']
        )


def around(tmp_path: Path, conf: str = "user root;\n") -> Surroundings:
    (tmp_path / "nginx.conf").write_text(conf)
    script = HostSurroundings().command(str(tmp_path / "net"), str(tmp_path / "nginx.conf"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return HostSurroundings().process(done.stdout.splitlines())


def test_a_bridge_with_a_real_card_leads_outside(tmp_path: Path) -> None:
    """And one with containers only does not."""
    net = tmp_path / "net"
    for bridge, port in (("br0", "eth0"), ("docker0", "veth1"), ("br1", "bond0")):
        (net / bridge / "bridge").mkdir(parents=True)
        (net / bridge / "brif" / port).mkdir(parents=True)
        (net / port).mkdir()
    (net / "eth0" / "device").mkdir()
    (net / "bond0" / "lower_eth1").mkdir()
    assert around(tmp_path) == Surroundings(0, ("br0", "br1"))


@pytest.mark.parametrize(
    ("conf", "user"),
    [("  user   www-data;\n", 33), ("", 33), ("# user root;\nuser root root;\n", 0)],
)
def test_nginx_s_user_is_the_one_in_its_configuration(tmp_path: Path, conf: str, user: int) -> None:
    assert around(tmp_path, conf).edge_user == user


def test_a_user_that_does_not_exist_is_no_default(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        around(tmp_path, "user no-such-user-here;\n")


def test_other_firewalls_are_told_what_takes_effect_now_and_after_a_boot() -> None:
    [ufw, firewalld] = Others(("ufw", "firewalld")).sentences([443, 80])
    assert "(ufw allow 443/tcp; ufw allow 80/tcp)" in ufw
    assert (
        "(firewall-cmd --permanent --add-port=443/tcp; firewall-cmd --permanent --add-port=80/tcp;"
        " firewall-cmd --reload); a packet passes only if both allow it" in firewalld
    )
