"""Single packets through a host: what is sent, whose answers count, and who is a neighbour."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from typing import Any

import pytest

from vllm_hosts.verify.outside import syn_packets
from vllm_hosts.verify.outside.syn_packets import accepted, answering, checksum, main, syn, way

VIA = "127.0.0.1"
ETHERNET = bytes.fromhex("02005e000102")
OWN = bytes.fromhex("02005e0000fe")


def test_the_checksum_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    # An odd byte is the first half of a word.
    assert checksum(b"\x01") == checksum(b"\x01\x00") == 0xFEFF
    # What is carried over may carry once more.
    assert checksum(b"\xff\xff\xff\xff") == 0
    assert checksum(b"\xff\xff\x00\x01") == 0xFFFE


def test_what_is_sent_is_one_syn_of_ipv4() -> None:
    packet = syn("192.0.2.1", "172.18.0.2", 20001, 8000)
    kind, _, length, _, fragments, lives, protocol, _ = struct.unpack("!BBHHHBBH", packet[:12])
    assert (kind, length, len(packet), protocol) == (0x45, 40, 40, 6)
    # In one piece, and far enough.
    assert (fragments, lives) == (0x4000, 64)
    assert packet[12:20] == socket.inet_aton("192.0.2.1") + socket.inet_aton("172.18.0.2")
    numbers = struct.unpack("!HHIIBBHHH", packet[20:])
    source, port, _, acknowledged, offset, flags, window, _, urgent = numbers
    assert (source, port, acknowledged, offset >> 4, flags, urgent) == (20001, 8000, 0, 5, 2, 0)
    assert window > 0
    # Nobody can guess what an answer has to acknowledge.
    assert packet[24:28] != syn("192.0.2.1", "172.18.0.2", 20001, 8000)[24:28]


def test_hosts_take_it_for_whole() -> None:
    """With its checksum in it, the sum over a header is zero: also over TCP's made-up one."""
    for target in ("172.18.0.2", "10.255.255.9"):
        packet = syn("192.0.2.1", target, 20001, 8000)
        assert checksum(packet[:20]) == 0
        before = packet[12:20] + struct.pack("!BBH", 0, 6, len(packet) - 20)
        assert checksum(before + packet[20:]) == 0
        # Nothing that routers would handle in another way.
        assert (packet[1], packet[6:8]) == (0, b"\x40\x00")


def frame(
    source: str, port: int, own_port: int, *, flags: int = 0x12, options: int = 0, **other: int
) -> bytes:
    """An Ethernet frame with an answer; ``options``: bytes of options in the IP header."""
    packet = bytearray(syn(source, "192.0.2.1", port, own_port))
    packet[33] = flags
    packet[9] = other.get("protocol", packet[9])
    packet[0] = other.get("version", 4) << 4 | (5 + options // 4)
    return b"E" * 14 + bytes(packet[:20]) + b"\x01" * options + bytes(packet[20:])


class TestAnswers:
    def test_a_syn_ack_says_who_accepts(self) -> None:
        assert accepted(frame("192.0.2.7", 443, 20001)) == ("192.0.2.7", 443, 20001)
        # Further flags, such as of congestion, and options before it change nothing.
        assert accepted(frame("192.0.2.7", 443, 20001, flags=0x52)) is not None
        found = accepted(frame("192.0.2.7", 443, 20001, options=8))
        assert found == ("192.0.2.7", 443, 20001)

    @pytest.mark.parametrize("flags", [0x02, 0x10, 0x14, 0x04, 0x11])
    def test_nothing_else_does(self, flags: int) -> None:
        assert accepted(frame("192.0.2.7", 443, 20001, flags=flags)) is None

    @pytest.mark.parametrize("other", [{"protocol": 17}, {"version": 6}])
    def test_other_protocols_do_not(self, other: dict[str, int]) -> None:
        assert accepted(frame("192.0.2.7", 443, 20001, **other)) is None

    def test_what_was_cut_short_does_not(self) -> None:
        whole = frame("192.0.2.7", 443, 20001)
        assert accepted(whole) is not None
        for length in (0, 14, 34, len(whole) - 1):
            assert accepted(whole[:length]) is None


class Ip:
    """The program ip: one route, and what the neighbour table says each time it is shown."""

    def __init__(self) -> None:
        self.route: dict[str, Any] = {"dst": VIA, "dev": "eth0", "prefsrc": "192.0.2.1"}
        self.shown: list[str] = []
        self.asked: list[list[str]] = []

    def __call__(self, words: list[str], *, text: bool) -> str:
        assert text
        self.asked.append(words)
        if words[2] == "route":
            return json.dumps([self.route])
        return self.shown.pop(0) if self.shown else ""


@pytest.fixture
def ip(monkeypatch: pytest.MonkeyPatch) -> Ip:
    found = Ip()
    monkeypatch.setattr(subprocess, "check_output", found)
    return found


class TestTheWay:
    def test_is_over_the_interface_that_leads_there(self, ip: Ip) -> None:
        ip.shown = ['[{"dst": "127.0.0.1", "lladdr": "02:00:5e:00:01:02", "state": ["STALE"]}]']
        assert way(VIA) == ("eth0", "192.0.2.1", ETHERNET)
        assert ip.asked == [
            ["ip", "-j", "route", "get", VIA],
            ["ip", "-j", "neigh", "show", VIA, "dev", "eth0"],
        ]

    def test_its_address_is_waited_for(self, ip: Ip) -> None:
        known = [{"dst": VIA, "state": ["INCOMPLETE"]}, {"lladdr": "02:00:5e:00:01:02"}]
        ip.shown = ["", "[]", '[{"dst": "127.0.0.1", "state": ["FAILED"]}]', json.dumps(known)]
        assert way(VIA)[2] == ETHERNET
        assert len(ip.asked) == 5

    def test_the_host_is_woken_for_that(self, ip: Ip, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.bind((VIA, 0))
            here.settimeout(1)
            port = here.getsockname()[1]
            send = socket.socket.sendto

            def to_us(one: socket.socket, data: bytes, to: tuple[str, int]) -> int:
                assert to[1] == 9
                return send(one, data, (to[0], port))

            monkeypatch.setattr(socket, "socket", type("S", (socket.socket,), {"sendto": to_us}))
            ip.shown = ["", '[{"lladdr": "02:00:5e:00:01:02"}]']
            way(VIA)
            assert [here.recv(10), here.recv(10)] == [b"", b""]

    @pytest.mark.parametrize("change", [{"gateway": "192.0.2.254"}, {"dev": "lo"}])
    def test_who_is_no_neighbour(self, ip: Ip, change: dict[str, str]) -> None:
        ip.route |= change
        with pytest.raises(OSError, match=r"127\.0\.0\.1 is not on a network of this machine"):
            way(VIA)

    def test_who_stays_silent(self, ip: Ip, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter(range(100))
        monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        with pytest.raises(OSError, match="does not reveal its Ethernet address"):
            way(VIA)
        # For three seconds, again and again.
        assert len(ip.asked) == 1 + 2


class Wire:
    """A network: ``answers`` makes frames of each packet that is sent."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers
        self.sent: list[bytes] = []
        self.bound: list[tuple[str, int]] = []
        self._coming: list[bytes] = []
        self.closed = False
        self.patience = 0.0

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def bind(self, to: tuple[str, int]) -> None:
        self.bound.append(to)

    def settimeout(self, seconds: float) -> None:
        assert 0 < seconds < syn_packets.PATIENCE
        self.patience = seconds

    def getsockname(self) -> tuple[object, ...]:
        return ("eth0", 0x0800, 0, 1, OWN)

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        self._coming += self.answers(data, len(self.sent))

    def recv(self, most: int) -> bytes:
        assert most >= 1514
        assert self.patience, "it would wait for ever"
        if not self._coming:
            raise TimeoutError
        return self._coming.pop(0)


def parts(data: bytes) -> tuple[str, int, int]:
    """Where a packet of ours goes, and from which port."""
    own, port = struct.unpack_from("!HH", data, 34)
    return socket.inet_ntoa(data[30:34]), port, own


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> list[Wire]:
    made: list[Wire] = []

    def opened(family: int, kind: int, protocol: int) -> Wire:
        assert (family, kind) == (socket.AF_PACKET, socket.SOCK_RAW)
        assert socket.ntohs(protocol) == 0x0800
        return made[0]

    monkeypatch.setattr(socket, "socket", opened)
    monkeypatch.setattr(syn_packets, "way", lambda via: ("eth0", "192.0.2.1", ETHERNET))
    monkeypatch.setattr(syn_packets, "PATIENCE", 0.2)
    return made


TARGETS = [("172.18.0.2", 8000), ("10.0.0.9", 80), ("172.18.0.2", 8001)]


class TestAnswering:
    def test_each_target_is_asked_twice_at_the_host_s_ethernet_address(
        self, wires: list[Wire]
    ) -> None:
        wires.append(Wire(lambda data, count: []))
        began = time.monotonic()
        assert answering(VIA, TARGETS) == []
        assert time.monotonic() - began >= syn_packets.PATIENCE
        [wire] = wires
        assert wire.bound == [("eth0", 0x0800)]
        assert {data[:14] for data in wire.sent} == {ETHERNET + OWN + b"\x08\x00"}
        assert {data[26:30] for data in wire.sent} == {socket.inet_aton("192.0.2.1")}
        went = [parts(data) for data in wire.sent]
        assert [place[:2] for place in went] == TARGETS * 2
        # An answer tells by our port whose it is; none of the kernel's usual ones below.
        own = [place[2] for place in went]
        assert len(set(own)) == 3 and own[:3] == own[3:]
        assert all(20000 <= port < 50000 + 3 for port in own)
        assert wire.closed

    def test_who_accepts_is_told_in_order(self, wires: list[Wire]) -> None:
        def all_answer(data: bytes, count: int) -> list[bytes]:
            address, port, own = parts(data)
            return [frame(address, port, own)]

        wires.append(Wire(all_answer))
        assert answering(VIA, TARGETS) == sorted(TARGETS)

    def test_the_second_try_counts_as_well(self, wires: list[Wire]) -> None:
        def late(data: bytes, count: int) -> list[bytes]:
            address, port, own = parts(data)
            return [frame(address, port, own)] if count == 5 else []

        wires.append(Wire(late))
        assert answering(VIA, TARGETS) == [("10.0.0.9", 80)]

    def test_a_destination_that_was_rewritten_answers_with_its_own_address(
        self, wires: list[Wire]
    ) -> None:
        def rewritten(data: bytes, count: int) -> list[bytes]:
            address, port, own = parts(data)
            return [frame("192.0.2.7", port, own)] if address == "10.0.0.9" else []

        wires.append(Wire(rewritten))
        assert answering(VIA, TARGETS) == [("10.0.0.9", 80)]

    def test_what_was_not_asked_is_no_answer(self, wires: list[Wire]) -> None:
        """Others talk on this network as well."""

        def others(data: bytes, count: int) -> list[bytes]:
            address, port, own = parts(data)
            return [
                frame(address, port + 1, own),
                frame(address, port, own - 1000),
                frame(address, port, own, flags=0x14),
            ]

        wires.append(Wire(others))
        assert answering(VIA, TARGETS) == []


class TestMain:
    def said(self, capsys: pytest.CaptureFixture[str], request: dict[str, Any]) -> object:
        main(json.dumps(request))
        return json.loads(capsys.readouterr().out)

    def test_what_was_seen(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []

        def answer(*given: object) -> list[tuple[str, int]]:
            asked.append(given)
            return [("10.0.0.9", 80)]

        monkeypatch.setattr(syn_packets, "answering", answer)
        found = self.said(capsys, {"via": VIA, "targets": [["10.0.0.9", 80], ["10.0.0.9", 81]]})
        assert found == {"answering": [["10.0.0.9", 80]]}
        assert asked == [(VIA, [("10.0.0.9", 80), ("10.0.0.9", 81)])]

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError("not a neighbour"), "not a neighbour"),
            (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
            (subprocess.CalledProcessError(2, ["ip"]), "returned non-zero exit status 2"),
            (KeyError("prefsrc"), "prefsrc"),
            (OSError(), "OSError()"),
        ],
    )
    def test_why_nothing_was_seen(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        words: str,
    ) -> None:
        def fails(*_: object) -> None:
            raise error

        monkeypatch.setattr(syn_packets, "answering", fails)
        found = self.said(capsys, {"via": VIA, "targets": []})
        assert isinstance(found, dict) and [*found] == ["error"]
        assert words in found["error"]
