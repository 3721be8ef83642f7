"""Requests that find nobody behind HAProxy's sockets, in a real nginx.

The tests' own servers come and go there.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.unit.programs.test_edge_gateway import ALICE, CHAT, EDGE, KEYS, RESPONSE, chat
from tests.unit.real_gateway import RealGateway, stand_in_balancer
from tests.unit.real_nginx import Answer
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.vllm_words import Talk
from vllm_hosts.settings.fleet import AGAIN, Pool, Replica

#: One of two replicas, and one of a single one.
POOLS = (
    Pool(
        "qwen",
        "qwen",
        tuple(Replica(host, "qwen", "192.0.2.11", 8443) for host in ("gpu1", "gpu2")),
    ),
    Pool("coder", "coder-14b", (Replica("gpu1", "coder", "192.0.2.11", 8443),)),
)
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGateway]:
    """Nobody listens anywhere until a test does so."""
    own = settings(name="gw1.example.com", agents=[QWEN, CODER], edge=EDGE)
    own = own.model_copy(update={"pools": POOLS})
    with RealGateway(tmp_path_factory.mktemp("gw"), own, KEYS) as running:
        for one in running.sockets.iterdir():
            one.unlink()
        yield running


@pytest.fixture(autouse=True)
def tidy(edge: RealGateway) -> Iterator[None]:
    yield
    for one in edge.sockets.iterdir():
        one.unlink()


@dataclass
class Speaker:
    """Takes a request, and says these bytes, whatever they are."""

    path: Path
    says: bytes
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.socket.listen(64)
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                one, _ = self.socket.accept()
                with one:
                    one.settimeout(5)
                    # A look without a request, as whoever waits makes one, says nothing.
                    if found := self._request(one):
                        self.asked.append(found)
                        one.sendall(self.says)

    @staticmethod
    def _request(one: socket.socket) -> bytes:
        found = b""
        while b"\r\n\r\n" not in found:
            if not (piece := one.recv(65536)):
                return b""
            found += piece
        head, _, body = found.partition(b"\r\n\r\n")
        length = next(
            (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")),
            b":0",
        )
        while len(body) < int(length.partition(b":")[2]):
            body += one.recv(65536)
        return head + b"\r\n\r\n" + body

    def ends(self) -> None:
        # Closing alone would leave whoever accepts there.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.path.unlink()


@contextmanager
def comes(edge: RealGateway, after: float, pool: str = "qwen") -> Iterator[Any]:
    """A stand-in for HAProxy that listens after some time."""
    with ThreadPoolExecutor(1) as threads:

        def start() -> Any:
            time.sleep(after)
            server = stand_in_balancer(edge.sockets / f"in.{pool}.sock")
            Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            return server

        coming = threads.submit(start)
        try:
            yield coming
        finally:
            server = coming.result()
            server.shutdown()
            server.server_close()


def sends(edge: RealGateway, body: object, path: str = CHAT, **more: str) -> Answer:
    return edge.ask(path, ALICE, "POST", json.dumps(body), **more)


def entries(edge: RealGateway, before: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in edge.log().removeprefix(before).splitlines()]


@pytest.mark.parametrize("path", [CHAT, f"/qwen{CHAT}"])
def test_a_request_of_any_size_waits(edge: RealGateway, path: str) -> None:
    body = chat("x" * 3_000_000)
    # A busy machine may take longer to send it than HAProxy is away.
    for seconds in (1.0, 3.0, 4.5):
        before = edge.log()
        with comes(edge, seconds) as coming:
            answer = sends(edge, body, path)
            server = coming.result()
        edge.sockets.joinpath("in.qwen.sock").unlink()
        assert answer.status == 200
        if " : " in entries(edge, before)[0]["upstream_status"]:
            break
    [asked] = server.asked
    assert asked[:2] == ("POST", CHAT)
    sent = {name.lower(): value for name, value in asked[2].items()}
    assert sent["x-vllm-hosts-client"] == "alice"
    assert sent["x-vllm-hosts-affinity"].startswith("alice:")
    assert int(sent["content-length"]) > 3_000_000
    # A line for the request, which tells of all of it.
    [entry] = entries(edge, before)
    assert (entry["status"], entry["path"], entry["model"]) == (200, path, "qwen")
    assert entry["upstream_status"].endswith(" : 200")
    assert entry["seconds"] > 0.1 and entry["request_id"] == sent["x-request-id"]


@pytest.mark.parametrize("stream", [True, False])
def test_its_tokens_are_counted(edge: RealGateway, stream: bool) -> None:
    """As they would have been, and the client gets of them what it has asked for."""
    talk = Talk(prompt=17, choices=(("Hel", "lo"),), cached=3)
    before = edge.log()
    with comes(edge, 0.5) as coming, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(sends, edge, chat("hi", stream=stream))
        coming.result().speaks = talk.answer
        said = answer.result()
    assert said.status == 200
    assert ('"usage"' in said.body) is not stream
    [entry] = entries(edge, before)
    assert (entry["prompt_tokens"], entry["cached_tokens"], entry["completion_tokens"]) == (
        17,
        3,
        2,
    )


def test_what_is_not_counted_stays_so(edge: RealGateway) -> None:
    says = FINE.replace(
        b"2\r\n\r\n{}",
        b'32\r\nContent-Type: application/json\r\n\r\n{"usage": {"prompt_tokens": 17}}',
    )
    before = edge.log()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(edge.ask, f"/qwen/v1/responses/{RESPONSE}", ALICE)
        time.sleep(0.3)
        speaker = Speaker(edge.sockets / "in.qwen.sock", says)
        assert answer.result().status == 200
        speaker.ends()
    [entry] = entries(edge, before)
    assert (entry["prompt_tokens"], entry["path"]) == (None, "/qwen/v1/responses/ID")
    assert speaker.asked[-1].startswith(f"GET /v1/responses/{RESPONSE} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("path", ["/health", "/v1/models/qwen", "/qwen/v1/models"])
def test_so_does_whoever_asks_what_there_is(edge: RealGateway, path: str) -> None:
    with comes(edge, 0.5):
        assert edge.ask(path, ALICE).status == 200


def test_many_wait_together(edge: RealGateway) -> None:
    with ThreadPoolExecutor(40) as threads, comes(edge, 1.5):
        waiting: list[Future[Answer]] = [
            threads.submit(sends, edge, chat(f"c{number}")) for number in range(40)
        ]
        assert {one.result().status for one in waiting} == {200}


def test_in_the_end_it_is_told_to_come_again(edge: RealGateway) -> None:
    before, began = edge.log(), time.monotonic()
    answer = sends(edge, chat("hi"))
    assert 4 < time.monotonic() - began < 8
    assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
    assert json.loads(answer.body)["error"]["code"] == "model_not_ready"
    [entry] = entries(edge, before)
    assert (entry["status"], entry["prompt_tokens"]) == (503, None)


class TestWhatSomebodyGot:
    """Connections that break: nobody is asked a third time, and nothing is run again that was
    answered."""

    def test_nobody_said_anything(self, edge: RealGateway) -> None:
        """Its second try waits for HAProxy, and goes to another agent."""
        first = Speaker(edge.sockets / "in.qwen.sock", b"")
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(sends, edge, chat("hi"))
            time.sleep(0.3)
            other = Speaker(edge.sockets / f"in.qwen{AGAIN}.sock", FINE)
            found = answer.result()
            other.ends()
        first.ends()
        assert found.status == 200
        assert (len(first.asked), len(other.asked)) == (1, 1)

    def test_nor_the_second_time(self, edge: RealGateway) -> None:
        speakers = [Speaker(edge.sockets / f"in.qwen{name}.sock", b"") for name in ("", AGAIN)]
        began = time.monotonic()
        assert sends(edge, chat("hi")).status == 503
        assert time.monotonic() - began < 2
        assert [len(one.asked) for one in speakers] == [1, 1]
        for one in speakers:
            one.ends()

    def test_there_is_no_other_agent(self, edge: RealGateway) -> None:
        only = Speaker(edge.sockets / "in.coder.sock", b"")
        began = time.monotonic()
        assert sends(edge, chat("hi") | {"model": "coder-14b"}).status == 503
        assert time.monotonic() - began < 2
        assert len(only.asked) == 1
        only.ends()

    def test_it_was_no_answer(self, edge: RealGateway) -> None:
        """It was something, though."""
        first = Speaker(edge.sockets / "in.qwen.sock", b"HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n")
        began = time.monotonic()
        assert sends(edge, chat("hi")).status == 503
        assert time.monotonic() - began < 2
        first.ends()
        assert len(first.asked) == 1

    @pytest.mark.parametrize("pool", ["qwen", "coder"])
    def test_half_an_answer(self, edge: RealGateway, pool: str) -> None:
        half = FINE.replace(b"2\r\n\r\n{}", b"9\r\n\r\n{")
        first = Speaker(edge.sockets / f"in.{pool}.sock", half)
        body = json.dumps(chat("hi") | {"model": {"coder": "coder-14b"}.get(pool, pool)})
        said = edge.raw(
            f"POST {CHAT} HTTP/1.1\r\nHost: {edge.name}\r\nAuthorization: Bearer {ALICE}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        first.ends()
        assert said.startswith(b"HTTP/1.1 200 ") and said.endswith(b"{")
        assert len(first.asked) == 1

    @pytest.mark.parametrize("status", [502, 503])
    def test_the_first_one_was_refused(self, edge: RealGateway, status: int) -> None:
        """And HAProxy goes before another one is asked."""
        refusing = FINE.replace(b"200 OK", b"%d Odd" % status)
        first = Speaker(edge.sockets / "in.qwen.sock", refusing)
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(sends, edge, chat("hi"))
            time.sleep(0.3)
            other = Speaker(edge.sockets / f"in.qwen{AGAIN}.sock", FINE)
            found = answer.result()
            other.ends()
        first.ends()
        assert found.status == 200
        assert (len(first.asked), len(other.asked)) == (1, 1)
