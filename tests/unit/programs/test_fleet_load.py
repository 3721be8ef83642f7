"""The load of the tests of gateways notices what becomes of its requests."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from lab import hosts as lab_hosts
from lab import layout
from tests.lab import fleet_asks
from tests.lab.fleet_asks import Front, Load
from tests.lab.fleet_upstream import serving
from tests.unit.projects import ROOT
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.settings.fleet import inner_name

AGENT = inner_name("gpu1", "chat")
#: The load asks lab hosts only; for this test, loopback is the lab.
_HERE = """
from ipaddress import IPv4Interface
from lab import layout, network
layout.BRIDGE_V4 = IPv4Interface("127.0.0.1/8")
network.is_up = lambda: True
from tests.lab import fleet_load
fleet_load.main()
"""


def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number


class Served:
    """Stand-ins for two hosts, as a program; and the files of a client of theirs."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        ca = LocalCa.create("load", utc_now())
        (folder / "ca.pem").write_bytes(ca.certificate_pem)
        issued = ca.issue(["127.0.0.1", AGENT], 10, utc_now())
        self.key = folder / "key.pem"
        self.certificate = folder / "certificate.pem"
        self.certificate.write_bytes(issued.certificate_pem)
        self.key.write_bytes(issued.key_pem.get_secret_value())
        self.both = folder / "both.pem"
        own = ca.issue(["gw1"], 10, utc_now(), "client")
        self.both.write_bytes(own.certificate_pem + own.key_pem.get_secret_value())
        self.ports = [port(), port()]
        files = (str(self.certificate), str(self.key))
        hosts = [("127.0.0.1", one, *files) for one in self.ports]
        nginx = folder / "nginx"
        nginx.mkdir()
        self.standins = stack.enter_context(serving(nginx, hosts, folder / "ca.pem", 0.05))

    def load(self, **job: Any) -> list[dict[str, Any]]:
        with self.started(**job) as program:
            assert program.wait(60) == 0
        return self.asked()

    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out").read_text().splitlines()]

    def started(self, **job: Any) -> subprocess.Popen[str]:
        usual = {
            "out": str(self.folder / "out"),
            "urls": [f"https://127.0.0.1:{one}" for one in self.ports],
            "ca_file": str(self.folder / "ca.pem"),
            "certificate": str(self.both),
            "keys": [("alice", "a-key")],
            "model": "lab/chat",
            "clients": 4,
            "requests": 20,
        }
        return begun(["-c", _HERE], usual | job)


def begun(words: list[str], job: Any, **more: Any) -> subprocess.Popen[str]:
    program = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdin=subprocess.PIPE, text=True, **more
    )
    assert program.stdin
    program.stdin.write(json.dumps(job))
    program.stdin.close()
    return program


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(tmp_path, stack)


def test_answers_and_streams_are_whole(served: Served) -> None:
    asked = served.load(name=AGENT, tokens=3)
    assert len(asked) == 20
    assert [one for one in asked if one["why"] or one["status"] != 200 or one["again"]] == []
    assert sorted(one["number"] for one in asked) == list(range(20))
    assert {one["number"] % 2 == 1 for one in asked if one["streamed"]} == {True}
    assert all(one["began"] < one["first"] <= one["ended"] for one in asked)
    assert {one["tokens"] for one in asked if not one["streamed"]} == {3}
    assert len({one["session"] for one in asked}) >= 4


def test_what_is_cut_after_its_beginning_is_no_failure_before_it(served: Served) -> None:
    """Streams that are cut have begun, answers that nobody gives have not."""
    with served.started(tokens=200, requests=40, seconds=30) as program:
        time.sleep(1.5)
        served.standins.process.terminate()
        assert program.wait(60) == 0
    asked = served.asked()
    begun = [one for one in asked if one["first"]]
    cut = [one for one in begun if one["why"].startswith("cut short")]
    assert cut
    assert {one["status"] for one in cut} == {200}
    never = [one for one in asked if not one["first"]]
    assert never
    assert all(one["why"].startswith("no answer") and not one["status"] for one in never)


def test_it_ends_when_it_is_told_to_and_finishes_what_it_asked(served: Served) -> None:
    with served.started(tokens=20, requests=5000, seconds=60) as program:
        time.sleep(1.5)
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    asked = served.asked()
    assert 4 <= len(asked) < 5000
    assert [one for one in asked if one["why"]] == []


def test_a_client_goes_to_the_next_gateway(served: Served) -> None:
    closed = port()
    urls = [f"https://127.0.0.1:{closed}", f"https://127.0.0.1:{served.ports[0]}"]
    assert {one["status"] for one in served.load(urls=urls)} == {200, 0}
    asked = served.load(urls=urls, failover=True, tokens=2)
    assert {(one["status"], one["why"]) for one in asked} == {(200, "")}
    assert any(one["again"] for one in asked)


def test_without_the_client_s_certificate_nothing_is_answered(served: Served) -> None:
    asked = served.load(certificate="", requests=4)
    assert {one["status"] for one in asked} == {400}


@pytest.mark.parametrize(
    "job",
    [
        {"urls": ["https://192.0.2.1/"]},
        {"clients": 100_000},
        {"requests": 10_000_000},
        {"seconds": 1e6},
    ],
)
def test_it_is_bounded(served: Served, job: dict[str, Any]) -> None:
    with served.started(**job) as program:
        assert program.wait(30) == 1
    assert not (served.folder / "out").exists()


def test_the_stand_in_tells_agents_apart(served: Served) -> None:
    served.load(name=AGENT, streams="all", requests=8, tokens=2)
    [(agent, (total, most))] = served.standins.counts().items()
    assert served.standins.counts() == {}
    assert AGENT.startswith(f"{agent}.") and agent.startswith("chat.")
    assert total == 8
    assert 1 < most <= 4


@pytest.fixture
def front(served: Served, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The stand-ins as a fleet, which the load's own class asks."""
    monkeypatch.setattr(layout, "BRIDGE_V4", IPv4Interface("127.0.0.1/8"))
    monkeypatch.setattr(lab_hosts, "root", lambda name: served.folder / name)
    monkeypatch.setattr(fleet_asks, "PROGRAM", ("-c", _HERE))
    return cast(
        Front,
        SimpleNamespace(
            urls=[f"https://127.0.0.1:{one}" for one in served.ports],
            ca_file=served.folder / "ca.pem",
            client_key=SecretStr("a-key"),
        ),
    )


def test_a_load_goes_on_until_it_is_left(front: Front, served: Served) -> None:
    job: dict[str, Any] = {"certificate": str(served.both), "tokens": 2, "pause": 0.01}
    with Load(front, served.folder, **job, clients=4, requests=5000) as load:
        load.wait_for(20)
        before = len(load.asked)
    assert 60 <= before <= len(load.asked) < 5000
    load.assert_none_failed()
    with Load(front, served.folder, **job, clients=2, requests=30, warm=1) as load:
        load.wait_over(30)
    assert len(load.asked) == 30


def test_a_load_that_is_over_too_early_is_said(front: Front, served: Served) -> None:
    with (
        pytest.raises(AssertionError, match="the load was over after 5 requests, 40 are needed"),
        Load(front, served.folder, certificate=str(served.both), tokens=1, requests=5),
    ):
        pass


def test_a_load_that_cannot_be_is_said(front: Front, served: Served) -> None:
    with (
        pytest.raises(AssertionError, match="No such file"),
        Load(front, served.folder, certificate="/nowhere", requests=5),
    ):
        pass
