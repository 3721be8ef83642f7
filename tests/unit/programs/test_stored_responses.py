"""Responses by their identifiers, over several hosts: nginx of both sides and HAProxy are real."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.unit.programs.test_balancer_restart import MODEL, Way
from tests.unit.programs.test_edge_gateway import ALICE, BOB, EDGE, KEYS
from tests.unit.programs.test_edge_inner import KEYS as INNER
from tests.unit.real_gateway import RealGateway, RealInner
from tests.unit.real_haproxy import Answer, RealBalancer, StandIn
from tests.unit.samples import behind, gateway, settings
from vllm_hosts.host.balancer import RESPONSE_GONE, ServerState
from vllm_hosts.settings.fleet import AGAIN, made_by

RESPONSES = "/v1/responses"
HEADER = "X-Vllm-Hosts-Made-By"
NUMBER = "0123456789abcdef" * 2
QWEN, CODER = made_by("gpu1", "qwen"), made_by("gpu1", "coder")
GONE = json.loads(RESPONSE_GONE)


def named(tag: str) -> str:
    return f"resp_{tag}{NUMBER}"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealInner]:
    edge = {"names": ["gpu1.example.com"], "count_tokens": False, "cache_isolation": "off"}
    with RealInner(tmp_path_factory.mktemp("host"), behind(edge=edge), INNER) as running:
        yield running


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGateway]:
    with RealGateway(tmp_path_factory.mktemp("gw"), gateway(edge=EDGE), KEYS) as running:
        yield running


class TestNames:
    """What a host calls its responses."""

    def got(self, host: RealInner, body: str, agent: str = "qwen") -> bytes:
        """What the agent gets for it."""
        received: list[bytes] = []

        def speaks(_path: str, content: bytes) -> tuple[str, list[bytes]]:
            received.append(content)
            return "application/json", [b"{}"]

        server: Any = host.agents[agent]
        server.speaks = speaks
        try:
            assert host.through(RESPONSES, "POST", body, agent=agent).status == 200
        finally:
            server.speaks = None
        [found] = received
        return found

    @pytest.mark.parametrize("agent", ["qwen", "coder"])
    def test_they_say_who_made_them(self, host: RealInner, agent: str) -> None:
        asked = {"model": "m", "input": "x", "stream": True}
        found = [json.loads(self.got(host, json.dumps(asked), agent)) for _ in range(2)]
        ids = [one.pop("request_id") for one in found]
        assert found == [asked, asked]
        shape = rf"resp_{made_by('gpu1', agent)}[0-9a-f]{{32}}"
        assert all(re.fullmatch(shape, one) for one in ids) and len({*ids}) == 2

    def test_not_what_a_client_calls_them(self, host: RealInner) -> None:
        for body in (
            '{"request_id": "mine", "input": "x"}',
            '{"input": "x", "request\\u005fid": "mine" }  ',
        ):
            found = json.loads(self.got(host, body))
            assert found["request_id"].startswith(f"resp_{QWEN}")

    def test_of_any_size(self, host: RealInner) -> None:
        text = "x" * 2_000_000
        found = json.loads(self.got(host, json.dumps({"input": text})))
        assert found["input"] == text and found["request_id"].startswith("resp_")

    @pytest.mark.parametrize("body", ["", "[1]", '{"input": "x"', "{}{}", "x"])
    def test_no_other_body_goes_on(self, host: RealInner, body: str) -> None:
        server: Any = host.agents["qwen"]
        before = len(server.asked)
        assert host.through(RESPONSES, "POST", body).status == 400
        assert len(server.asked) == before

    def test_other_paths_are_as_they_were(self, host: RealInner) -> None:
        server: Any = host.agents["qwen"]
        assert host.through("/v1/chat/completions", "POST", "no JSON").status == 200
        assert server.asked[-1][1] == "/v1/chat/completions"


class TestAtAGateway:
    """What its nginx says to HAProxy."""

    @staticmethod
    def counts(edge: RealGateway) -> list[int]:
        servers: list[Any] = [*edge.agents.values()]
        return [len(one.asked) for one in servers]

    def made(self, edge: RealGateway, pool: str) -> str | None:
        """What the last request that came to HAProxy said of it."""
        server: Any = edge.agents[pool]
        sent = {name.lower(): value for name, value in server.asked[-1][2].items()}
        return sent.get(HEADER.lower())

    @pytest.mark.parametrize("more", ["", "/cancel"])
    @pytest.mark.parametrize(("tag", "pool"), [(QWEN, "qwen"), (CODER, "coder")])
    @pytest.mark.parametrize("prefixed", [True, False])
    def test_by_its_identifier(
        self, edge: RealGateway, more: str, tag: str, pool: str, prefixed: bool
    ) -> None:
        path = f"{RESPONSES}/{named(tag)}{more}"
        prefix = f"/{pool}" if prefixed else ""
        method = "POST" if more else "GET"
        answer = edge.ask(f"{prefix}{path}", ALICE, method, "" if more else None)
        assert answer.status == 200
        server: Any = edge.agents[pool]
        assert server.asked[-1][:2] == (method, path)
        assert self.made(edge, pool) == tag
        entry = json.loads(edge.log().splitlines()[-1])
        assert (entry["agent"], entry["path"]) == (pool, f"{prefix}{RESPONSES}/ID{more}")

    @pytest.mark.parametrize("prefix", ["", "/qwen"])
    @pytest.mark.parametrize(
        "name", ["resp_1", f"resp_{NUMBER}", named("0" * 16), named(QWEN).upper(), named(QWEN)[:-1]]
    )
    def test_nobody_has_made_it(self, edge: RealGateway, prefix: str, name: str) -> None:
        before = self.counts(edge)
        answer = edge.ask(f"{prefix}{RESPONSES}/{name}", ALICE)
        assert (answer.status, json.loads(answer.body)) == (404, GONE)
        assert self.counts(edge) == before

    def test_an_agent_s_path_is_its_own(self, edge: RealGateway) -> None:
        assert edge.ask(f"/qwen{RESPONSES}/{named(CODER)}", ALICE).status == 404

    def test_what_a_key_may_not_use_it_cannot_read(self, edge: RealGateway) -> None:
        for path in (f"{RESPONSES}/{named(QWEN)}", f"/qwen{RESPONSES}/{named(QWEN)}"):
            assert edge.ask(path, BOB).status == 403
        assert edge.ask(f"{RESPONSES}/{named(CODER)}", BOB).status == 200
        assert edge.ask(f"{RESPONSES}/{named(QWEN)}").status == 401

    @pytest.mark.parametrize("path", [RESPONSES, f"/qwen{RESPONSES}"])
    @pytest.mark.parametrize(
        ("link", "tag"),
        [(named(QWEN), QWEN), ("resp_1", "none"), ("", "none"), (None, None), (7, None)],
    )
    def test_one_that_goes_on_from_it(
        self, edge: RealGateway, path: str, link: object, tag: str | None
    ) -> None:
        body = {"model": "qwen", "input": "x" * 300_000, "previous_response_id": link}
        for session in ({}, {"X_Session_Id": "s1"}):
            answer = edge.ask(path, ALICE, "POST", json.dumps(body), **session)
            assert answer.status == 200
            assert self.made(edge, "qwen") == tag

    def test_other_requests_name_nobody(self, edge: RealGateway) -> None:
        """Whatever they say."""
        body = json.dumps({"model": "qwen", "messages": [], "previous_response_id": named(QWEN)})
        edge.ask("/v1/chat/completions", ALICE, "POST", body, X_Vllm_Hosts_Made_By=QWEN)
        assert self.made(edge, "qwen") is None
        edge.ask("/qwen/v1/models", ALICE, X_Vllm_Hosts_Made_By=QWEN)
        assert self.made(edge, "qwen") is None


class TestAtHaproxy:
    @pytest.fixture
    def usual(self, tmp_path: Path) -> Iterator[RealBalancer]:
        """Nobody counts as dead because a check is late."""
        with RealBalancer(tmp_path, settings()) as one:
            yield one

    @pytest.fixture
    def hurried(self, tmp_path: Path) -> Iterator[RealBalancer]:
        with RealBalancer(tmp_path, settings(), hurried=True) as one:
            yield one

    @staticmethod
    def ask(
        gateway: RealBalancer,
        tag: str,
        body: bytes = b"",
        *,
        pool: str = "qwen",
        path: str = "/v1/chat/completions",
        key: str = "a",
    ) -> Answer:
        """By default without a body, which who answers early would not read."""
        return gateway.ask(key, body, pool, **{HEADER: tag, "path": path})

    @staticmethod
    def tag(gateway: RealBalancer, one: StandIn) -> str:
        [pool] = gateway.settings.pools
        return next(known.made_by for known in pool.replicas if known.server == one.name)

    def test_only_who_made_it_is_asked(self, usual: RealBalancer) -> None:
        for one in usual.replicas:
            tag = self.tag(usual, one)
            asked = {self.ask(usual, tag, b"{}", key=key).body for key in "abcd"}
            assert asked == {one.name}
            assert HEADER.lower() not in {name.lower() for name in one.asked[-1][0]}
        assert sum(one.running for one in usual.servers()) == 0

    def test_nobody_by_that_name(self, usual: RealBalancer) -> None:
        answer = self.ask(usual, "none")
        assert (answer.status, json.loads(answer.body)) == (404, GONE)
        assert not any(one.asked for one in usual.replicas)

    def test_one_that_is_gone(self, hurried: RealBalancer) -> None:
        one = hurried.replicas[0]
        one.alive = False
        hurried.until(lambda: not hurried.alive(one), "it still serves")
        answer = self.ask(hurried, self.tag(hurried, one))
        assert (answer.status, json.loads(answer.body)) == (404, GONE)
        assert not any(one.asked for one in hurried.replicas)

    def test_it_is_tried_nowhere_else(self, usual: RealBalancer) -> None:
        """Neither by HAProxy nor by nginx."""
        one = usual.replicas[0]
        tag = self.tag(usual, one)
        for how in ("busy", "nothing"):
            one.answers = how
            assert self.ask(usual, tag).status in (502, 503)
            assert self.ask(usual, tag, pool=f"qwen{AGAIN}").status == 503
        one.ends()
        began = time.monotonic()
        assert self.ask(usual, tag).status in (404, 502, 503)
        assert time.monotonic() - began < 8
        assert not any(other.asked for other in usual.replicas[1:])

    def test_nothing_goes_on_where_it_is_drained(self, usual: RealBalancer) -> None:
        """But what it has can be read."""
        one = usual.replicas[0]
        tag = self.tag(usual, one)
        usual.tell(one, ServerState.DRAIN)
        assert self.ask(usual, tag, path=RESPONSES).status == 404
        assert self.ask(usual, tag, path=f"{RESPONSES}/x/cancel").body == one.name
        usual.tell(one, ServerState.READY)
        assert self.ask(usual, tag, path=RESPONSES).body == one.name

    def test_it_counts_as_running(self, usual: RealBalancer) -> None:
        one = usual.replicas[0]
        one.answers = "stream"
        with usual.asking("a", b"", "qwen", **{HEADER: self.tag(usual, one)}) as answer:
            assert answer.read(5) == b"first"
            assert [found.running for found in usual.servers()] == [1, 0, 0]
            usual.restart()
            assert [found.running for found in usual.servers()] == [1, 0, 0]
            one.go_on.set()
            assert answer.read() == b"last"


class TestAllTheWay:
    """A gateway's nginx and its HAProxy; hosts are the tests' own."""

    @pytest.fixture
    def way(self, tmp_path: Path) -> Iterator[Way]:
        with ExitStack() as stack:
            yield Way(stack, tmp_path)

    def go_on(self, way: Way, tag: str, size: int = 1) -> tuple[int, str]:
        body = {"model": MODEL, "input": "x" * size, "previous_response_id": f"resp_{tag}{NUMBER}"}
        answer = way.front.ask(RESPONSES, ALICE, "POST", json.dumps(body))
        return answer.status, answer.body

    def test_it_goes_on_where_it_began(self, way: Way) -> None:
        for one in way.balancer.replicas:
            tag = TestAtHaproxy.tag(way.balancer, one)
            assert {self.go_on(way, tag, size) for size in (1, 1_000_000)} == {(200, one.name)}

    @pytest.mark.parametrize("size", [1, 3_000_000])
    def test_or_is_told_at_once_that_it_cannot(self, way: Way, size: int) -> None:
        one = way.balancer.replicas[0]
        tag = TestAtHaproxy.tag(way.balancer, one)
        one.alive = False
        way.balancer.until(lambda: not way.balancer.alive(one), "it still serves")
        for asked in (tag, "0" * 16):
            status, body = self.go_on(way, asked, size)
            assert (status, json.loads(body)) == (404, GONE)
        answer = way.front.ask(f"{RESPONSES}/resp_{tag}{NUMBER}", ALICE)
        assert (answer.status, json.loads(answer.body)) == (404, GONE)
        entry = json.loads(way.front.log().splitlines()[-1])
        assert (entry["status"], entry["upstream_status"]) == (404, "")
        assert not any(other.asked for other in way.balancer.replicas)

    def test_what_breaks_there_is_not_tried_elsewhere(self, way: Way) -> None:
        one = way.balancer.replicas[0]
        one.answers = "busy"
        assert self.go_on(way, TestAtHaproxy.tag(way.balancer, one))[0] == 503
        assert not any(other.asked for other in way.balancer.replicas[1:])

    def test_it_waits_for_haproxy(self, way: Way) -> None:
        one = way.balancer.replicas[0]
        way.balancer.stop()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.go_on, way, TestAtHaproxy.tag(way.balancer, one))
            time.sleep(0.5)
            way.balancer.start()
            assert waiting.result() == (200, one.name)
