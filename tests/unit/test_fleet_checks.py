"""What runs and commands make of gateways, and of hosts behind them."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import listening
from tests.unit.fleets import fleet
from tests.unit.samples import QWEN, settings
from vllm_hosts.host import probe
from vllm_hosts.host.sockets import unexpected_sockets
from vllm_hosts.project.endpoints import endpoints
from vllm_hosts.roles.assertions.plan import reachable_problems
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import closed_ports, exposed
from vllm_hosts.settings.fleet import GatewayHost

NGINX = 'users:(("nginx",pid=5,fd=3))'
RISKY = QWEN | {"extra_args": ["--trust-remote-code"], "accepted_risks": ["--trust-remote-code"]}


def behind(**values: Any) -> HostSettings:
    return fleet(**{"agents": [QWEN]} | values)["gpu1"]


def gateway(**values: Any) -> HostSettings:
    return fleet(**{"agents": [QWEN]} | values)["gw1"]


def test_ports_that_nobody_outside_may_reach() -> None:
    assert closed_ports(settings()) == [8001]
    assert closed_ports(behind()) == [8001, 8443]
    assert closed_ports(gateway()) == []


def test_what_a_host_allows_is_not_said_of_its_gateway() -> None:
    assert exposed(behind(agents=[RISKY]))
    assert exposed(gateway(agents=[RISKY])) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("192.0.2.9", True),
        ("192.0.2.2", False),  # a gateway
        ("192.0.2.11", False),  # the host itself
        (None, True),
    ],
)
def test_the_port_for_gateways_from_the_controller(source: str | None, said: bool) -> None:
    found = list(
        reachable_problems(behind(), lambda _, port: port == 8443, source=lambda _: source)
    )
    wrong = ["port 8443 of 192.0.2.11 can be reached from the controller"]
    assert found == (wrong if said else [])


def test_a_router_may_give_the_controller_a_gateway_s_address() -> None:
    public = GatewayHost("gw1", (ip_network("9.9.9.9/32"),))
    host = behind().model_copy(update={"gateways": (public,)})
    for source, count in (("10.0.0.5", 0), ("8.8.4.4", 1)):
        found = reachable_problems(host, lambda _, port: port == 8443, {host.address: source}.get)
        assert len(list(found)) == count, source


def test_where_connections_come_from() -> None:
    assert probe.source("127.0.0.1") == "127.0.0.1"
    assert probe.source("no-such-host.invalid") is None


def test_sockets_of_each_kind_of_host() -> None:
    inner = listening("0.0.0.0:8443", NGINX)
    assert list(unexpected_sockets([inner], behind(), [22])) == []
    [said] = unexpected_sockets([inner], settings(), [22])
    assert "something listens on tcp 0.0.0.0:8443 (nginx)" in said
    other = listening("0.0.0.0:8443", 'users:(("nc",pid=5,fd=3))')
    assert len(list(unexpected_sockets([other], behind(), [22]))) == 1
    # A gateway's agents are elsewhere: whatever has their port there is a stranger.
    stranger = listening("0.0.0.0:8001", 'users:(("docker-proxy",pid=5,fd=3))')
    [said] = unexpected_sockets([stranger], gateway(), [22])
    assert "something listens on" in said


def test_clients_are_told_of_gateways_only(tmp_path: Path) -> None:
    hosts = {"gw1": gateway(), "gpu1": behind()}
    found = list(endpoints(hosts, tmp_path, "a key", "default"))
    assert [(one.host, one.agent) for one in found] == [("gw1", "qwen")]
    assert [one.host for one in endpoints({"gpu1": settings()}, tmp_path, "", "")] == ["gpu1"]
