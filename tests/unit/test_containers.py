"""What Docker says of a container, and the one idea of one that serves."""

from __future__ import annotations

import pytest

from tests.unit.fakes import inspect_line
from vllm_hosts.host.agent_changes import serving
from vllm_hosts.host.compose import ComposeFound
from vllm_hosts.host.containers import INSPECT, Container, Standing, published, read


@pytest.mark.parametrize(
    ("state", "health", "standing"),
    [
        ("running", "healthy", Standing.WELL),
        ("running", None, Standing.WELL),
        ("running", "starting", Standing.STARTING),
        ("running", "unhealthy", Standing.UNHEALTHY),
        ("running", "a word of a later Docker", Standing.UNHEALTHY),
        # What its health was says nothing any more.
        ("paused", "healthy", Standing.PAUSED),
        ("exited", "healthy", Standing.ENDED),
        ("dead", None, Standing.ENDED),
        ("removing", None, Standing.ENDED),
        ("restarting", "unhealthy", Standing.RESTARTING),
        ("created", None, Standing.CREATED),
        ("absent", None, Standing.ABSENT),
    ],
)
def test_where_a_container_stands(state: str, health: str | None, standing: Standing) -> None:
    one = Container("one", state, health)
    assert one.standing is standing
    assert one.well == (standing is Standing.WELL)
    assert one.up == (state in ("running", "restarting"))


def test_one_that_does_not_run_serves_nobody_whatever_its_last_health() -> None:
    there = tuple(
        Container(name, state, "healthy", service=name)
        for name, state in (("runs", "running"), ("stands", "paused"), ("ended", "exited"))
    )
    assert serving(["runs", "stands", "ended"], ComposeFound({}, there, None)) == {"runs"}


def test_docker_is_not_asked_for_keys() -> None:
    assert "Env" not in INSPECT


@pytest.mark.parametrize(
    "line",
    ["{}", "[]", "null", inspect_line("one", image_id=7), inspect_line("one", started="yesterday")],
)
def test_what_docker_does_not_print(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        list(read([line]))


def test_a_container_that_is_not_compose_s() -> None:
    [one] = read([inspect_line("db", project=None, service=None, hash=None)])
    assert (one.project, one.service, one.config_hash, one.ours) == ("", "", "", False)


@pytest.mark.parametrize(
    ("shown", "ports"),
    [
        ("", set()),
        ("8000/tcp", set()),
        ("127.0.0.1:8001->8000/tcp, [::1]:8001->8000/tcp, 9000/tcp", {8001}),
        # Neighbours are printed as one, and each of them is published.
        ("0.0.0.0:8000-8002->8000-8002/tcp, :::8000-8002->8000-8002/tcp", {8000, 8001, 8002}),
        ("0.0.0.0:53->53/udp,[::]:53->53/udp", {53}),
    ],
)
def test_ports_that_docker_publishes(shown: str, ports: set[int]) -> None:
    assert published(shown) == ports


@pytest.mark.parametrize("shown", ["x->8000/tcp", "0.0.0.0:1-99999999->1/tcp", "1:70000->1/tcp"])
def test_what_is_no_port_is_not_taken_for_none(shown: str) -> None:
    with pytest.raises(ValueError, match="port"):
        published(shown)
