"""Which ports answer: looked at on this machine's loopback, and with sockets of a stand-in."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hosts.verify.outside import scan

LOOP = "127.0.0.1"
Look = Callable[[int, int, frozenset[int]], list[int]]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def listening(count: int = 1, address: str = LOOP) -> Iterator[list[int]]:
    """So many ports in a row that take connections."""
    for first in range(21000, 32000, 50):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    family = scan.family_of(address)
                    stack.enter_context(socket.create_server((address, port), family=family))
            except OSError:
                continue
            yield [*range(first, first + count)]
            return
    raise AssertionError("no ports are free")


def quickly(first: int, last: int, skip: frozenset[int]) -> list[int]:
    return scan.open_tcp(LOOP, first, last, 10, skip)


def slowly(first: int, last: int, skip: frozenset[int]) -> list[int]:
    return scan._open_tcp_slowly(LOOP, first, last, skip)


class TestTcp:
    @pytest.mark.parametrize("look", [quickly, slowly])
    def test_ports_that_are_open_both_ends_included(self, look: Look) -> None:
        with listening(3) as ports:
            assert look(ports[0], ports[-1], frozenset()) == ports
            assert look(ports[1], ports[1], frozenset()) == [ports[1]]
            # One that is known, and locks out who knocks.
            assert look(ports[0], ports[-1], frozenset({ports[1]})) == [ports[0], ports[2]]
        assert look(ports[0], ports[-1], frozenset()) == []

    def test_where_there_is_no_epoll(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scan, "select", SimpleNamespace())
        with listening(2) as ports:
            assert scan.open_tcp(LOOP, ports[0], ports[1], 1) == ports
            skip = frozenset({ports[0]})
            assert scan.open_tcp(LOOP, ports[0], ports[1], 1, skip) == ports[1:]

    @pytest.mark.skipif(not has_ipv6(), reason="this machine has no loopback address of IPv6")
    def test_an_address_of_ipv6(self) -> None:
        with listening(1, "::1") as ports:
            assert scan.open_tcp("::1", ports[0], ports[0], 5) == ports


class Network:
    """Sockets whose connections are under way, and open, fail or stay silent. ``opens``: port ->
    what becomes of it: 0 or an error number; others say nothing. ``at_once``: what connect says."""

    def __init__(self) -> None:
        self.opens: dict[int, int] = {}
        self.at_once: dict[int, int] = {}
        self.now = 0.0
        self.under_way: dict[int, int] = {}
        #: Seconds until hosts answer, and for which another program has the processor each time.
        self.answers_after = self.waits = 0.0
        self.most = 0
        self.tried: list[int] = []
        self.watched: set[int] = set()
        self.not_closed = 0

    def socket(self, family: int, kind: int) -> _Socket:
        assert kind & socket.SOCK_NONBLOCK
        self.not_closed += 1
        return _Socket(self)

    def register(self, number: int, events: int) -> None:
        assert events == select.EPOLLOUT
        self.watched.add(number)

    def poll(self, seconds: float, most: int) -> list[tuple[int, int]]:
        assert most >= len(self.under_way), "what is answered would be taken for silent"
        self.now += max(seconds, 0.01)
        ready = [
            number
            for number, port in self.under_way.items()
            if port in self.opens and number in self.watched and self.now >= self.answers_after
        ]
        self.now += self.waits
        return [(number, select.EPOLLOUT) for number in ready]


class _Socket:
    def __init__(self, network: Network) -> None:
        self.network, self.port = network, 0

    def fileno(self) -> int:
        return 100_000 + self.port

    def connect_ex(self, to: tuple[str, int]) -> int:
        self.port = to[1]
        self.network.tried.append(self.port)
        code = self.network.at_once.get(self.port, errno.EINPROGRESS)
        if code == errno.EINPROGRESS:
            self.network.under_way[self.fileno()] = self.port
            self.network.most = max(self.network.most, len(self.network.under_way))
        return code

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.network.opens[self.port]

    def close(self) -> None:
        self.network.under_way.pop(self.fileno(), None)
        self.network.not_closed -= 1


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    found = Network()
    monkeypatch.setattr(socket, "socket", found.socket)
    epoll = SimpleNamespace(epoll=lambda: found, EPOLLOUT=select.EPOLLOUT)
    monkeypatch.setattr(scan, "select", epoll)
    monkeypatch.setattr(scan, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


class TestManyPorts:
    def look(self, at_once: int = 4, last: int = 12) -> list[int]:
        return scan.open_tcp("192.0.2.7", 1, last, at_once)

    def test_each_is_tried_once_and_not_too_many_at_a_time(self, network: Network) -> None:
        network.opens = {9: 0, 3: 0, 5: errno.ECONNREFUSED, 6: errno.EHOSTUNREACH}
        network.at_once = {2: 0, 4: errno.ECONNREFUSED}
        assert self.look() == [2, 3, 9]
        assert network.tried == [*range(1, 13)]
        assert network.most == 4
        assert network.not_closed == 0

    def test_who_waits_for_a_processor_sees_what_was_answered(self, network: Network) -> None:
        network.opens, network.answers_after, network.waits = {9: 0, 3: 0}, 0.5, 10.0
        assert self.look(at_once=20) == [3, 9]

    def test_one_that_says_nothing_is_waited_for_so_long(self, network: Network) -> None:
        """The kernel sends a lost SYN again after a second."""
        assert self.look(at_once=20) == []
        assert 1.0 < scan.PATIENCE <= network.now < scan.PATIENCE + 0.1 < 2.0
        assert network.not_closed == 0

    @pytest.mark.parametrize(
        "code", [errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM]
    )
    def test_a_port_that_this_machine_cannot_try_is_no_closed_one(
        self, network: Network, code: int
    ) -> None:
        network.at_once = {2: code}
        with pytest.raises(OSError, match=r"192\.0\.2\.7 cannot be scanned from here") as found:
            self.look()
        assert found.value.errno == code


@contextmanager
def datagrams(answer: Callable[[bytes], bytes | None]) -> Iterator[tuple[int, list[bytes]]]:
    """A port that answers what it is asked, and what it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind((LOOP, 0))

        def serve() -> None:
            while True:
                data, who = here.recvfrom(500)
                if data == b"stop":
                    return
                asked.append(data)
                if (said := answer(data)) is not None:
                    here.sendto(said, who)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield here.getsockname()[1], asked
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"stop", here.getsockname())
        thread.join(5)


class TestUdp:
    def test_an_answer_and_a_refusal_are_signs_of_life(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            datagrams(lambda data: b"yes") as (port, asked),
            datagrams(lambda data: None) as (silent, asked_there),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free,
        ):
            free.bind((LOOP, 0))
            closed = free.getsockname()[1]
            free.close()
            monkeypatch.setattr(scan, "PATIENCE", 0.2)
            began = time.monotonic()
            assert scan.reached_udp(LOOP, [port, silent, closed]) == {
                port: "answers",
                closed: "is closed, but its packets reach the host",
            }
            # The silent one was asked twice, and waited for each time.
            assert time.monotonic() - began >= 0.4
            assert asked == [bytes(8)]
            assert asked_there == [bytes(8)] * 2

    @pytest.mark.parametrize("port", [53, 123])
    def test_services_that_answer_only_what_they_understand(
        self, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with datagrams(lambda data: data) as (mine, asked):
            monkeypatch.setattr(scan, "_QUESTIONS", {mine: scan._QUESTIONS[port]})
            assert scan.reached_udp(LOOP, [mine]) == {mine: "answers"}
        [question] = asked
        if port == 123:
            # NTP, version 3, from a client (RFC 5905).
            assert (len(question), question[0]) == (48, 3 << 3 | 3)
        else:
            # One question, for the root's name servers (RFC 1035).
            assert question[2:12] == bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            assert question[12:] == b"\0\0\x02\0\x01"

    def test_what_this_machine_cannot_send_is_no_silence(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with datagrams(lambda data: None) as (port, _):

            def refuse(*_: object) -> int:
                tried.append(1)
                raise PermissionError(errno.EPERM, "Operation not permitted")

            kind = type("S", (socket.socket,), {"send": refuse})
            monkeypatch.setattr(socket, "socket", kind)
            tried: list[int] = []
            said = scan.reached_udp(LOOP, [port])
            assert said == {port: "cannot be scanned: Operation not permitted"}
            assert len(tried) == 1


def test_whose_packets_they_are() -> None:
    assert scan.own_address(LOOP) == LOOP
    assert scan.family_of("2001:db8::7") == socket.AF_INET6
    assert scan.family_of("192.0.2.7") == socket.AF_INET


class TestAll:
    def test_one_address(self) -> None:
        with listening(2) as ports, datagrams(lambda data: b"yes") as (port, _):
            asked: dict[str, object] = {"address": LOOP, "tcp": ports, "udp": [port]}
            seen = {"address": LOOP, "own": LOOP, "tcp": ports, "udp": {port: "answers"}}
            assert scan.scan_all(asked, 10) == seen
            asked["skip"] = [ports[0]]
            assert scan.scan_all(asked, 10) == seen | {"tcp": [ports[1]]}

    def test_one_that_cannot_be_scanned_says_why(self) -> None:
        bad: dict[str, object] = {"address": "255.255.255.255", "tcp": [1, 2], "udp": []}
        good: dict[str, object] = {"address": LOOP, "tcp": [1, 1], "udp": []}
        first, second = scan.scan_some([bad, good], 10)
        assert [*first] == ["address", "error"]
        assert "Permission denied" in str(first["error"])
        # The next one is looked at nevertheless.
        assert second["own"] == LOOP

    @pytest.mark.parametrize("which", [0, 1])
    def test_what_one_of_both_raises_is_no_answer(self, which: int) -> None:
        def fails() -> object:
            raise ValueError("no")

        asked: list[Callable[[], object]] = [lambda: 7, lambda: 8]
        assert scan.both(*asked) == [7, 8]
        asked[which] = fails
        with pytest.raises(ValueError, match="^no$"):
            scan.both(*asked)


class TestSideBySide:
    """Processes are stand-ins: each is a pipe with its answer, and how it ended."""

    @pytest.fixture
    def shares(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
        found: list[tuple[list[str], int]] = []
        ended: dict[int, int] = {}

        def begin(asked: list[dict[str, Any]], at_once: int) -> tuple[int, int]:
            found.append(([one["address"] for one in asked], at_once))
            here, there = os.pipe()
            with os.fdopen(there, "w") as answer:
                answer.write(json.dumps([{"address": one["address"], "tcp": []} for one in asked]))
            number = len(found)
            ended[number] = 1 << 8 if any(one["address"] == "bad" for one in asked) else 0
            return number, here

        monkeypatch.setattr(scan, "in_process", begin)
        monkeypatch.setattr(
            os, "waitpid", lambda number, options: (number, {0: ended[number]}[options])
        )
        return found

    def seen(self, capsys: pytest.CaptureFixture[str], *names: str) -> list[dict[str, Any]]:
        scan.main(json.dumps([{"address": name} for name in names]))
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        assert [one["address"] for one in found] == [*names]
        return found

    def test_answers_come_in_the_order_of_the_questions(
        self, shares: list[tuple[list[str], int]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = [f"a{number}" for number in range(19)]
        assert all(one["tcp"] == [] for one in self.seen(capsys, *names))
        assert len(shares) == 8
        assert [len(share) for share, _ in shares] == [3, 3, 3, 2, 2, 2, 2, 2]

    def test_a_process_that_failed_has_seen_nothing(
        self, shares: list[tuple[list[str], int]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = self.seen(capsys, "bad", "good")
        assert first == {"address": "bad", "error": "the scan ended with 1"}
        assert second == {"address": "good", "tcp": []}

    def test_nothing_asked(
        self, shares: list[tuple[list[str], int]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.seen(capsys) == []
        assert shares == []

    @pytest.mark.parametrize(
        ("files", "addresses", "each"),
        [
            # As many as files can be open, with some to spare.
            (1024, 2, 824),
            (26000, 2, 8000),
            # To all together no more than that.
            (26000, 8, 4000),
            # A scan with a handful of attempts would take hours.
            (220, 1, 50),
        ],
    )
    def test_how_many_attempts_are_under_way(
        self,
        shares: list[tuple[list[str], int]],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        files: int,
        addresses: int,
        each: int,
    ) -> None:
        monkeypatch.setattr(os, "sysconf", lambda name: {"SC_OPEN_MAX": files}[name])
        self.seen(capsys, *(f"a{number}" for number in range(addresses)))
        assert {at_once for _, at_once in shares} == {each}


class Forked(BaseException):
    """Where a process of its own would end."""


def test_a_process_of_its_own_answers_over_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "scan_some", lambda asked, at_once: [asked, at_once])
    pipes: list[tuple[int, int]] = []
    made = os.pipe

    def pipe() -> tuple[int, int]:
        pipes.append(made())
        return pipes[-1]

    def ended(code: int) -> None:
        raise Forked(code)

    monkeypatch.setattr(os, "pipe", pipe)
    monkeypatch.setattr(os, "_exit", ended)
    monkeypatch.setattr(os, "fork", lambda: 77)
    closed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closed.append)
        process, here = scan.in_process([{"address": "a"}], 5)
    assert (process, here) == (77, pipes[0][0])
    # That end is the other process's alone, or who reads would wait for ever.
    assert closed == [pipes[0][1]]
    for end in pipes[0]:
        os.close(end)

    monkeypatch.setattr(os, "fork", lambda: 0)
    with pytest.raises(Forked, match="0"):
        scan.in_process([{"address": "a"}], 5)
    assert json.loads(os.read(pipes[-1][0], 100)) == [[{"address": "a"}], 5]
    os.close(pipes[-1][0])

    def breaks(*_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(scan, "scan_some", breaks)
    with pytest.raises(Forked, match="1"):
        scan.in_process([], 5)
    os.close(pipes[-1][0])
