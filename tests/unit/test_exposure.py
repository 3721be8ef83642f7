"""An agent's own port, opened by decision: its settings, rules, and sockets."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.unit.fakes import listening
from tests.unit.samples import settings
from vllm_hosts.host.firewall import Surroundings
from vllm_hosts.host.services import compose_file
from vllm_hosts.host.sockets import Socket, unexpected_sockets
from vllm_hosts.roles.assertions.plan import reachable_problems
from vllm_hosts.roles.firewall.plan import rules
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import exposed

AROUND = Surroundings(33)


def with_expose(**expose: Any) -> HostSettings:
    agent = {"name": "tiny", "model": "a/b", "port": 8001, "expose": expose}
    return settings(agents=[agent])


def both() -> HostSettings:
    return with_expose(networks=["10.0.0.0/8", "fd00::/8"], unguarded_routes="accepted")


@pytest.mark.parametrize(
    ("expose", "word"),
    [
        ({"networks": ["10.0.0.0/8"]}, "unguarded_routes"),
        ({"networks": ["10.0.0.0/8"], "unguarded_routes": "yes"}, "accepted"),
        ({"networks": [], "unguarded_routes": "accepted"}, "networks"),
        ({"networks": ["0.0.0.0/0"], "unguarded_routes": "accepted"}, "everybody"),
        ({"networks": ["::/0"], "unguarded_routes": "accepted"}, "everybody"),
    ],
)
def test_exposure_has_to_be_meant(expose: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        with_expose(**expose)


def test_only_the_named_networks_get_rules() -> None:
    text = rules(both(), [22], AROUND)
    assert 'ip saddr { 10.0.0.0/8 } tcp dport { 8001 } accept comment "agent tiny' in text
    [rule] = [line.strip() for line in text.splitlines() if "proto-dst" in line]
    cell = both().cell("tiny")
    assert rule == (
        f'iifname != "vllm-*" oifname "vllm-8001" ip daddr {cell.address} ip saddr {{ 10.0.0.0/8 }}'
        ' tcp dport 8000 ct original proto-dst { 8001 } accept comment "agent tiny is exposed"'
    )
    assert text.index("proto-dst") < text.index('oifname "vllm-*" drop')
    assert "8001 } accept" not in rules(settings(), [22], AROUND)


def test_compose_publishes_what_the_networks_need() -> None:
    ports = yaml.safe_load(compose_file(both(), 8 << 30))["services"]["tiny"]["ports"]
    assert ports == ["0.0.0.0:8001:8000", "[::]:8001:8000"]
    only = with_expose(networks=["10.0.0.0/8"], unguarded_routes="accepted")
    assert yaml.safe_load(compose_file(only, 8 << 30))["services"]["tiny"]["ports"] == [
        "0.0.0.0:8001:8000"
    ]


def test_the_socket_is_expected_and_no_other() -> None:
    def at(address: str) -> list[Socket]:
        return [listening(f"{address}:8001", 'users:(("docker-proxy",pid=1,fd=4))')]

    only = with_expose(networks=["10.0.0.0/8"], unguarded_routes="accepted")
    assert list(unexpected_sockets(at("0.0.0.0"), only, [22])) == []
    [said] = unexpected_sockets(at("[::]"), only, [22])
    assert "not only on 0.0.0.0" in said
    [said] = unexpected_sockets(at("0.0.0.0"), settings(), [22])
    assert "not only on 127.0.0.1" in said


def test_it_is_said_and_not_taken_for_a_door() -> None:
    [said] = exposed(both())
    assert "port 8001 is open to 10.0.0.0/8, fd00::/8" in said
    assert list(reachable_problems(both(), lambda address, port: True)) == []
    assert list(reachable_problems(settings(), lambda address, port: True)) != []


def test_risks_are_named_with_what_they_let_others_do() -> None:
    agent = {"name": "tiny", "model": "a/b", "port": 8001}
    risky = {"extra_args": ["--trust-remote-code"], "accepted_risks": ["--trust-remote-code"]}
    [sentence] = exposed(settings(agents=[agent | risky]))
    assert sentence.startswith("agent 'tiny' has an accepted risk: --trust-remote-code lets ")
