"""Whether an agent's engine lives, as a host tells gateways; engines are stand-ins."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Event, Lock, Thread
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.real_gateway import RealInner
from tests.unit.samples import QWEN, behind
from vllm_hosts.keys import HostKeys
from vllm_hosts.settings import HostSettings

KEYS = HostKeys(internal=SecretStr("INTERNAL-KEY"), clients=(), hf_token=None)
#: Seconds that a gateway waits from one question to the next one.
EVERY = 1.0
#: How much faster time passes in most of the tests than on a host.
PACE = 2
#: Seconds of a host after which something never happens, however busy this machine is.
LATE = 20
#: What engine_pulse.lua waits for, as it stands there.
TIMES = (0.9, 4, 3, 3, 6.5)
OK, FAILED, UNKNOWN = "200 OK", "500 Internal Server Error", "404 Not Found"


class Engine(ThreadingTCPServer):
    """vLLM's port: a test says what it answers."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.server_port = self.server_address[1]
        self.moved, self.running = 1, 0
        #: Method and path of each request, with when it came.
        self.asked: list[tuple[str, float]] = []
        self.heads: list[str] = []
        self.closing = Event()
        self.metrics: Callable[[socket.socket], None] = self.says_numbers
        self.token: Callable[[socket.socket, str], None] = self.makes_one
        self.health = OK

    def says_numbers(self, connection: socket.socket) -> None:
        answer(connection, OK, self.numbers())

    def numbers(self) -> str:
        lines = [
            "# HELP vllm:num_requests_running x",
            f'vllm:num_requests_running{{engine="0",model_name="q w"}} {self.running}.0',
            f'vllm:generation_tokens_total{{engine="0",model_name="q w"}} {self.moved}.0',
            *(f'vllm:e2e_request_latency_seconds_bucket{{le="{n}"}} {time.time()}' for n in "123"),
            f"process_cpu_seconds_total {time.time()}",
        ]
        return "".join(f"{line}\n" for line in lines)

    def makes_one(self, connection: socket.socket, path: str) -> None:
        if path != "/v1/completions":
            answer(connection, UNKNOWN)
            return
        self.moved += 1
        answer(connection, OK, "{}")

    def freeze(self) -> None:
        """The engine stands still; its API answers what needs none."""
        self.token = lambda connection, path: self.hang(connection)

    def hang(self, connection: socket.socket) -> None:
        del connection
        self.closing.wait(30)

    def tokens(self) -> list[float]:
        """When it was asked for one."""
        return [at for what, at in self.asked if what.startswith("POST ")]


class _Handler(BaseRequestHandler):
    server: Engine

    def handle(self) -> None:
        with suppress(OSError):
            text = b""
            while b"\r\n\r\n" not in text:
                piece = self.request.recv(65536)
                if not piece:
                    return
                text += piece
            head = text.decode().partition("\r\n\r\n")[0]
            what, _, _ = head.partition(" HTTP")
            self.server.asked.append((what, time.monotonic()))
            self.server.heads.append(head)
            if what == "GET /metrics":
                self.server.metrics(self.request)
            elif what == "GET /health":
                answer(self.request, self.server.health)
            else:
                self.server.token(self.request, what.removeprefix("POST "))


def answer(
    connection: socket.socket, status: str, text: str = "", kind: str = "text/plain"
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n"
    connection.sendall((head + text).encode())


class Host(RealInner):
    """A host whose agent is an engine as above."""

    def __init__(self, folder: Path, settings: HostSettings, pace: int = PACE) -> None:
        super().__init__(folder, settings, KEYS)
        self.pace = pace
        for agent in self.agents.values():
            agent.server_close()
        self.engines = [Engine() for _ in settings.agents]
        self.engine = self.engines[0]
        agents: dict[str, Any] = {
            agent.name: engine for agent, engine in zip(settings.agents, self.engines, strict=True)
        }
        self.agents = agents
        self.settings = self.settings.model_copy(
            update={
                "agents": tuple(
                    agent.model_copy(update={"port": agents[agent.name].server_port})
                    for agent in settings.agents
                )
            }
        )

    def _moved(self, text: str) -> str:
        text = super()._moved(text)
        if "LIFE = " in text:
            there = ", ".join(map(str, TIMES))
            assert there in text
            text = text.replace(there, ", ".join(str(one / self.pace) for one in TIMES))
        return text

    def __exit__(self, *done: object) -> None:
        for engine in self.engines:
            engine.closing.set()
        super().__exit__(*done)

    def pulse(self) -> int:
        started = time.monotonic()
        answer = self.through("/pulse", client=None)
        # Whatever the engine does, a gateway does not wait for it.
        assert time.monotonic() - started < 3
        return answer.status

    def now(self) -> float:
        return time.monotonic() * self.pace

    def until(self, status: int, limit: float) -> float:
        """How long it takes until it says so, asked again and again; in seconds of a host."""
        started = self.now()
        while self.pulse() != status:
            assert self.now() - started < limit, f"no {status} within {limit} s"
            time.sleep(EVERY / self.pace)
        return self.now() - started

    def stays(self, status: int, seconds: float) -> None:
        """It says so all the time."""
        until = self.now() + seconds
        while self.now() < until:
            assert self.pulse() == status
            time.sleep(EVERY / self.pace)


_STARTS = Lock()


@contextmanager
def started(folder: Path, pace: int = PACE) -> Iterator[Host]:
    with ExitStack() as stack:
        # One after the other: a port that was free would be another one's by now.
        with _STARTS:
            made = Host(folder, behind(edge={"names": ["gpu1.example.com"]}), pace)
            stack.enter_context(made)
        yield made


Scenario = Callable[[Host], None]
SCENARIOS: dict[str, tuple[Scenario, int]] = {}


def scenario(pace: int = PACE) -> Callable[[Scenario], Scenario]:
    """They wait more than they work, so all of them are played at once."""

    def noted(play: Scenario) -> Scenario:
        SCENARIOS[play.__name__] = (play, pace)
        return play

    return noted


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    def play(name: str) -> None:
        what, pace = SCENARIOS[name]
        with started(tmp_path_factory.mktemp("host"), pace) as host:
            what(host)

    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        yield {name: pool.submit(play, name) for name in SCENARIOS}


@scenario()
def an_idle_engine_makes_a_token_every_few_seconds(host: Host) -> None:
    host.stays(200, 10)
    asked = host.engine.tokens()
    assert 2 <= len(asked) <= 4
    assert all((later - one) * host.pace > 2.9 for one, later in pairwise(asked))
    head = next(one for one in host.engine.heads if one.startswith("POST"))
    key = KEYS.internal_of("qwen").get_secret_value()
    assert f"Authorization: Bearer {key}" in head
    assert not any("Bearer" in one for one in host.engine.heads if one.startswith("GET"))
    assert "pulse" not in host.log() and not (host.folder / "main.log").read_text()


@scenario(pace=1)
def a_frozen_engine_is_out_within_ten_seconds_and_comes_back(host: Host) -> None:
    host.stays(200, 1.5)
    host.engine.freeze()
    assert host.until(503, 9.5) > 3
    host.stays(503, 4)
    asked = host.engine.tokens()
    assert all((later - one) * host.pace > 2.9 for one, later in pairwise(asked))
    host.engine.token = host.engine.makes_one
    host.until(200, 15)


@scenario()
def a_saturated_engine_stays(host: Host) -> None:
    """No request of ours would be answered in time; its numbers move."""
    engine = host.engine
    engine.running = 100
    engine.freeze()
    stop = Event()

    def work() -> None:
        while not stop.wait(0.3 / host.pace):
            engine.moved += 1

    Thread(target=work, daemon=True).start()
    host.until(200, LATE)
    before = len(engine.tokens())
    host.stays(200, 9)
    assert len(engine.tokens()) == before
    stop.set()
    assert host.until(503, LATE) > 4


@scenario()
def slow_metrics_of_a_busy_one_are_waited_for(host: Host) -> None:
    engine = host.engine
    engine.freeze()

    def slow(connection: socket.socket) -> None:
        engine.closing.wait(2.5 / host.pace)
        engine.moved += 1
        engine.says_numbers(connection)

    engine.metrics = slow
    host.until(200, LATE)
    host.stays(200, 8)


@scenario()
def an_agent_that_starts_or_is_gone_is_down_at_once(host: Host) -> None:
    host.stays(200, 1)
    host.engine.shutdown()
    host.engine.server_close()
    assert host.until(503, LATE)
    host.stays(503, 2)
    again: Any = Engine(host.engine.server_port)
    Thread(target=again.serve_forever, daemon=True).start()
    host.agents["qwen"] = again
    host.engines.append(again)
    host.until(200, LATE)


@scenario()
def a_frozen_process_is_out(host: Host) -> None:
    """SIGSTOP: the kernel takes connections for it, and nobody answers."""
    host.stays(200, 1.5)
    host.engine.metrics = host.engine.hang
    host.engine.freeze()
    assert host.until(503, LATE) > 3
    host.engine.metrics = host.engine.says_numbers
    host.engine.token = host.engine.makes_one
    host.until(200, LATE)


@scenario()
def an_engine_that_fails_is_dead(host: Host) -> None:
    host.stays(200, 1)
    host.engine.token = lambda connection, path: answer(connection, FAILED)
    host.until(503, LATE)


def other_model(path: str) -> None:
    """One that makes something else, which is asked for from then on."""

    def play(host: Host) -> None:
        engine = host.engine

        def makes(connection: socket.socket, asked: str) -> None:
            answer(connection, OK if asked == path else UNKNOWN)

        engine.token = makes
        host.stays(200, 7)
        asked = [what for what, _ in engine.asked if what.startswith("POST")]
        assert asked.count(f"POST {path}") >= 2
        assert asked.count("POST /v1/completions") == 1

    SCENARIOS[f"a model that answers at {path} is asked there"] = (play, PACE)


for other in ("/v1/embeddings", "/pooling", "/classify"):
    other_model(other)


@scenario()
def a_model_without_tokens_to_ask_for_goes_by_its_health(host: Host) -> None:
    engine = host.engine
    engine.token = lambda connection, path: answer(connection, UNKNOWN)
    host.stays(200, 8)
    # Requests run, and nothing moves: that is no idle one.
    engine.running = 1
    host.until(503, LATE)


@scenario()
def without_such_metrics_health_decides(host: Host) -> None:
    engine = host.engine
    engine.metrics = lambda connection: answer(connection, OK, "other_metric 1\n")
    host.stays(200, 8)
    assert engine.tokens() == []
    engine.health = "503 Service Unavailable"
    host.until(503, LATE)
    engine.health = OK
    engine.metrics = lambda connection: answer(connection, UNKNOWN)
    host.until(200, LATE)


@scenario()
def many_gateways_are_one(host: Host) -> None:
    host.pulse()
    before = len(host.engine.asked)
    with ThreadPoolExecutor(8) as pool:
        until = host.now() + 6
        while host.now() < until:
            assert set(pool.map(lambda _: host.pulse(), range(8))) == {200}
    looks = [at for what, at in host.engine.asked[before:] if what == "GET /metrics"]
    assert 3 <= len(looks) <= 8
    assert len(host.engine.tokens()) <= 3


@scenario()
def what_is_seen_outlives_a_reload(host: Host) -> None:
    host.stays(200, 1)
    host.process.send_signal(1)
    host.stays(200, 2)


@scenario()
def an_agent_that_another_one_answers_for_has_its_pulse(host: Host) -> None:
    """As a deploy has it while one of two restarts."""
    host.stays(200, 1)
    (host.folder / "edge/targets.map").write_text("qwen vllm_hosts_coder;\n")
    host.process.send_signal(1)
    host.engine.shutdown()
    host.engine.server_close()
    time.sleep(1)
    host.stays(200, 5)
    key = KEYS.internal_of("coder").get_secret_value()
    assert any(f"Bearer {key}" in one for one in host.engines[1].heads)


def _endless(connection: socket.socket) -> None:
    answer(connection, OK)
    line = b'vllm:generation_tokens_total{x="' + b"y" * 65000 + b'"} 1.0\n'
    while True:
        connection.sendall(line)


def _no_line(connection: socket.socket) -> None:
    answer(connection, OK)
    while True:
        connection.sendall(b"x" * 65536)


def _drips(connection: socket.socket) -> None:
    answer(connection, OK, "vllm:generation_tokens_total")
    while True:
        connection.sendall(b" ")
        time.sleep(0.2)


def _only_lines(connection: socket.socket) -> None:
    answer(connection, OK)
    while True:
        connection.sendall(b"\nvllm:generation_tokens_total 1" * 2000)


HOSTILE: dict[str, Callable[[socket.socket], None]] = {
    "endless lines": _endless,
    "a line without end": _no_line,
    "a byte now and then": _drips,
    "many numbers": _only_lines,
    "rubbish": lambda connection: connection.sendall(b"\0\xff" * 5000),
    "numbers that are none": lambda connection: answer(
        connection,
        OK,
        "".join(
            f"vllm:generation_tokens_total {word}\n"
            for word in ("NaN", "+Inf", "0x10", "1e999", "-1", "1" * 5000, "1..2", "$(id)")
        ),
    ),
    "a head without end": lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n" * 200000),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_pulse_says_whether_the_engine_lives(played: dict[str, Future[None]], name: str) -> None:
    played[name].result()


def test_hostile_agents_hold_nobody_up(tmp_path: Path) -> None:
    """nginx answers everybody else meanwhile, and does not grow."""
    agents = [QWEN | {"name": f"a{n}", "port": 8001 + n, "gpus": []} for n in range(len(HOSTILE))]
    made = Host(tmp_path, behind(agents=agents, edge={"names": ["gpu1.example.com"]}), pace=1)
    with made as host:
        for agent in host.agents:
            assert host.through("/pulse", agent=agent).status == 200
        before, waited = memory(host), []
        for engine, says in zip(host.engines, HOSTILE.values(), strict=True):
            engine.metrics = says
            engine.freeze()
        until = time.monotonic() + 8
        while time.monotonic() < until:
            for agent in host.agents:
                host.through("/pulse", agent=agent)
                began = time.monotonic()
                assert host.through("/v1/nothing", agent=agent).status == 404
                waited.append(time.monotonic() - began)
                # A quick machine would ask more often than anybody may.
                time.sleep(0.1)
        # Some wait for this test's own threads.
        assert sorted(waited)[len(waited) // 2] < 0.5
        assert memory(host) - before < 8000
        # Only where there are no numbers of an engine, health decides.
        said = {
            name: host.through("/pulse", agent=agent).status
            for name, agent in zip(HOSTILE, host.agents, strict=True)
        }
        assert said.pop("rubbish") == said.pop("numbers that are none") == 200
        assert not (host.folder / "main.log").read_text()


def memory(host: Host) -> int:
    """Kilobytes of nginx's worker."""
    children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children").read_text()
    found = 0
    for child in children.split():
        for line in Path(f"/proc/{child}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                found += int(line.split()[1])
    return found
