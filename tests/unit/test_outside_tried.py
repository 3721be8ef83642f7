"""Ports are tried from outside while a run goes on, and again where something was done since."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_host

from tests.unit.recording import InLine, deploy_py
from vllm_hosts.facts import ahead, touched
from vllm_hosts.host import probe
from vllm_hosts.operations import outside
from vllm_hosts.operations.base import note

HERE = "192.0.2.1"


class Network:
    """``opens``: after how many seconds a port answers; others never do."""

    def __init__(self) -> None:
        self.opens = {443: 0.0}
        self.tried: list[tuple[int, float]] = []
        self.lost = 0

    def reachable(self, address: str, port: int, timeout: float = probe.TIMEOUT) -> bool:
        self.tried.append((port, timeout))
        if port != 443 and self.lost:
            self.lost -= 1
            time.sleep(timeout)
            return False
        after = self.opens.get(port, timeout + 1)
        time.sleep(min(after, timeout))
        return after <= timeout


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(probe, "reachable", network.reachable)
    return network


@pytest.fixture
def host() -> Iterator[Host]:
    touched.install()
    [host] = State(Inventory((["gpu1"], {})), Config()).inventory
    with ctx_host.use(host):
        yield host
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)


@pytest.mark.parametrize(
    ("far", "waits"),
    [(0.0001, 0.25), (0.02, 0.25), (0.1, 1.0), (0.15, 1.5), (0.3, 2.0), (5.0, 2.0), (None, 2.0)],
)
def test_patience_is_in_proportion_to_the_way(far: float | None, waits: float) -> None:
    assert probe.patience(far) == waits


def test_the_way_is_the_slowest_of_three(network: Network) -> None:
    network.opens = {443: 0.02}
    assert 0.02 <= (probe.round_trip(HERE, 443) or 0) < 0.2
    assert len(network.tried) == 3
    assert probe.round_trip(HERE, 8443, 0.01) is None


def test_what_was_tried_on_the_way_needs_no_waiting(network: Network, host: Host) -> None:
    outside.begin(HERE, [8001, 8002], answering=443)
    time.sleep(0.8)
    tries, begun = list(network.tried), time.monotonic()
    opens = outside.opened(HERE, [8001, 8002], answering=443)
    assert not opens(HERE, 8001) and not opens(HERE, 8002)
    assert time.monotonic() - begun < 0.1
    assert network.tried == tries


def test_an_open_port_is_seen_though_it_is_far(network: Network, host: Host) -> None:
    network.opens = {443: 0.1, 8001: 0.4}
    outside.begin(HERE, [8001], answering=443)
    assert outside.opened(HERE, [8001], answering=443)(HERE, 8001)


def test_a_packet_that_is_lost_closes_no_port(network: Network, host: Host) -> None:
    network.opens[8001], network.lost = 0.0, 1
    assert outside.opened(HERE, [8001], answering=443)(HERE, 8001)


def test_a_host_that_answers_nothing_is_waited_for(network: Network, host: Host) -> None:
    network.opens = {8001: 1.0}
    assert outside.opened(HERE, [8001], answering=443)(HERE, 8001)


def test_what_was_done_since_is_looked_at_again(network: Network, host: Host) -> None:
    """An agent that began later, and is published to everybody."""
    outside.begin(HERE, [8001], answering=443)
    note("something").execute(host.state, host, {})
    time.sleep(0.8)
    network.opens[8001] = 0.0
    assert outside.opened(HERE, [8001], answering=443)(HERE, 8001)


def test_another_port_or_address_is_tried_then(network: Network, host: Host) -> None:
    network.opens[8002] = 0.0
    for address, port in ((HERE, 8002), ("192.0.2.2", 8002)):
        outside.begin(HERE, [8001], answering=443)
        assert outside.opened(address, [port], answering=443)(address, port)


def test_what_is_under_way_is_not_begun_again(network: Network, host: Host) -> None:
    outside.begin(HERE, [8001], answering=443)
    first = outside._tried[host]
    outside.begin(HERE, [8001], answering=443)
    assert outside._tried[host] is first
    note("something").execute(host.state, host, {})
    outside.begin(HERE, [8001], answering=443)
    assert outside._tried[host] is not first


def test_what_was_tried_long_ago_is_tried_again(
    network: Network, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits for persons, and for models."""
    monkeypatch.setattr(ahead, "FRESH", 0.7)
    outside.begin(HERE, [8001], answering=443)
    time.sleep(0.8)
    network.opens[8001] = 0.0
    assert outside.opened(HERE, [8001], answering=443)(HERE, 8001)


@pytest.mark.parametrize("off", [False, True])
def test_the_switch_of_looking_ahead_is_its_switch_too(
    network: Network, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, off: bool
) -> None:
    monkeypatch.setenv(ahead.SWITCH, "0" if off else "1")
    ahead.begin(tmp_path / "asked.json", "deploy.py")
    try:
        outside.begin_ahead(HERE, [8001], answering=443)
    finally:
        ahead.end()
    assert (host in outside._tried) is not off


def test_nobody_is_waited_for_while_they_are_tried(network: Network, host: Host) -> None:
    begun = time.monotonic()
    outside.begin(HERE, [8001], answering=443)
    assert time.monotonic() - begun < 0.2


@pytest.mark.parametrize(("path", "times"), [(None, 1), ("/opt/vllm/.env", 2)])
def test_a_run_tries_them_once_unless_it_changes_something(
    in_line: InLine, monkeypatch: pytest.MonkeyPatch, path: str | None, times: int
) -> None:
    """Before anything is done, if that is all."""
    recorder, begun, plainly = in_line(), [], outside._try
    if path:
        recorder.host.chmod(path, 0o640)

    def counted(address: str, ports: Sequence[int], answering: int, done: int) -> Any:
        begun.append((address, *ports, answering))
        return plainly(address, ports, answering, done)

    monkeypatch.setattr(outside, "_try", counted)
    assert not recorder.run(deploy_py).failed
    assert begun == [("192.0.2.11", 8001, 8002, 443)] * times


def test_a_port_that_was_seen_open_fails_the_run(in_line: InLine) -> None:
    recorder = in_line()
    recorder.open = {8001}
    done = recorder.run(deploy_py)
    assert done.failed
    assert "port 8001 of 192.0.2.11 can be reached" in " ".join(done.said)
