"""Looking from outside: packets as bytes, scans of this machine's loopback, and judging answers."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.suite.looks import Outside
from vllm_hosts.suite.test_firewall import differences, neighbours, strangers_first
from vllm_hosts.verify.outside import all_scans, scan, shapes, syn_packets
from vllm_hosts.verify.outside.shapes import Met, Shape

HOST = "gpu.example.com"


def test_a_syn_has_good_checksums() -> None:
    packet = syn_packets.syn("192.0.2.1", "127.0.0.1", 40000, 8001)
    assert len(packet) == 40
    # The sum over a header with its checksum in it is zero (RFC 1071).
    assert syn_packets.checksum(packet[:20]) == 0
    pseudo = packet[12:20] + struct.pack("!BBH", 0, 6, 20)
    assert syn_packets.checksum(pseudo + packet[20:]) == 0


@pytest.mark.parametrize(("flags", "seen"), [(0x12, True), (0x14, False), (0x02, False)])
def test_only_a_syn_ack_accepts(flags: int, seen: bool) -> None:
    packet = bytearray(syn_packets.syn("192.0.2.7", "192.0.2.1", 443, 40000))
    packet[33] = flags
    expected = ("192.0.2.7", 443, 40000) if seen else None
    assert syn_packets.accepted(bytes(14) + bytes(packet)) == expected


def test_a_scan_finds_exactly_what_listens() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = sorted(server.getsockname()[1] for server in (one, two))
        found = scan.open_tcp("127.0.0.1", ports[0], ports[1], 200)
        assert {ports[0], ports[1]} <= set(found)
    assert not set(ports) & set(scan.open_tcp("127.0.0.1", ports[0], ports[1], 200))


def test_a_udp_port_that_refuses_was_reached() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "reach" in scan.reached_udp("127.0.0.1", [port])[port]


def test_udp_ports_are_waited_for_only_as_long_as_they_are_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answers,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
    ):
        for one in (answers, silent):
            one.bind(("127.0.0.1", 0))

        def answer() -> None:
            _, asker = answers.recvfrom(100)
            answers.sendto(b"yes", asker)

        threading.Thread(target=answer, daemon=True).start()
        port, other = answers.getsockname()[1], silent.getsockname()[1]
        began = time.monotonic()
        assert scan.reached_udp("127.0.0.1", []) == {}
        assert scan.reached_udp("127.0.0.1", [port]) == {port: "answers"}
        assert time.monotonic() - began < scan.PATIENCE
        monkeypatch.setattr(scan, "PATIENCE", 0.05)
        assert scan.reached_udp("127.0.0.1", [other]) == {}
        # A packet may be lost.
        assert [silent.recv(100), silent.recv(100)] == [bytes(8)] * 2


def test_the_scan_runs_without_this_package() -> None:
    """Neighbours get it as text, with nothing of ours around it."""
    asked = json.dumps([{"address": "127.0.0.1", "tcp": [1, 2], "udp": []}])
    text = Path(scan.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-I", "-c", text, asked], capture_output=True, text=True, check=True
    )
    [seen] = json.loads(done.stdout)
    assert seen == {"address": "127.0.0.1", "own": "127.0.0.1", "tcp": [], "udp": {}}


SIDE_BY_SIDE = """
import json, os, signal, sys
from vllm_hosts.verify.outside import scan

def some(asked, at_once):
    if asked[0]["address"] == "gone":
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"address": one["address"], "by": os.getpid()} for one in asked]

scan.scan_some, scan.ADDRESSES = some, 3
scan.main(json.dumps([{"address": name} for name in sys.argv[1:]]))
"""


def test_addresses_are_scanned_side_by_side_and_answered_in_order() -> None:
    """By a program of its own: it forks, and gevent, which is here, has its own idea of that."""
    names = ["a", "gone", "c", "d", "e"]
    done = subprocess.run(
        [sys.executable, "-c", SIDE_BY_SIDE, *names], capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    assert [one["address"] for one in seen] == names
    killed = "the scan ended with -9"
    assert [one.get("error") for one in seen] == [None, killed, None, None, killed]
    assert seen[0]["by"] == seen[3]["by"] != seen[2]["by"]


def find(name: str) -> Shape:
    [found] = [shape for shape in shapes.shapes(HOST, "/v1/models") if shape.name == name]
    return found


@pytest.mark.parametrize(
    ("name", "met", "wrong"),
    [
        ("another Host", Met((404,), True, 0.1), None),
        ("another Host", Met((401,), True, 0.1), "answered with 401"),
        ("another Host", Met((), True, 0.1), None),
        ("another Host", Met((), False, 1.5), "answered with silence"),
        ("length and chunks", Met((400,), True, 0.1), None),
        ("length and chunks", Met((405, 404), False, 1.5), None),
        ("length and chunks", Met((405, 200), False, 1.5), "a request inside the request"),
        ("headers that never end", Met((), True, 15.0), None),
        ("headers that never end", Met((408,), True, 15.0), None),
        ("headers that never end", Met((), False, 20.0), "still open after 20 s"),
    ],
)
def test_judging_an_answer(name: str, met: Met, wrong: str | None) -> None:
    said = shapes.complaint(find(name), met)
    assert said is None if wrong is None else wrong in str(said)


def test_every_answer_on_a_connection_counts() -> None:
    said = b'HTTP/1.1 401 Unauthorized\r\n\r\n{"a": 1}HTTP/1.1 200 OK\r\n\r\n'
    assert shapes._STATUS.findall(said) == [b"401", b"200"]


def test_every_shape_has_its_own_name() -> None:
    names = [shape.name for shape in shapes.shapes(HOST, "/v1/models")]
    assert len(names) == len(set(names)) > 40


class TestReading:
    def test_a_scan_that_does_not_see_the_edge_is_blind(self) -> None:
        seen = Outside({"scans": {"controller": {"ipv4": {"tcp": [22], "udp": {}}}}})
        assert seen.scans("ipv4", {22})
        with pytest.raises(HostError, match="does not even reach port 443"):
            seen.scans("ipv4", {22, 443})

    def test_a_look_that_failed_says_why(self) -> None:
        with pytest.raises(HostError, match="no way"):
            Outside({"error": "no way"}).tls_issues()

    def test_a_neighbour_has_to_see_the_edge(self) -> None:
        frames_seen = {"neighbour": {"answering": [["192.0.2.7", 443], ["127.0.0.1", 8001]]}}
        assert Outside({"frames": frames_seen}).besides_edge(443) == {
            "neighbour": [("127.0.0.1", 8001)]
        }
        with pytest.raises(HostError, match="does not even reach the edge"):
            Outside({"frames": {"neighbour": {"answering": []}}}).besides_edge(443)


class TestFromTheHostItself:
    """H30: it does not see itself as others do."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What the look is asked; what it starts ends at once, and has seen a port."""
        scan_saw = {"tcp": [443], "udp": {}}
        monkeypatch.setattr(all_scans, "_start", lambda command, said="": command)
        monkeypatch.setattr(
            all_scans,
            "_finish",
            lambda command, keys: (
                [scan_saw] * len(keys) if isinstance(keys, list) else {key: {} for key in keys}
            ),
        )
        monkeypatch.setattr(
            all_scans,
            "_ask",
            lambda neighbours, request, limit: {
                name: {
                    "scans": [scan_saw for _ in json.loads(request["scans"])],
                    "frames": {host: {"answering": []} for host in request["hosts"]},
                }
                for name in neighbours
            },
        )
        host = {"ssh_ports": [22], "edge": {}, "targets": []}
        return {
            "inventory": "inventory/prod.py",
            "neighbours": [],
            "promises": ["NET-08", "NET-11"],
            "ports": [1, 9],
            "hosts": {
                "here": host | {"addresses": {"ipv4": "127.0.0.1"}},
                "there": host | {"addresses": {"ipv4": "192.0.2.1"}},
            },
        }

    def test_it_is_blind_and_says_how_others_look(self, asked: dict[str, Any]) -> None:
        seen = {
            name: Outside(found) for name, found in all_scans.scan_from_everywhere(asked).items()
        }
        with pytest.raises(HostError, match="cannot be checked from the host itself") as found:
            seen["here"].scans("ipv4", set())
        assert seen["here"].blind == str(found.value)
        assert seen["there"].blind is None
        assert list(seen["there"].scans("ipv4", {443})) == ["controller"]
        command = str(found.value).partition("ssh OTHER ")[2].replace("python3", sys.executable)
        done = subprocess.run(
            command,
            shell=True,
            cwd=Path(all_scans.__file__).parents[3],
            capture_output=True,
            check=True,
        )
        [there] = json.loads(done.stdout)
        assert (there["address"], there["tcp"]) == ("127.0.0.1", [])

    def test_a_neighbour_sees_it(self, asked: dict[str, Any]) -> None:
        found = all_scans.scan_from_everywhere(asked | {"neighbours": ["next"]})
        assert list(Outside(found["here"]).scans("ipv4", {443})) == ["next"]
        assert list(Outside(found["there"]).scans("ipv4", {443})) == ["next", "controller"]
        assert Outside(found["here"]).behind() == {"next": []}

    def test_without_a_neighbour_nothing_behind_it_counts_as_kept(self) -> None:
        settings: Any = None
        with pytest.raises(HostError, match="from elsewhere"):
            neighbours(settings, Outside({"frames": {}, "blind": "from elsewhere"}))
        with pytest.raises(pytest.skip.Exception):
            neighbours(settings, Outside({"frames": {}, "blind": None}))

    def test_whose_address_it_is(self) -> None:
        assert all_scans.is_here("127.0.0.1")
        assert all_scans.is_here("127.0.1.1")
        assert not all_scans.is_here("192.0.2.1")
        assert not all_scans.is_here("2001:db8::1")


def chain(table: str, hook: str, kind: str, priority: int) -> dict[str, object]:
    names = {"family": "ip", "table": table, "name": hook.upper()}
    return {"chain": names | {"hook": hook, "type": kind, "prio": priority}}


def test_a_table_that_differs_says_in_which_lines() -> None:
    assert differences("a\nb", "a\nb") == []
    assert differences("a\n\tc accept\nb", "a\nb\nd") == ["has c accept", "lacks d"]
    assert differences("a\nb\n", "a\nb") == ["differs in its line ends"]


def test_what_stands_before_our_table() -> None:
    docker = [chain("nat", "prerouting", "nat", -100), chain("filter", "forward", "filter", 0)]
    jump = {"family": "ip", "table": "nat", "chain": "PREROUTING", "expr": [{"jump": {}}]}
    assert strangers_first([*docker, {"rule": jump}]) == []
    [said] = strangers_first([chain("evil", "input", "filter", -300)])
    assert "chain INPUT of table ip evil filters before ours" in said
    redirect = jump | {"expr": [{"match": {}}, {"redirect": {"port": 80}}]}
    [said] = strangers_first([*docker, {"rule": redirect}])
    assert "sends packets elsewhere" in said


class TestNeighboursThatFail:
    """Tried with processes that fall silent, once or twice, or break off."""

    SAW: ClassVar = {"scans": [1, 2], "frames": {"gpu1": 3}}

    def ask(self, monkeypatch: pytest.MonkeyPatch, script: str) -> dict[str, Any]:
        start = all_scans._start
        monkeypatch.setattr(all_scans, "_start", lambda command, said: start(script, said))
        request = {"scans": json.dumps([{}, {}]), "hosts": {"gpu1": {}}}
        return all_scans._ask(["near"], request, 1)["near"]

    def test_silence_is_asked_again(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        mark = tmp_path / "asked"
        script = f"[ -e {mark} ] && exec echo '{json.dumps(self.SAW)}'; touch {mark}; exec sleep 30"
        assert self.ask(monkeypatch, script) == self.SAW
        assert mark.exists()

    def test_silence_twice_is_not_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = {"error": "neighbour near could not scan: no answer after 1 s"}
        assert self.ask(monkeypatch, "exec sleep 30") == {
            "scans": [failed, failed],
            "frames": {"gpu1": failed},
        }

    def test_the_last_line_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        saw = self.ask(monkeypatch, "echo Traceback >&2; echo 'near has no route' >&2; exit 1")
        assert saw["frames"]["gpu1"]["error"] == "neighbour near could not scan: near has no route"
