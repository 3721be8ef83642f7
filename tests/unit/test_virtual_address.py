"""Where a virtual address can be, what is refused of it, and what runs for it on gateways."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.fleets import fleet
from tests.unit.here import Here
from tests.unit.recorded_host import Host
from tests.unit.recording import Recorder, deploy_py
from vllm_hosts.doctor.examine import together
from vllm_hosts.doctor.seen import Seen, VirtualSeen
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.virtual_address import VirtualGround
from vllm_hosts.host.balancer import Server
from vllm_hosts.host.paths import GATEWAY_ANSWERS, KEEPALIVED_CONF
from vllm_hosts.host.systemctl import UnitState
from vllm_hosts.host.virtual_address import (
    Ground,
    Interface,
    interface_for,
    interfaces,
    neighbours,
    routers,
    virtual_problems,
)
from vllm_hosts.roles.virtual_address import virtual_address
from vllm_hosts.roles.virtual_address.plan import configuration
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.types import Address

UNIT = "vllm-hosts-keepalived.service"
FLEET = fleet({"gateway": {"virtual_ip": "192.0.2.9"}})
GATEWAY = FLEET["gw1"]
assert GATEWAY.virtual is not None
SHARED = GATEWAY.virtual


def link(name: str, *addresses: str) -> Interface:
    return Interface(name, tuple(ip_interface(one) for one in addresses))


ETH0 = link("eth0", "192.0.2.1/24", "fe80::1/64")
THERE = Ground((ETH0,))


def problem(ground: Ground) -> str:
    """The only sentence; empty: there is none."""
    found = list(virtual_problems(SHARED, ground))
    assert len(found) <= 1
    return "".join(found)


def test_the_interface_of_the_address_s_network() -> None:
    other = link("eth1", "10.0.0.1/8")
    assert interface_for(SHARED, Ground((other, ETH0))) == "eth0"
    # It has the address itself, and stays the one.
    held = link("eth0", "192.0.2.9/32", "192.0.2.1/24")
    assert interface_for(SHARED, Ground((other, held))) == "eth0"
    with pytest.raises(HostError, match="is in no network of this gateway"):
        interface_for(SHARED, Ground((other,)))


def test_an_address_outside_the_network() -> None:
    found = problem(Ground((link("eth0", "10.0.0.1/8"), link("eth1", "fd00::1/64"))))
    assert found == (
        "gateway.virtual_ip 192.0.2.9 is in no network of this gateway, which has 10.0.0.1/8"
        " (eth0), fd00::1/64 (eth1); choose a free address of a network that all gateways are in"
    )
    # Clouds that route each address by itself have no network for another one.
    assert "is in no network" in problem(Ground((link("eth0", "192.0.2.1/32"),)))
    many = Ground(tuple(link(f"eth{n}", f"10.0.{n}.1/24") for n in range(9)))
    assert "(eth5) and 3 more;" in problem(many)
    assert "which has no address" in problem(Ground(()))


def test_a_gateway_that_has_another_address_in_that_network() -> None:
    assert problem(Ground((link("eth0", "10.0.0.1/8"), link("eth1", "192.0.2.77/24")))) == (
        "gateway.virtual_ip 192.0.2.9 is in the network of 192.0.2.77/24 (eth1), and this gateway"
        " would speak with the others from 192.0.2.1; set gateway.virtual_source in its data to"
        " '192.0.2.77'"
    )


def test_an_address_that_stands_for_a_network() -> None:
    # 192.0.2.8 to 192.0.2.9: two machines, and none of it stands for all.
    own = replace(SHARED, own=ip_address("192.0.2.8"))
    assert list(virtual_problems(own, Ground((link("eth0", "192.0.2.8/31"),)))) == []
    last = replace(SHARED, address=ip_address("192.0.2.255"))
    [said] = virtual_problems(last, THERE)
    assert said.startswith("gateway.virtual_ip 192.0.2.255 stands for the whole network 192.0.2.0")


def test_an_interface_that_keepalived_cannot_name() -> None:
    assert "whose name keepalived cannot read" in problem(Ground((link("a b", "192.0.2.1/24"),)))


ADDRESSES = [
    {"ifname": "lo", "link_type": "loopback", "addr_info": [{"family": "inet"}]},
    {},
    {
        "ifname": "eth0",
        "link_type": "ether",
        "addr_info": [
            {"family": "inet", "local": "192.0.2.1", "prefixlen": 24},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
            {"family": "inet6"},
            {"family": "mpls", "local": "1", "prefixlen": 20},
        ],
    },
    {"ifname": "eth1"},
]


def test_addresses_as_ip_shows_them() -> None:
    assert interfaces(json.dumps(ADDRESSES)) == (ETH0, Interface("eth1", ()))
    assert interfaces("") == ()
    for odd in ("{}", "[1]", '[{"ifname":"e","addr_info":[{"family":"inet","local":"x"}]}]', "?"):
        with pytest.raises((KeyError, ValueError)):
            interfaces(odd)
    with pytest.raises(ValueError, match="^ip prints no list$"):
        interfaces("{}")


def test_neighbours_are_those_that_answer() -> None:
    def states(*names: str) -> dict[Address, str]:
        one = {"dst": "192.0.2.2", "lladdr": "02:02", "state": list(names)}
        return neighbours(json.dumps([one, {"dst": "192.0.2.3", "state": ["FAILED"]}]))

    for answered in ("REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"):
        assert states(answered) == {ip_address("192.0.2.2"): "02:02"}
    for silent in ("FAILED", "INCOMPLETE", "NOARP", "NONE"):
        assert states(silent) == {}
    [long] = neighbours(json.dumps([{"dst": "fe80::2", "lladdr": "0" * 99}])).values()
    assert len(long) <= 50


def test_routers_of_both_kinds() -> None:
    first = '[{"dst":"default","gateway":"192.0.2.254"},{"dst":"default","dev":"wg0"}]'
    second = '[{"dst":"default","gateway":"fe80::1"}]'
    assert routers([first, second]) == {ip_address("192.0.2.254"), ip_address("fe80::1")}
    assert routers([]) == frozenset()


def test_the_ends_of_a_network() -> None:
    def said(address: str, own: str) -> list[str]:
        ends = replace(SHARED, address=ip_address(address), own=ip_address(own.split("/")[0]))
        return list(virtual_problems(ends, Ground((link("eth0", own),))))

    assert "stands for the whole network" in said("192.0.2.0", "192.0.2.1/24")[0]
    assert "stands for the whole network" in said("192.0.2.3", "192.0.2.1/30")[0]
    assert said("192.0.2.2", "192.0.2.1/30") == []
    assert said("2001:db8::", "2001:db8::1/64") == []


def test_six_addresses_are_all_shown() -> None:
    six = Ground(tuple(link(f"eth{n}", f"10.0.{n}.1/24") for n in range(6)))
    assert "10.0.5.1/24 (eth5); choose" in problem(six)


MACS = {ip_address("192.0.2.2"): "02:00:00:00:00:02", ip_address("192.0.2.254"): "02:fe"}


def test_an_address_that_somebody_else_has() -> None:
    alone = replace(THERE, ours=False, routers=frozenset({ip_address("192.0.2.254")}))
    assert problem(alone) == ""
    here = replace(alone, interfaces=(ETH0, link("eth1", "192.0.2.9/24")))
    assert "is an address of eth1 here already, and vllm-hosts did not give it" in problem(here)
    assert problem(replace(here, ours=True)) == ""

    def answers(mac: str) -> str:
        return problem(replace(alone, neighbours=MACS | {SHARED.address: mac}))

    assert answers("02:99") == (
        "gateway.virtual_ip 192.0.2.9 is in use: a machine that is no gateway answers for it"
        " (02:99); choose a free address of the same network"
    )
    # Another gateway has it already; or the router answers for whatever it is asked.
    assert answers("02:00:00:00:00:02") == ""
    assert answers("02:fe") == ""


def test_the_gateway_is_asked_only_before_it_has_the_configuration(tmp_path: Path) -> None:
    """The script itself, with stand-ins for what it asks."""
    here = Here(tmp_path)
    addresses = [{"ifname": "eth0", "addr_info": [{"family": "inet", "local": "192.0.2.1"}]}]
    addresses[0]["addr_info"][0]["prefixlen"] = 24  # type: ignore[index]
    near = [
        {"dst": "192.0.2.9", "lladdr": "02:99", "state": ["STALE"]},
        {"dst": "192.0.2.2", "lladdr": "02:02", "state": ["FAILED"]},
    ]
    here.program(
        "ip",
        f"""case "$*" in
        *address*) echo '{json.dumps(addresses)}' ;;
        *neigh*) echo '{json.dumps(near)}' ;;
        *get*) echo '192.0.2.9 dev eth0 src 192.0.2.1' ;;
        *default*) echo '[]' ;;
        esac""",
    )
    here.program("sleep", "exit 0")
    here.program("bash", f'echo "$*" >>{tmp_path}/sent')
    fact = VirtualGround()
    script = fact.command("192.0.2.9", ["192.0.2.2"]).replace(KEEPALIVED_CONF, f"{tmp_path}/conf")
    found = fact.process(here.check_output(script.replace("%", "%%") % ()).splitlines())
    assert (found.ours, found.neighbours) == (False, {SHARED.address: "02:99"})
    assert found.interfaces[0].has(SHARED.own)
    assert (tmp_path / "sent").read_text().count("/dev/udp/") == 2
    (tmp_path / "conf").write_text(configuration(SHARED, "eth0"))
    assert fact.process(here.check_output(script).splitlines()).ours
    assert (tmp_path / "sent").read_text().count("/dev/udp/") == 2
    assert END in script


def test_a_gateway_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    made = whole(tmp_path)
    made.host.facts["VirtualGround"] = Ground((link("eth0", "10.0.0.1/8"),))
    done = made.run(deploy_py)
    assert done.refused
    assert any("is in no network of this gateway" in one for one in done.refused)
    assert made.host.packages == {}


def test_all_of_a_deploy_and_a_second_one(tmp_path: Path) -> None:
    made = whole(tmp_path)
    done = made.run(deploy_py)
    assert not done.failed
    names = [name.partition(" | ")[2] for name in done.names]
    # Clients are sent here once it serves them, and the firewall has let the others in.
    runs = names.index("keepalived runs, now and at boot")
    assert names.index("nginx runs, now and at boot") < runs
    assert names.index("The firewall is in force, now and at boot") < runs
    again = made.run(deploy_py)
    assert (again.failed, again.changed, again.effects) == (False, [], [])


def whole(folder: Path) -> Recorder:
    """A gateway that was just installed, for all of deploy.py."""
    made = recorder(folder)
    made.host.facts["BalancerState"] = {
        (pool.name, one.server): Server(pool.name, one.server, True, False, 0, "L7OK")
        for pool in GATEWAY.pools
        for one in pool.replicas
    }
    made.host.facts["SystemState"].free.update({"/usr": 1 << 30, "/var": 1 << 30})
    return made


def recorder(folder: Path, host: HostSettings = GATEWAY) -> Recorder:
    offered = looks.OFFERED | {"keepalived": "1:2.3.3-1"}
    made = Host(host, looks.FRESH, looks.AFTER, offered=offered)
    made.facts["VirtualGround"] = replace(THERE, ours=False)
    made.facts["Units"][UNIT] = UnitState(enabled=False, active=False)
    return Recorder(folder, made)


def test_it_is_installed_tested_loaded_and_run(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    done = made.run(virtual_address)
    assert done.names == [
        f"Virtual address | {what}"
        for what in (
            "keepalived is installed",
            "The virtual address is configured and keepalived has loaded it",
            "keepalived runs, now and at boot",
        )
    ]
    installed, configured, enabled = done.operations
    assert "brought 'package keepalived'" in installed
    # The distribution's own neither starts now nor at the next boot.
    assert "systemctl mask --runtime --quiet keepalived.service" in installed
    assert "systemctl disable --quiet keepalived.service" in installed
    assert "keepalived --config-test" in configured
    assert f"systemctl reload {UNIT}" in configured
    assert configured.written[GATEWAY_ANSWERS] is not None
    assert enabled.commands == [f"systemctl enable --now {UNIT}"]
    assert made.run(virtual_address).changed == []


def test_a_change_is_said_to_move_nothing(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    assert made.run(virtual_address).effects == []
    made.host.facts["VirtualGround"] = Ground((link("eth1", "192.0.2.1/24"),))
    done = made.run(virtual_address)
    assert done.effects == [
        "keepalived is reloaded; the gateway that has the virtual address keeps it"
    ]


def test_a_network_that_has_changed_fails_the_host(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.host.facts["VirtualGround"] = Ground((link("eth0", "10.0.0.1/8"),))
    done = made.run(virtual_address)
    assert done.failed
    assert KEEPALIVED_CONF not in made.host.paths


def test_without_the_setting_it_is_taken_away(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    assert not made.run(virtual_address).failed
    made.host.settings = GATEWAY.model_copy(update={"virtual": None})
    done = made.run(virtual_address)
    assert [name.partition(" | ")[2] for name in done.names] == [
        "No virtual address is held",
        "Nothing of keepalived's is left",
    ]
    stopped, gone = done.operations
    assert "systemctl daemon-reload" in gone
    assert stopped.commands == [f"systemctl disable --quiet --now {UNIT}"]
    assert set(gone.written) == {
        KEEPALIVED_CONF,
        GATEWAY_ANSWERS,
        f"/etc/systemd/system/{UNIT}",
    }
    assert made.run(virtual_address).changed == []


def test_other_hosts_have_none(tmp_path: Path) -> None:
    assert recorder(tmp_path, FLEET["gpu1"]).run(virtual_address).operations == []


def test_who_has_it_is_known_once_all_gateways_were_seen() -> None:
    def holders(**held: bool | None) -> list[tuple[str, ...] | None]:
        looked: dict[str, Seen | HostError] = {
            name: HostError("gone")
            if one is None
            else replace(Seen(), virtual=VirtualSeen(one, True))
            for name, one in held.items()
        }
        made = together(FLEET, looked)
        assert made.keys() == looked.keys()
        return [
            one.virtual.holders for one in made.values() if isinstance(one, Seen) and one.virtual
        ]

    assert holders(gw1=True, gw2=False) == [("gw1",), ("gw1",)]
    assert holders(gw1=True, gw2=True) == [("gw1", "gw2")] * 2
    assert holders(gw1=False, gw2=False) == [(), ()]
    assert holders(gw1=True) == [None]
    assert holders(gw1=False, gw2=None) == [None]
