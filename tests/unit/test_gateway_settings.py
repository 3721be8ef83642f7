"""Settings of gateways: what holds where nothing is set, and how far each may go."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vllm_hosts.settings.gateway import Gateway


def refused(**values: Any) -> str:
    with pytest.raises(ValidationError) as error:
        Gateway(**values)
    [problem] = error.value.errors()
    return problem["msg"]


def test_what_holds_where_nothing_is_set() -> None:
    found = Gateway()
    assert (found.port, found.networks) == (8443, ())
    assert (found.drain_timeout, found.fair_share) == (600, 1.25)
    assert found.session_header == "X-Session-Id"
    assert (found.virtual_ip, found.virtual_source) == (None, None)


@pytest.mark.parametrize(
    ("name", "least", "most", "below", "above"),
    [
        ("drain_timeout", 0, 86400, -1, 86401),
        ("fair_share", 1.01, 10.0, 1.0, 10.5),
        ("port", 1, 65535, 0, 65536),
    ],
)
def test_how_far_a_number_goes(
    name: str, least: float, most: float, below: float, above: float
) -> None:
    for value in (least, most):
        assert getattr(Gateway.model_validate({name: value}), name) == value
    assert "greater than or equal" in refused(**{name: below})
    assert "less than or equal" in refused(**{name: above})


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_hosts_never_take_everybody_for_a_gateway(network: str) -> None:
    """Also behind one that is well: the port for gateways has no key that a stranger lacks."""
    assert refused(networks=("192.0.2.7/32", network)) == (
        f"Value error, {network} means everybody, and hosts accept gateways only; write where their"
        " connections come from, such as '192.0.2.7/32'"
    )


def test_networks_that_are_somebodys_are_taken() -> None:
    found = Gateway.model_validate({"networks": ("10.0.0.0/8", "2001:db8::/32", "128.0.0.0/1")})
    assert [str(network) for network in found.networks] == [
        "10.0.0.0/8",
        "2001:db8::/32",
        "128.0.0.0/1",
    ]


@pytest.mark.parametrize("name", ["X-Session-Id", "a", "A" + "b" * 63])
def test_headers_that_name_a_conversation(name: str) -> None:
    assert Gateway(session_header=name).session_header == name


@pytest.mark.parametrize(
    "name", ["", "X_Session", "X-Id: a", 'X";', "X-Id\r\nY: z", "X-Id\n", "1-Id", "A" * 65]
)
def test_a_header_cannot_carry_more_of_a_configuration(name: str) -> None:
    assert "String should match pattern" in refused(session_header=name)
