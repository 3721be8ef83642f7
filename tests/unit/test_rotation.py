"""What HAProxy says of agents and is told of them, in its own words and by a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.real_nginx import UNPACKED
from vllm_hosts.facts.base import END
from vllm_hosts.facts.rotation import AgentsBusy, BalancerSeen
from vllm_hosts.host import rotation
from vllm_hosts.host.rotation import Balancer, Server, agent_of, balancer, telling

STAT = """\
# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight
qwen,FRONTEND,,,3,3,2000,9,OPEN,
qwen,qwen.haaaa,1,1,2,2,,9,DRAIN,0
qwen,qwen.hbbbb,0,0,1,1,,0,UP,1
qwen,coder.hcccc,0,0,0,0,,0,DOWN,1
qwen,BACKEND,0,0,3,3,200,9,UP,1
"""
STATES = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight
3 qwen 1 qwen.haaaa 192.0.2.1 2 8 1
3 qwen 2 qwen.hbbbb 192.0.2.2 1 0 1
3 qwen 3 coder.hcccc 192.0.2.3 0 0 1
"""


def seen(stat: str = STAT, states: str = STATES, by_hand: tuple[str, ...] = ()) -> Balancer:
    return balancer(stat.splitlines(), states.splitlines(), by_hand)


def test_what_it_says() -> None:
    assert seen(by_hand=("qwen.haaaa", "qwen.hbbbb")).servers == (
        Server("qwen", "qwen.haaaa", up=True, drained=True, running=3, by_hand=True),
        # A mark of a time before says nothing.
        Server("qwen", "qwen.hbbbb", up=True, drained=False, running=1),
        Server("qwen", "coder.hcccc", up=False, drained=False, running=0),
    )
    assert [server.takes for server in seen().servers] == [False, True, False]
    assert [server.agent for server in seen().servers] == ["qwen", "qwen", "coder"]
    assert agent_of("qwen3-8b.h0123") == "qwen3-8b"


@pytest.mark.parametrize("flags", [1, 2, 4, 0x20, 0x40])
def test_in_maintenance_it_is_not_up(flags: int) -> None:
    found = seen(states=STATES.replace("192.0.2.2 1 0", f"192.0.2.2 2 {flags}"))
    assert not found.servers[1].takes


def test_who_answers_in_the_place_of_whom() -> None:
    one, two, three = seen().servers
    assert seen().others_take(one, ())
    assert not seen().others_take(one, ["qwen.hbbbb"])
    assert not seen().others_take(two, ())
    other = Balancer((two, Server("other", "qwen.hdddd", up=True, drained=False, running=0)))
    assert not other.others_take(two, ()), "of another pool"
    assert seen().of(["qwen.haaaa", "none"]) == [one]
    assert seen().others_take(three, ())


@pytest.mark.parametrize(
    ("stat", "states"),
    [
        ("", STATES),
        (STAT, ""),
        (STAT.replace("# pxname", "pxname"), STATES),
        (STAT, STATES.replace("1\n#", "2\n#")),
        (STAT, STATES.replace("2 8 1", "2 8")),
        (STAT.replace("qwen.haaaa", "qwen'; true '"), STATES.replace("qwen.haaaa", "qwen';true'")),
    ],
)
def test_what_is_not_haproxy_s_is_no_answer(stat: str, states: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        seen(stat, states)


def test_nothing_runs_there() -> None:
    assert BalancerSeen().process(["== none", END]) is None


class Slow(BaseHTTPRequestHandler):
    """Answers checks at once, and other requests when it is let."""

    def do_GET(self) -> None:
        if self.path != "/pulse":
            assert self.server.let.wait(20)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


HAPROXY = """
global
    stats socket {folder}/admin.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    option httpchk GET /pulse
    default-server check inter 100ms fall 1 rise 1
frontend qwen
    bind unix@{folder}/qwen.sock
    default_backend qwen
backend qwen
    server qwen.haaaa 127.0.0.1:{one}
    server qwen.hbbbb 127.0.0.1:{two}
"""


class Real:
    """A real HAProxy before two servers, and the scripts as a gateway's shell runs them."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def sh(self, script: str) -> str:
        for path, name in ((rotation.SOCKET, "admin.sock"), (rotation.BY_HAND, "drained")):
            script = script.replace(path, str(self.folder / name))
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, env=self.environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def seen(self) -> list[Server]:
        fact = BalancerSeen()
        found = fact.process(self.sh(fact.command()).splitlines())
        assert found is not None
        return list(found.servers)


@pytest.fixture
def servers() -> Iterator[list[ThreadingHTTPServer]]:
    running = []
    for _ in range(2):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
        server.daemon_threads = True
        server.let = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
    yield running
    for server in running:
        server.let.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()


@pytest.fixture
def real(tmp_path: Path, servers: list[ThreadingHTTPServer]) -> Iterator[Real]:
    path = ":".join(
        [f"{UNPACKED}/usr/sbin", f"{UNPACKED}/usr/bin", os.environ["PATH"], "/usr/sbin"]
    )
    programs = [shutil.which(name, path=path) for name in ("haproxy", "socat")]
    if None in programs:
        pytest.skip("HAProxy and socat are not here; make setup brings them")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "systemctl").write_text("#!/bin/sh\nexit 0\n")
    (bin_ / "systemctl").chmod(0o755)
    libraries = ":".join(map(str, UNPACKED.glob("**/lib/*-linux-gnu")))
    environment = {"PATH": f"{bin_}:{path}", "LD_LIBRARY_PATH": libraries}
    ports = {"one": servers[0].server_port, "two": servers[1].server_port}
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(folder=tmp_path, **ports))
    words = [programs[0] or "", "-q", "-db", "-f", str(tmp_path / "haproxy.cfg")]
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: (tmp_path / "admin.sock").exists())
            yield Real(tmp_path, environment)
        finally:
            process.terminate()


def until(done: Any) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def test_a_real_one_is_drained_and_put_back(real: Real, servers: list[Any]) -> None:
    until(lambda: all(server.takes for server in real.seen()))
    words = ["curl", "-s", "--unix-socket", str(real.folder / "qwen.sock"), "http://x/slow"]
    with subprocess.Popen(words) as client:
        until(lambda: sum(server.running for server in real.seen()) == 1)
        real.sh(telling(real.seen(), "drain", by_hand=False))
        found = real.seen()
        assert [(one.up, one.drained, one.takes, one.by_hand) for one in found] == [
            (True, True, False, False)
        ] * 2
        assert sum(server.running for server in found) == 1, "it still runs"
        for server in servers:
            server.let.set()
        until(lambda: sum(server.running for server in real.seen()) == 0)
        assert client.wait(20) == 0
    first, second = real.seen()
    real.sh(telling([first], "drain", by_hand=True))
    assert [one.by_hand for one in real.seen()] == [True, False]
    # Its checks go on, so that one that does not come back is known.
    servers[1].shutdown()
    servers[1].server_close()
    until(lambda: not real.seen()[1].up)
    real.sh(telling([first, second], "ready", by_hand=False))
    found = real.seen()
    assert [(one.drained, one.by_hand) for one in found] == [(False, False)] * 2
    assert [one.takes for one in found] == [True, False]
    assert not list((real.folder / "drained").iterdir())


def test_a_real_one_that_does_not_know_a_server_says_so(real: Real) -> None:
    with pytest.raises(AssertionError, match="No such server"):
        real.sh(telling([Server("qwen", "qwen.hzzzz", True, False, 0)], "drain", by_hand=False))


METRICS = """\
# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
"""


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/metrics"
        text = self.server.text.encode()  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("text", "status", "busy"),
    [
        (METRICS, 200, {"qwen": 7}),
        (
            METRICS.replace("2.0", "0.0").replace("1.0", "0.0").replace("4.0", "0.0"),
            200,
            {"qwen": 0},
        ),
        (METRICS, 500, {}),
        ("nothing of vLLM's", 200, {}),
    ],
)
def test_what_agents_are_busy_with(text: str, status: int, busy: dict[str, int]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    server.text, server.status = text, status  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fact = AgentsBusy()
    # Nothing listens at the other one's port.
    script = fact.command(ports={"qwen": server.server_port, "coder": 1})
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    server.shutdown()
    server.server_close()
    assert fact.process(said.splitlines()) == busy
