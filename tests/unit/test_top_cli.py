"""`vllm-hosts top` as people and scripts use it, on this machine as a host."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.terminal import Terminal
from tests.unit.fakes import LocalHost
from tests.unit.projects import AGENT

RECORDED = (Path(__file__).with_name("recorded") / "metrics-0.33.txt").read_text()
TOP = ("vllm-hosts", "top", "inventory/prod.py")
NVIDIA_SMI = """#!/bin/sh
echo "$*" >>"$(dirname "$0")/../smi"
echo '0, NVIDIA H200, 71890, 143771, 93, 61, 540.21, 700.00, Disabled'
echo '1, NVIDIA H100 80GB HBM3, 42, 81559, [N/A], 31, 72.10, [N/A], Enabled'
"""


class Vllm(BaseHTTPRequestHandler):
    """/metrics as uvicorn sends it: in chunks. Every look finds 50 more tokens."""

    protocol_version = "HTTP/1.1"
    tokens = 60321

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        assert self.path == "/metrics" and self.headers["Host"].startswith("127.0.0.1:")
        Vllm.tokens += 50
        body = RECORDED.replace(" 60321.0", f" {Vllm.tokens}.0").encode()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (body[:700], body[700:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LocalHost]:
    """Agent one answers, agent two has exited, and a second host refuses connections."""
    host = LocalHost.make(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Vllm)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    agents = [dict(AGENT, port=server.server_port), dict(AGENT, name="two", port=8002, gpus=[1])]
    host.project.group(agents=agents, vllm={"directory": str(host.folder / "opt")})
    host.program("nvidia-smi", NVIDIA_SMI)
    host.agent("two", "exited", None)
    usage = {"CPUPerc": "101.25%", "MemUsage": "2.5GiB / 78.2GiB", "Name": "one"}
    host.file("stats", json.dumps(usage) + "\n")
    yield host
    server.shutdown()


def terminal(host: LocalHost, *options: str) -> Terminal:
    return host.project.terminal(*TOP, *options)


def test_once_as_json(host: LocalHost) -> None:
    done = host.project.run(*TOP, "--once", "--json")
    assert done.returncode == 0, done.stdout
    [found] = json.loads(done.stdout)
    assert [gpu["utilization_percent"] for gpu in found["gpus"]] == [93, None]
    one, two = found["agents"]
    assert (one["requests_running"], one["requests_waiting"]) == (12, 3)
    assert 5 < one["generation_tokens_per_second"] <= 50, "50 tokens in somewhat over a second"
    assert one["prompt_tokens_per_second"] == 0
    assert (one["cpu_percent"], one["memory_bytes"]) == (101.25, 2.5 * 2**30)
    assert (two["state"], two["metrics_error"]) == ("exited", "the container is exited")
    assert len((host.folder / "smi").read_text().splitlines()) == 2, "one look, and another"


def test_without_a_terminal_it_prints_once(host: LocalHost) -> None:
    done = host.project.run(*TOP)
    assert done.returncode == 0
    assert "H200" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_host_that_does_not_answer_stops_no_other(host: LocalHost) -> None:
    host.two_hosts()
    done = host.project.run(*TOP, "--once")
    assert done.returncode == 1
    assert "down  no answer" in done.stdout
    assert "  cannot be reached: 127.0.0.1 refuses connections" in done.stdout
    assert "healthy     12    3" in done.stdout


def test_a_host_whose_docker_fails_says_so(host: LocalHost) -> None:
    words = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    host.file("broken", words + "\n")
    [found] = json.loads(host.project.run(*TOP, "--once", "--json").stdout)
    assert found["error"] == f"what it is doing could not be read: {words}"


def test_an_agent_that_does_not_answer_has_no_numbers(host: LocalHost) -> None:
    host.agent("two")
    [found] = json.loads(host.project.run(*TOP, "--once", "--json").stdout)
    two = found["agents"][1]
    assert (two["state"], two["requests_running"]) == ("running", None)
    assert two["metrics_error"] == "nothing answers on its port"


def test_misuse_is_exit_code_2(host: LocalHost) -> None:
    assert host.project.run(*TOP, "--json").returncode == 2
    assert host.project.run(*TOP, "--interval", "0").returncode == 2
    done = host.project.run(*TOP, "--host", "gpu9")
    assert (done.returncode, "it has @local" in done.stdout) == (2, True)


@pytest.mark.parametrize("key", ["q", "\x03"], ids=["q", "Ctrl-C"])
def test_a_key_quits_and_the_terminal_is_as_it_was(host: LocalHost, key: str) -> None:
    host.two_hosts()
    with terminal(host, "--interval", "0.5") as shown:
        shown.wait_for("healthy     12    3")
        shown.wait_for("down  no answer, retrying")
        # A key that means nothing, and Ctrl-Z, which must not leave the screen as it is.
        shown.type("x\x1a")
        shown.wait_for("q quits", times=shown.text.count("q quits") + 2)
        shown.type(key)
        assert shown.wait() == 0
        shown.assert_restored()
        assert "Traceback" not in shown.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_quits_too(host: LocalHost, number: signal.Signals) -> None:
    with terminal(host) as shown:
        shown.wait_for("q quits")
        shown.process.send_signal(number)
        assert shown.wait() == 0
        shown.assert_restored()


def test_a_host_that_comes_back_is_shown_again(host: LocalHost) -> None:
    host.file("broken", "Cannot connect to the Docker daemon\n")
    with terminal(host, "--interval", "0.5") as shown:
        shown.wait_for("could not be read: Cannot connect to the Docker daemon")
        (host.folder / "broken").unlink()
        shown.wait_for("healthy     12    3")
        shown.type("q")
        assert shown.wait() == 0
