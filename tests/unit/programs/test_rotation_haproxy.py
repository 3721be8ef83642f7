"""Who gets requests from a gateway, and who is told so, by a real HAProxy."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.unit.fleets import fleet
from tests.unit.real_haproxy import ENVIRONMENT, RealBalancer
from vllm_hosts.facts.rotation import BalancerSeen
from vllm_hosts.host.balancer import SAVE_SCRIPT, ServerState
from vllm_hosts.host.paths import DRAINED
from vllm_hosts.host.rotation import Member, telling


class Gateway:
    """A real HAProxy, and the scripts as a gateway's shell runs them."""

    def __init__(self, folder: Path, real: RealBalancer) -> None:
        self.folder, self.real = folder, real
        (folder / "bin").mkdir()
        self.program("exit 0")

    def program(self, text: str) -> None:
        path = self.folder / "bin" / "systemctl"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def sh(self, script: str) -> str:
        script = script.replace(SAVE_SCRIPT, f"sh {self.folder}/save")
        script = self.real._moved(script).replace(DRAINED, f"{self.folder}/drained")
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", script],
            capture_output=True, text=True, env=ENVIRONMENT | {"PATH": path}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def seen(self) -> list[Member]:
        fact = BalancerSeen()
        found = fact.process(self.sh(fact.command()).splitlines())
        assert found is not None
        return list(found.servers)

    def tell(self, servers: list[Member], state: ServerState, *, by_hand: bool = False) -> None:
        self.sh(telling(servers, state, by_hand=by_hand))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with RealBalancer(tmp_path, fleet()["gw1"], count=2) as real:
        found = Gateway(tmp_path, real)
        real.until(lambda: all(one.takes for one in found.seen()), "not all are up")
        yield found


def test_a_real_one_is_drained_and_put_back(gateway: Gateway) -> None:
    real = gateway.real
    home = real.home("a")
    home.answers = "stream"
    with real.asking("a") as answer:
        gateway.tell(gateway.seen(), ServerState.DRAIN)
        found = {one.name: one for one in gateway.seen()}
        assert {one.takes for one in found.values()} == {False}
        assert {one.drained for one in found.values()} == {True}
        assert found[home.name].running == 1, "it still runs"
        # Nor is it forgotten, or drained no more, by the next process.
        real.reload()
        found = {one.name: one for one in gateway.seen()}
        assert {one.drained for one in found.values()} == {True}
        assert found[home.name].running == 1
        home.go_on.set()
        assert answer.read() == b"firstlast"
    real.until(lambda: not any(one.running for one in gateway.seen()), "it runs on")
    gateway.tell(gateway.seen(), ServerState.READY)
    real.until(lambda: all(one.takes for one in gateway.seen()), "not all are back")


def test_clients_do_not_notice_that_a_real_one_changes(gateway: Gateway) -> None:
    """What they would get of it meanwhile is an answer that breaks off."""
    real, statuses, over = gateway.real, list[str](), Event()
    first, _ = gateway.seen()

    def asks(number: int) -> None:
        while not over.is_set():
            answer = real.ask(f"client {number}")
            statuses.append(f"{answer.status} {answer.body}")
            time.sleep(0.01)

    clients = [Thread(target=asks, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        for _ in range(2):
            gateway.tell([first], ServerState.DRAIN)
            real.until(lambda: not gateway.seen()[0].running, "it runs on")
            real.of(first.name).answers = "half"
            before = len(statuses)
            real.until(lambda before=before: len(statuses) > before + 40, "nobody asks")
            real.of(first.name).answers = "all"
            gateway.tell([first], ServerState.READY)
            real.until(lambda: gateway.seen()[0].takes, "it is not back")
    finally:
        over.set()
        for client in clients:
            client.join(30)
    assert {status[:4] for status in statuses} == {"200 "}
    assert len(set(statuses)) == 2, "both have answered"


def test_a_real_one_keeps_who_drained_it(gateway: Gateway) -> None:
    first, second = gateway.seen()
    gateway.tell([first], ServerState.DRAIN, by_hand=True)
    gateway.tell([second], ServerState.DRAIN)
    assert [(one.drained, one.by_hand) for one in gateway.seen()] == [(True, True), (True, False)]
    gateway.tell([first, second], ServerState.READY)
    assert [(one.drained, one.by_hand) for one in gateway.seen()] == [(False, False)] * 2
    assert not list((gateway.folder / "drained").iterdir())


def test_a_real_one_that_dies_while_it_is_drained_is_known_to_be_down(gateway: Gateway) -> None:
    first, _ = gateway.seen()
    gateway.tell([first], ServerState.DRAIN)
    gateway.real.of(first.name).alive = False
    gateway.real.until(lambda: not gateway.seen()[0].up, "it counts as up")
    gateway.tell([first], ServerState.READY)
    assert not gateway.seen()[0].takes


def test_one_that_it_does_not_know_is_an_error(gateway: Gateway) -> None:
    stranger = Member("qwen", "qwen.hzzzz", up=True, drained=False, running=0)
    with pytest.raises(AssertionError, match="No such server"):
        gateway.tell([stranger, *gateway.seen()], ServerState.DRAIN)
    assert not any(one.drained for one in gateway.seen()), "it went on"


def test_where_it_does_not_run_nothing_passes(gateway: Gateway) -> None:
    gateway.program("exit 3")
    fact = BalancerSeen()
    assert fact.process(gateway.sh(fact.command()).splitlines()) is None


def test_one_that_does_not_answer_is_no_gateway_without_requests(gateway: Gateway) -> None:
    (gateway.real.run / "admin.sock").unlink()
    fact = BalancerSeen()
    said = gateway.sh(fact.command()).splitlines()
    with pytest.raises(Exception, match="HAProxy's view of the agents could not be understood"):
        fact.process(said)
