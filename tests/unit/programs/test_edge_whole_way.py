"""From a client to an engine: a gateway's nginx, its HAProxy and two hosts' nginx, all real."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.programs.test_edge_pulse import KEYS as INNER
from tests.unit.programs.test_edge_pulse import OK, Host, answer
from tests.unit.real_gateway import RealGateway
from tests.unit.real_haproxy import RealBalancer
from tests.unit.samples import GATEWAYS, QWEN, behind, gateway
from vllm_hosts.keys import ClientKey, HostKeys
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool, Replica

ALICE = "KEY-A"
KEYS = HostKeys(
    internal=SecretStr("FLEET-KEY"),
    clients=(ClientKey("alice", SecretStr(ALICE)),),
    hf_token=None,
)
EDGE = {"names": ["llm.example.com"], "requests_per_second": 1000, "burst": 1000}
CHAT = "/v1/chat/completions"


class Balancer(RealBalancer):
    """In front of hosts that are there already."""

    hosts: list[Host]

    def __enter__(self) -> Balancer:
        self.folders()
        ca = self.hosts[0].ca
        (self.folder / "ca.pem").write_bytes(ca.certificate_pem)
        self.becomes(GATEWAYS[0].name, ca)
        replicas = self.settings.pools[0].replicas
        known: Any = [SimpleNamespace(name=one.server, ends=lambda: None) for one in replicas]
        self.replicas = known
        self.write()
        self.start()
        return self


class Front(RealGateway):
    """Its pools are HAProxy's."""

    def __init__(self, folder: Path, settings: HostSettings, run: Path) -> None:
        super().__init__(folder, settings, KEYS)
        for stand_in in self.agents.values():
            stand_in.server_close()
        self.agents, self.sockets = {}, run


class Way:
    """All of it."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        edge = {"names": ["gpu.example.com"]}
        self.hosts: list[Host] = []
        for name in ("gpu1", "gpu2"):
            (folder / name).mkdir()
            host = Host(folder / name, behind(name=name, agents=[QWEN], edge=edge), pace=1)
            if self.hosts:
                host.ca = self.hosts[0].ca
            self.hosts.append(stack.enter_context(host))
        replicas = tuple(
            Replica(host.settings.name, "qwen", "127.0.0.1", host.inner_port) for host in self.hosts
        )
        pools = (Pool("qwen", "qwen", replicas),)
        settings = gateway(agents=[QWEN], edge=EDGE).model_copy(update={"pools": pools})
        for name in ("haproxy", "front"):
            (folder / name).mkdir()
        balancer = Balancer(folder / "haproxy", settings, hurried=False)
        balancer.hosts = self.hosts
        self.balancer = stack.enter_context(balancer)
        self.front = stack.enter_context(Front(folder / "front", settings, balancer.run))

    def chat(self, *texts: str) -> tuple[int, list[str]]:
        """Its status, and the hosts whose engine was asked."""
        before = [self.asked(host) for host in self.hosts]
        roles = ("user", "assistant") * len(texts)
        messages = [
            {"role": role, "content": text} for role, text in zip(roles, texts, strict=False)
        ]
        answer = self.front.ask(
            CHAT, ALICE, "POST", json.dumps({"model": "qwen", "messages": messages})
        )
        after = [self.asked(host) for host in self.hosts]
        names = ["gpu1", "gpu2"]
        return answer.status, [
            name for name, one, two in zip(names, before, after, strict=True) if two > one
        ]

    @staticmethod
    def asked(host: Host) -> int:
        return sum(what == f"POST {CHAT}" for what, _ in host.engine.asked)

    def until(self, status: int, limit: float) -> float:
        started = time.monotonic()
        while self.front.ask("/health").status != status:
            assert time.monotonic() - started < limit
            time.sleep(0.3)
        return time.monotonic() - started


def makes_all(host: Host) -> None:
    """Its engine answers chats, too."""

    def token(connection: Any, path: str) -> None:
        host.engine.moved += 1
        usage = '{"usage": {"prompt_tokens": 5, "completion_tokens": 2}}'
        answer(connection, OK, usage, kind="application/json")
        del path

    host.engine.token = token


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with ExitStack() as stack:
        made = Way(stack, tmp_path_factory.mktemp("way"))
        for host in made.hosts:
            makes_all(host)
        made.until(200, 15)
        yield made


def test_a_request_arrives_with_its_name_and_the_host_s_own_key(way: Way) -> None:
    status, [name] = way.chat("hi")
    assert status == 200
    host = next(host for host in way.hosts if host.settings.name == name)
    front = json.loads(way.front.log().splitlines()[-1])
    back = host.entries()[-1]
    assert (front["client"], front["prompt_tokens"], front["completion_tokens"]) == ("alice", 5, 2)
    assert (back["client"], back["gateway"]) == ("alice", GATEWAYS[0].name)
    assert (back["prompt_tokens"], back["completion_tokens"]) == (None, None)
    assert back["request_id"] == front["request_id"]
    head = next(one for one in reversed(host.engine.heads) if one.startswith(f"POST {CHAT}"))
    key = INNER.internal_of("qwen").get_secret_value()
    assert f"Authorization: Bearer {key}\r\n" in head
    assert ALICE not in head and "x-vllm" not in head.lower()


@pytest.mark.parametrize(
    "headers",
    [{f"X-{n}": "a" for n in range(900)}, {f"X-{n}": "a" * 8000 for n in range(3)}],
    ids=["many", "large"],
)
def test_headers_that_the_gateway_takes_arrive(way: Way, headers: dict[str, str]) -> None:
    body = '{"model": "qwen", "messages": []}'
    assert way.front.ask(CHAT, ALICE, "POST", body, **headers).status == 200


def test_conversations_stay_and_are_spread(way: Way) -> None:
    homes: list[str] = []
    moved = 0
    for number in range(12):
        turns, found = [f"conversation {number}"], set()
        for _ in range(3):
            status, asked = way.chat(*turns)
            assert status == 200
            found |= {*asked}
            turns += ["answer", "and now?"]
        moved += len(found) > 1
        homes += found
    # On a busy machine a check may come late. Without affinity, three of four would move.
    assert moved <= 2, "all turns of a conversation go to one host"
    assert {*homes} == {"gpu1", "gpu2"}


def test_a_frozen_engine_loses_its_requests_within_ten_seconds(way: Way) -> None:
    gone = way.hosts[0]
    gone.engine.freeze()
    began = time.monotonic()
    try:
        while way.balancer.servers()[0].alive:
            assert time.monotonic() - began < 10
            time.sleep(0.2)
        assert {way.chat(f"c{number}")[1][0] for number in range(8)} == {"gpu2"}
        assert way.front.ask("/health").status == 200
    finally:
        makes_all(gone)


def test_an_engine_that_breaks_off_costs_no_request(way: Way) -> None:
    way.balancer.until(
        lambda: all(one.alive for one in way.balancer.servers()), "one does not come back"
    )
    broken = way.hosts[0]
    broken.engine.token = lambda connection, path: connection.shutdown(socket.SHUT_RDWR)
    try:
        done = [way.chat(f"breaks {number}") for number in range(8)]
        assert {status for status, _ in done} == {200}, way.front.log()[-2000:]
        assert ["gpu1", "gpu2"] in [names for _, names in done]
        assert way.front.log().count('"upstream_status":"503, 200"') >= 1
    finally:
        makes_all(broken)


def test_nobody_left(way: Way) -> None:
    for host in way.hosts:
        host.engine.freeze()
    try:
        way.until(503, 12)
        answer = way.front.ask(CHAT, ALICE, "POST", '{"model": "qwen", "messages": []}')
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        assert json.loads(answer.body)["error"]["code"] == "model_not_ready"
    finally:
        for host in way.hosts:
            makes_all(host)
    way.until(200, 15)
