"""An agent that was taken over answers with bytes of its own, in a real nginx on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pytest

from tests.unit.programs.test_edge_tokens import ALICE, CHAT, EDGE, KEYS, asked, logged
from tests.unit.real_nginx import RealEdge
from tests.unit.samples import QWEN, settings

OWN_HEAD = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nLocation: https://evil.example.com\r\n\r\n{}"
EVIL = socket.create_server(("127.0.0.1", 0))
PORT = EVIL.getsockname()[1]


class Evil(RealEdge):
    """Its agent is a socket."""

    def _moved(self, text: str) -> str:
        there, here = (f"127.0.0.1:{port}" for port in (self.agent.server_port, PORT))
        return super()._moved(text).replace(there, here)

    def says(self, answer: bytes) -> bytes:
        """What a client gets where the agent answers so."""

        def serve() -> None:
            connection, _ = EVIL.accept()
            with closing(connection), suppress(OSError):
                connection.settimeout(5)
                connection.recv(1 << 20)
                connection.sendall(answer)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        body = asked()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {self.name}\r\nAuthorization: Bearer {ALICE}\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        found = self.raw(head.encode())
        thread.join(10)
        return found


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evil]:
    one = settings(agents=[QWEN], edge=EDGE)
    made = Evil(tmp_path_factory.mktemp("edge"), one, KEYS)
    with made:
        yield made


@pytest.mark.parametrize("interim", ["100 Continue", "101 Switching Protocols", "103 Early Hints"])
def test_behind_an_interim_answer_no_head_of_its_own_reaches_a_client(
    edge: Evil, interim: str
) -> None:
    logged(edge)
    said = edge.says(f"HTTP/1.1 {interim}\r\n\r\n".encode() + OWN_HEAD)
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"evil" not in said and b"a=b" not in said
    assert logged(edge, wait=True)["status"] == 503


@pytest.mark.parametrize("before", [b"\r\n", b"x", b"HTTP/1.1 2000 OK\r\n\r\n"])
def test_without_a_status_nothing_of_it_reaches_a_client(edge: Evil, before: bytes) -> None:
    """Read as HTTP/0.9, where heads are content; some clients skip empty lines before one."""
    logged(edge)
    assert edge.says(before + OWN_HEAD) == b""
    entry = logged(edge, wait=True)
    assert (entry["status"], entry["agent"]) == (0, "qwen")


def test_its_usual_answers_pass(edge: Evil) -> None:
    content = json.dumps({"usage": {"prompt_tokens": 5}}).encode()
    logged(edge)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    assert content in edge.says(head + content)
    assert logged(edge, wait=True)["prompt_tokens"] == 5


def test_the_log_is_json_all_the_same(edge: Evil) -> None:
    edge.says(b"x")
    lines = Path(edge.folder / "logs/access.log").read_text().splitlines()
    assert all(json.loads(line)["client"] == "alice" for line in lines)
