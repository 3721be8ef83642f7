"""Requests that no honest client sends: byte by byte, how they are sent, and what is said of it."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.golden import check_golden
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.verify.outside import shapes
from vllm_hosts.verify.outside.shapes import Met, Shape, complaint, complaints, send

HOST, PATH = "gpu.example.com", "/v1/models"


def written(shape: Shape) -> str:
    """One request as people read it; long rows of one letter as their number."""
    data = repr(shape.data)[2:-1].replace("\\r\\n", "\\r\\n\n    ")
    data = re.sub(r"x{100,}", lambda row: f"<{len(row[0])} x>", data).rstrip()
    said = f"{shape.promise} {shape.name}: {' '.join(map(str, shape.allowed))}"
    marks = [name for name in ("plain", "slow") if getattr(shape, name)]
    marks += [f"as {shape.server_name}"] if shape.server_name else []
    return f"{said}{''.join(f' ({mark})' for mark in marks)}\n    {data}\n"


def test_golden_of_what_is_sent() -> None:
    """A difference here is what the edge of a host would be asked no more, or anew."""
    check_golden("outside/shapes.txt", "".join(map(written, shapes.shapes(HOST, PATH))))


def test_each_promise_has_shapes() -> None:
    found = {shape.promise for shape in shapes.shapes(HOST, PATH)}
    assert found == {f"EDGE-{number:02}" for number in range(8, 15)}


SMUGGLED = Shape("EDGE-13", "x", b"", (400, 413))
SLOW = Shape("EDGE-12", "x", b"", (408,), slow=True)


@pytest.mark.parametrize(
    ("shape", "met", "said"),
    [
        (SMUGGLED, Met((413,), False, 1), None),
        (SMUGGLED, Met((200,), True, 1), "x: answered with 200, not 400 or 413"),
        (SMUGGLED, Met((), False, 1), "x: answered with silence, not 400 or 413"),
        (SMUGGLED, Met((), True, 1), None),
        # Behind it our own second request, refused as any other.
        *[(SMUGGLED, Met((400, code), True, 1), None) for code in (400, 401, 404, 429)],
        (
            SMUGGLED,
            Met((400, 404, 200, 503), True, 1),
            "x: a request inside the request was answered with [404, 200, 503]",
        ),
        (SLOW, Met((), True, 12), None),
        (SLOW, Met((408,), True, 12), None),
        (SLOW, Met((200,), True, 12), "x: still open after 12 s"),
        (SLOW, Met((408,), False, 19.6), "x: still open after 20 s"),
    ],
)
def test_what_is_wrong(shape: Shape, met: Met, said: str | None) -> None:
    assert complaint(shape, met) == said


Serving = Callable[[socket.socket], None]


@contextmanager
def edge(serve: Serving) -> Iterator[int]:
    """A port of this machine, where each connection is served like this."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    one, _ = listener.accept()
                except OSError:
                    return
                with one:
                    serve(one)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def plain(**more: Any) -> Shape:
    return Shape("EDGE-08", "x", b"GET / HTTP/1.1\r\n\r\n", (400,), plain=True, **more)


REFUSED = b"HTTP/1.1 400 Bad Request\r\n\r\nno"


class TestSending:
    def test_every_answer_until_the_connection_is_closed(self) -> None:
        def serve(one: socket.socket) -> None:
            assert one.recv(1000) == plain().data
            one.sendall(REFUSED)
            one.sendall(b"more HTTP/1.0 404 Not Found\r\n\r\n")

        with edge(serve) as port:
            met = send("127.0.0.1", port, HOST, plain())
        assert (met.statuses, met.closed) == ((400, 404), True)
        assert 0 <= met.seconds < 5

    def test_one_that_stays_open_is_left_after_a_while(self) -> None:
        done = threading.Event()

        def serve(one: socket.socket) -> None:
            one.sendall(REFUSED)
            done.wait(10)

        with edge(serve) as port:
            met = send("127.0.0.1", port, HOST, plain(), quiet=0.3)
            done.set()
        assert (met.statuses, met.closed) == ((400,), False)
        assert met.seconds >= 0.3

    def test_a_slow_one_is_waited_for_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = threading.Event()
        monkeypatch.setattr(shapes, "SLOW_LIMIT", 0.2)

        def stay(_: socket.socket) -> None:
            done.wait(10)

        with edge(stay) as port:
            met = send("127.0.0.1", port, HOST, plain(slow=True), quiet=9)
            done.set()
        assert (met.statuses, met.closed) == ((), False)
        assert 0.2 <= met.seconds < 9

    def test_one_that_is_cut_is_closed(self) -> None:
        def serve(one: socket.socket) -> None:
            # A reset, and no end.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with edge(serve) as port:
            met = send("127.0.0.1", port, HOST, plain())
        assert (met.statuses, met.closed) == ((), True)

    @pytest.mark.parametrize("other", [None, "stranger.invalid"])
    def test_over_tls_by_the_name_of_the_edge_or_another(
        self, tmp_path: Path, other: str | None
    ) -> None:
        issued = LocalCa.create("x", utc_now()).issue(["else.example.com"], 9, utc_now())
        (tmp_path / "c.pem").write_bytes(issued.certificate_pem)
        (tmp_path / "c.key").write_bytes(issued.key_pem.get_secret_value())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "c.pem", tmp_path / "c.key")
        named: list[str] = []
        context.sni_callback = lambda one, name, _: named.append(name)

        def serve(one: socket.socket) -> None:
            with context.wrap_socket(one, server_side=True) as inside:
                assert inside.recv(1000) == b"GET"
                inside.sendall(REFUSED)

        shape = Shape("EDGE-09", "x", b"GET", (400,), server_name=other)
        with edge(serve) as port:
            # Whose certificate it is, others ask.
            met = send("127.0.0.1", port, HOST, shape)
        assert met.statuses == (400,)
        assert named == [other or HOST]

    def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(OSError):
            send("127.0.0.1", port, HOST, plain())


class TestComplaints:
    EDGE = {  # noqa: RUF012
        "host": HOST,
        "path": PATH,
        "address": "192.0.2.7",
        "port": 443,
        "server_name": "sni.example.com",
    }

    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """What is sent where; each shape is refused as it should be."""
        found: list[tuple[Any, ...]] = []

        def answer(*given: Any) -> Met:
            found.append(given)
            return Met(given[3].allowed[:1], True, 0.1)

        monkeypatch.setattr(shapes, "send", answer)
        monkeypatch.setattr(shapes, "_PAUSE", 0.0)
        return found

    def test_every_shape_of_the_promises_that_are_asked_about(
        self, sent: list[tuple[Any, ...]]
    ) -> None:
        assert complaints(self.EDGE, ["EDGE-09", "EDGE-11"]) == {"EDGE-09": [], "EDGE-11": []}
        assert {one[:3] for one in sent} == {("192.0.2.7", 443, "sni.example.com")}
        wanted = [one for one in shapes.shapes(HOST, PATH) if one.promise in ("EDGE-09", "EDGE-11")]
        assert {one[3].name for one in sent} == {one.name for one in wanted}

    def test_what_is_wrong_by_promise(
        self, sent: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shapes, "send", lambda *given: Met((200,), True, 0.1))
        found = complaints(self.EDGE, ["EDGE-10", "EDGE-11"])
        assert found["EDGE-11"] == ["a body of 1 TB: answered with 200, not 413"]
        assert [one.partition(":")[0] for one in found["EDGE-10"]] == [
            "a header of 40 kB",
            "headers of 80 kB together",
            "a URL of 20 kB",
        ]

    def test_an_edge_that_limits_refusals_is_asked_again(
        self, sent: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paused: list[float] = []
        monkeypatch.setattr(shapes, "_PAUSE", 1.5)
        monkeypatch.setattr(time, "sleep", paused.append)
        codes = iter([429, 429, 413])
        monkeypatch.setattr(shapes, "send", lambda *given: Met((next(codes),), True, 0.1))
        assert complaints(self.EDGE, ["EDGE-11"]) == {"EDGE-11": []}
        assert paused == [1.5, 1.5]
        # Not for ever.
        monkeypatch.setattr(shapes, "send", lambda *given: Met((429,), True, 0.1))
        monkeypatch.setattr(shapes, "_AGAIN", 3)
        assert complaints(self.EDGE, ["EDGE-11"])["EDGE-11"] != []
        assert len(paused) == 5

    def test_an_edge_that_nobody_reaches(
        self, sent: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: Any) -> Met:
            raise ConnectionRefusedError(111, "Connection refused")

        monkeypatch.setattr(shapes, "send", refused)
        found = complaints(self.EDGE, ["EDGE-11"])
        assert found == {"error": "no connection to the edge: [Errno 111] Connection refused"}

    def test_nothing_asked(self, sent: list[tuple[Any, ...]]) -> None:
        assert complaints(self.EDGE, []) == {}
        assert sent == []
