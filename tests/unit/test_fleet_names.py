"""Names between gateways and hosts: certificates, HAProxy and clients' responses hang on them."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from vllm_hosts.settings.fleet import (
    AGAIN,
    ALIVE,
    INNER_DOMAIN,
    MADE,
    GatewayHost,
    Pool,
    Replica,
    VirtualAddress,
    host_label,
    inner_name,
    made_by,
)

ONE = Replica("gpu1", "qwen", "192.0.2.11", 8443)
TWO = Replica("gpu2", "qwen", "192.0.2.12", 8443)


def test_names_stay_what_they_were() -> None:
    """Gateways of one version and hosts of another meet, and clients keep names of responses."""
    assert host_label("gpu1") == "haee7726231bed1c5"
    assert ONE.server == "qwen.haee7726231bed1c5"
    assert ONE.inner_name == "qwen.haee7726231bed1c5.vllm-hosts.internal"
    assert ONE.made_by == "8440f0a3b0fb0d6d"
    assert (INNER_DOMAIN, AGAIN, MADE, ALIVE) == (
        "vllm-hosts.internal",
        ".again",
        ".made.",
        "gateway.alive",
    )


@pytest.mark.parametrize("host", ["gpu1", "GPU 1", "[2001:db8::1]", "x" * 300, "ä", "a;b{", ""])
def test_a_host_is_one_label_whatever_it_is_called(host: str) -> None:
    assert re.fullmatch("h[0-9a-f]{16}", host_label(host))
    assert re.fullmatch("[0-9a-f]{16}", made_by(host, "qwen"))
    assert inner_name(host, "qwen") == f"qwen.{host_label(host)}.{INNER_DOMAIN}"


def test_agents_of_two_hosts_are_told_apart() -> None:
    assert len({one.server for one in (ONE, TWO)}) == 2
    assert len({one.made_by for one in (ONE, TWO)}) == 2
    assert len({made_by("gpu1", agent) for agent in ("qwen", "coder")}) == 2
    # What clients see of it names no host.
    assert host_label("gpu1")[1:] != ONE.made_by


def test_requests_are_sent_again_where_somebody_else_is() -> None:
    assert Pool("qwen", "q", (ONE,)).again == ""
    assert Pool("qwen", "q", (ONE, TWO)).again == "qwen.again"


def test_what_is_not_said_otherwise() -> None:
    assert ONE.weight == 1
    assert GatewayHost("gw1", (ip_network("192.0.2.1/32"),)).requests == 0


def test_the_address_of_all_gateways() -> None:
    def shared(address: IPv4Address | IPv6Address) -> VirtualAddress:
        return VirtualAddress(address, address, (), 0)

    assert shared(IPv4Address("192.0.2.9")).alone == "192.0.2.9/32"
    assert shared(IPv6Address("2001:db8::9")).alone == "2001:db8::9/128"
    # 255 is the remainder of nothing, and 0 is no number of VRRP's.
    assert shared(IPv4Address(255)).router_id == 1
    assert shared(IPv4Address(254)).router_id == 255
    found = {shared(IPv4Address(f"192.0.2.{n}")).router_id for n in range(256)}
    assert found == set(range(1, 256))
