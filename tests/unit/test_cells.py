"""Agents' own networks: where they are, and what they must not overlap."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_preflight import GOOD, GOOD_RELEASE
from vllm_hosts.host.system import NetworkRoute
from vllm_hosts.roles.preflight.plan import problems
from vllm_hosts.settings.cells import CONTAINER_PORT, FETCHING, Cell, cell

ports = st.integers(1024, 65535)


@given(ports, ports)
def test_two_ports_share_a_cell_only_where_settings_say_so(one: int, other: int) -> None:
    network = IPv4Network("198.18.0.0/16")
    first, second = cell(network, "a", one), cell(network, "b", other)
    assert first.subnet.subnet_of(network)
    assert first.address in first.subnet and first.gateway in first.subnet
    assert first.address != first.gateway
    assert (first.subnet == second.subnet) == (one % 8192 == other % 8192)
    assert len(first.bridge) <= 15


def test_where_an_agent_is() -> None:
    """The firewall, compose.yaml and the edge of a running host have these."""
    found = settings(agents=[CODER]).cell("coder")
    subnet = IPv4Network(f"198.18.{CODER['port'] * 8 // 256 % 256}.{CODER['port'] * 8 % 256}/29")
    assert found == Cell("coder", f"vllm-{CODER['port']}", subnet)
    assert (found.gateway, found.address) == (subnet[1], subnet[2])
    assert (FETCHING, CONTAINER_PORT) == ("vllm-fetch", 8000)


def test_another_agent_moves_nobody() -> None:
    alone = settings(agents=[CODER]).cell("coder")
    assert settings(agents=[QWEN, CODER]).cell("coder") == alone


def test_agents_that_would_share_a_network_are_refused() -> None:
    with pytest.raises(ValidationError, match="'qwen' and 'coder' with ports 8001 and 16193"):
        settings(agents=[QWEN, CODER | {"port": 8001 + 8192}])


@pytest.mark.parametrize(
    ("vllm", "says"),
    [
        ({"network": "198.18.0.0/28"}, "is not an IPv4 network of /12 to /26"),
        ({"network": "10.0.0.1/16"}, "is not a network"),
        ({"network": "2001:db8::/32"}, "is not an IPv4 network"),
        ({"user": "0:0"}, "neither may be root"),
        ({"fetch_user": "64101:64101"}, "must be another user"),
        ({"fetch_user": "64102:64102"}, "in the same group"),
        ({"fetch_user": "0:64101"}, "neither may be root"),
    ],
)
def test_what_cannot_be_is_said(vllm: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(vllm=vllm)


def test_an_agent_that_asks_the_hub_has_to_reach_it() -> None:
    with pytest.raises(ValidationError, match="name the hub's networks in egress"):
        settings(agents=[QWEN | {"env": {"HF_HUB_OFFLINE": "0"}}])


@pytest.mark.parametrize("egress", [None, {"networks": ["192.0.2.0/24"]}])
def test_an_agent_that_fetches_media_has_to_reach_them(egress: dict[str, Any] | None) -> None:
    with pytest.raises(ValidationError, match="names servers that the agent cannot reach"):
        settings(agents=[QWEN | {"allowed_media_domains": ["a.example.com"], "egress": egress}])


@pytest.mark.parametrize(
    ("network", "interface", "refused"),
    [
        ("198.18.4.0/24", "eth1", True),
        ("198.0.0.0/8", "tun0", True),
        ("198.18.0.7/32", "wg0", True),
        ("198.18.250.8/29", "vllm-8001", False),
        ("192.0.2.0/24", "eth0", False),
    ],
)
def test_a_network_that_the_host_reaches_is_never_shadowed(
    network: str, interface: str, refused: bool
) -> None:
    found = replace(GOOD, routes=(NetworkRoute(IPv4Network(network), interface),))
    said = [one for one in problems(settings(), GOOD_RELEASE, found) if "vllm.network" in one]
    assert bool(said) == refused
