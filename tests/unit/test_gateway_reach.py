"""A host that is in no gateway's reach is refused with one sentence, before anything is touched."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.fleets import both, fleet, gateway
from tests.unit.here import Here
from tests.unit.recorded_host import Host
from tests.unit.recording import Recorder, deploy_py
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.gateway_reach import WaysToHosts
from vllm_hosts.host.gateway_reach import (
    CONTROL,
    IpRoute,
    Ways,
    reach_problems,
    replicas_elsewhere,
    ways,
)
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.gateway_reach import reach_contradictions
from vllm_hosts.settings.joined import joined

OWN = ip_address("192.0.2.1")
GATEWAY = fleet()["gw1"]
ROUTED = {ip_address(f"192.0.2.{last}"): IpRoute(OWN, direct=True) for last in (11, 12)}


def told(*hosts: HostSettings, front: tuple[HostSettings, ...] = ()) -> list[str]:
    found = list(reach_contradictions(front or (gateway(),), hosts))
    assert all(on == () for _, on in found)
    return [sentence for sentence, _ in found]


LOCAL = ("127.0.0.1", "127.9.9.9", "::1", "localhost", "GPU.localhost.", "0.0.0.0", "::")


@pytest.mark.parametrize("address", LOCAL)
def test_an_address_that_every_machine_has(address: str) -> None:
    assert told(settings(address=address)) == [
        f"the inventory: the gateway gw1 is to reach gpu1 at {address!r}, which is that gateway"
        " itself; give the host's address in a network that gateways are in, as ssh_hostname"
    ]


@pytest.mark.parametrize("address", LOCAL)
def test_a_gateway_at_such_an_address_is_asked_itself(address: str) -> None:
    local = gateway(address=address, gateway={"networks": ["192.0.2.1/32", "2001:db8::1/128"]})
    assert told(settings(address="127.0.0.1"), front=(local,)) == []
    host = joined({"gw1": local, "gpu1": settings(address="127.0.0.2")}, ["gw1"])["gw1"]
    assert problems(host=host) == [
        "this gateway takes gpu1 (127.0.0.2) for itself; correct that name in /etc/hosts here, or"
        " give the host's address as ssh_hostname"
    ]
    [sentence] = told(settings(address="127.0.0.1"), front=(local, gateway("gw2")))
    assert "the gateway gw2 is to reach gpu1" in sentence


@pytest.mark.parametrize(
    "address", ["192.0.2.11", "169.254.7.7", "gpu1.example.com", "localhost.example.com"]
)
def test_an_address_that_may_lead_there(address: str) -> None:
    assert told(settings(address=address)) == []


def test_a_machine_that_is_both_reaches_itself_at_any_address() -> None:
    one, two = (
        settings(name="one", address="127.0.0.1"),
        settings(name="two", address="192.0.2.12"),
    )
    assert told(one, front=(one,)) == []
    assert told(one, two, front=(one,)) == [], "its own agents are asked at 127.0.0.1 anyway"
    [sentence] = told(one, two, front=(one, two))
    assert sentence.startswith("the inventory: the gateway two is to reach one at '127.0.0.1'")


def test_addresses_of_different_kinds() -> None:
    assert told(settings(address="2001:db8::11")) == [
        "the inventory: gpu1 has an IPv6 address (2001:db8::11), and accepts the gateway gw1 from"
        " 192.0.2.1/32 only; give both an address of the same kind, or say where the gateway's"
        " connections come from: gateway.networks in its data"
    ]
    six = gateway(address="2001:db8::1")
    assert "gpu1 has an IPv4 address" in "".join(told(settings(), front=(six,)))
    dual = gateway(gateway={"networks": ["192.0.2.1/32", "2001:db8::1/128"]})
    assert told(settings(), settings(name="gpu2", address="2001:db8::11"), front=(dual,)) == []
    # A name may have both, and of two gateways the sentence names the first that cannot.
    assert told(settings(address="gpu1.example.com"), front=(six,)) == []
    assert told(settings(address="gpu1"), front=(gateway(address="gw1.example.com"),)) == []
    [sentence] = told(settings(address="2001:db8::11"), front=(dual, gateway("gw2")))
    assert "accepts the gateway gw2 from" in sentence


def problems(
    named: dict[str, list[str]] | None = None,
    host: HostSettings = GATEWAY,
    **changed: IpRoute | None,
) -> list[str]:
    """What a gateway is refused for.

    :param changed: routes by the last number of an address, behind an underscore; None: none.
    """
    routes = dict(ROUTED)
    for last, route in changed.items():
        address = ip_address(f"192.0.2.{last[1:]}")
        routes.pop(address, None)
        if route:
            routes[address] = route
    found = {name: tuple(map(ip_address, each)) for name, each in (named or {}).items()}
    return list(reach_problems(host, Ways(found, routes)))


def test_a_gateway_with_a_way_to_each_host() -> None:
    assert problems() == []
    assert [one.host for one in replicas_elsewhere(GATEWAY)] == ["gpu1", "gpu2", "gpu1"]


def test_a_host_without_a_route() -> None:
    assert problems(_12=None) == [
        "this gateway has no route to gpu2 (192.0.2.12); connect it to that network, or give an"
        " address that gateways and the controller reach as ssh_hostname"
    ]
    [sentence] = problems(_11=None, _12=None)
    assert "no route to gpu1 (192.0.2.11), gpu2 (192.0.2.12); connect" in sentence


def named(*names: str) -> HostSettings:
    hosts = [settings(name=f"gpu{n}", address=name) for n, name in enumerate(names, 1)]
    return joined({one.name: one for one in (gateway(), *hosts)}, ["gw1"])["gw1"]


def test_names() -> None:
    host = named("gpu1.example.com")
    unknown = (
        "this gateway finds no address for gpu1 (gpu1.example.com); add the name to DNS, or to"
        " /etc/hosts here, or give the host's address as ssh_hostname"
    )
    assert problems({}, host) == [unknown]
    assert problems({"gpu1.example.com": ["192.0.2.11"]}, host) == []
    # One of several addresses is enough.
    assert problems({"gpu1.example.com": ["2001:db8::1", "192.0.2.12"]}, host) == []
    assert problems({"gpu1.example.com": ["127.0.1.1"]}, host) == [
        "this gateway takes gpu1 (gpu1.example.com) for itself; correct that name in /etc/hosts"
        " here, or give the host's address as ssh_hostname"
    ]
    [sentence] = problems({"gpu1.example.com": ["192.0.2.99"]}, host)
    assert "has no route to gpu1 (gpu1.example.com);" in sentence
    # The host's own name is not said twice.
    assert "finds no address for gpu1; add" in problems({}, named("gpu1"))[0]


def test_many_hosts_are_one_sentence_and_each_cause_another() -> None:
    host = named(*(f"g{n}.example.com" for n in range(1, 6)))
    [sentence] = problems({}, host)
    assert "gpu3 (g3.example.com) and 2 more; add" in sentence
    assert "and" not in problems({}, named("a1", "a2", "a3"))[0].partition(";")[0]
    kinds = problems({"g1.example.com": ["127.0.0.1"], "g2.example.com": ["192.0.2.7"]}, host)
    assert [one.split()[2] for one in kinds] == ["takes", "has", "finds"]


def test_a_source_that_hosts_do_not_accept() -> None:
    other = ip_address("10.0.0.1")
    assert problems(_12=IpRoute(other, direct=True)) == [
        "this gateway would reach gpu2 from 10.0.0.1, and hosts accept it from 192.0.2.1/32 only;"
        ' say where its connections come from, in its data: {"gateway": {"networks":'
        ' ["10.0.0.1/32"]}}'
    ]
    # A router may translate addresses; and where none was said, none is refused.
    assert problems(_12=IpRoute(other)) == []
    assert problems(_12=IpRoute(None, direct=True)) == []


def test_a_machine_that_is_both_needs_no_way_to_itself() -> None:
    one = both()["one"]
    assert [replica.host for replica in replicas_elsewhere(one)] == ["two"]
    assert problems(host=one.model_copy(update={"address": "192.0.2.1"}), _11=None) == []
    assert replicas_elsewhere(settings()) == []


def routes(*found: dict[str, Any]) -> list[str]:
    return [json.dumps([one]) for one in ({"type": "local", "dst": "127.0.0.1"}, *found)]


def test_what_ip_and_getent_print() -> None:
    found = ways(
        ["a 192.0.2.11", "a 2001:db8::11", "a 192.0.2.11", "b 192.0.2.12"],
        routes(
            {"dst": "192.0.2.11", "dev": "eth0", "prefsrc": "192.0.2.1", "flags": []},
            {"dst": "192.0.2.12", "gateway": "192.0.2.254", "dev": "eth0", "prefsrc": "192.0.2.1"},
            {"dst": "192.0.2.13", "via": {"family": "inet6", "host": "fe80::1"}, "dev": "eth0"},
            {"dst": "192.0.2.1", "type": "local", "dev": "lo", "prefsrc": "192.0.2.1"},
        ),
    )
    first, second, third = (ip_address(f"192.0.2.{last}") for last in (11, 12, 13))
    assert found.named == {"a": (first, ip_address("2001:db8::11")), "b": (second,)}
    assert found.routes == {
        CONTROL: IpRoute(None),
        first: IpRoute(OWN, direct=True),
        second: IpRoute(OWN),
        third: IpRoute(None),
        OWN: IpRoute(OWN),
    }


def test_a_machine_without_any_route_was_not_read() -> None:
    with pytest.raises(ValueError, match=r"no route to 127\.0\.0\.1"):
        ways([], [])
    with pytest.raises(HostError, match="the gateway's routes to hosts could not be understood"):
        WaysToHosts().process(["== named", "== routes", END])


def test_the_script_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for what it asks: one name is unknown, one hangs, one has two addresses."""
    monkeypatch.setenv("named", "odd.example.com 192.0.2.99")
    here = Here(tmp_path)
    here.program(
        "getent",
        """case "$2" in
        gpu1.example.com)
            for kind in STREAM DGRAM; do
                printf '%s %s x\\n' 192.0.2.11 $kind 2001:db8::11 $kind
            done
            ;;
        slow.example.com) exec sleep 60 ;;
        *) exit 2 ;;
        esac""",
    )
    here.program("timeout", '[ "$1" = 10 ] || exit 9; shift; exec /usr/bin/timeout 1 "$@"')
    here.program(
        "ip",
        """[ "$*" = '-j -force -batch -' ] || exit 9
        while read -r _ _ address; do
            case $address in
            10.*) echo 'RTNETLINK answers: Network is unreachable' >&2 ;;
            *) printf '[{"dst":"%s","dev":"eth0","prefsrc":"192.0.2.1"}]\\n' "$address" ;;
            esac
        done; exit 1""",
    )
    fact = WaysToHosts()

    def asked(*hosts: str) -> Ways:
        return fact.process(here.check_output(fact.command(list(hosts))).splitlines())

    names = ("gpu1.example.com", "gone.example.com", "slow.example.com")
    found = asked("10.0.0.1", *names, "192.0.2.12")
    both_of = (ip_address("192.0.2.11"), ip_address("2001:db8::11"))
    assert found.named == {"gpu1.example.com": both_of}
    assert set(found.routes) == {CONTROL, *both_of, ip_address("192.0.2.12")}
    assert (asked("192.0.2.12").named, set(asked().routes)) == ({}, {CONTROL})
    # Every name may take its ten seconds, and all are asked at once.
    assert (fact.steady, fact.seconds) == (True, 60)


def test_a_gateway_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    made = Recorder(tmp_path, Host(GATEWAY, looks.FRESH, looks.AFTER, offered=looks.OFFERED))
    made.host.facts["SystemState"].free.update({"/usr": 1 << 30, "/var": 1 << 30})
    made.host.facts["WaysToHosts"] = Ways({}, {CONTROL: IpRoute()})
    done = made.run(deploy_py)
    assert any("has no route to gpu1 (192.0.2.11), gpu2" in one for one in done.refused)
    assert made.host.packages == {}
