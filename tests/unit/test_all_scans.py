"""All looks from outside: what is started, what each is asked, and whose answer is whose."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hosts.verify.outside import all_scans
from vllm_hosts.verify.outside.all_scans import UDP_PORTS, scan_from_everywhere

HERE = Path(all_scans.__file__).parent


class Looks:
    """What was started, with what it was told; each answers with what it was asked about."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.asked: list[tuple[list[str], dict[str, Any], float]] = []
        self.waited: list[tuple[str, object]] = []

    def start(self, command: str, said: str = "") -> str:
        self.started.append((command, said))
        return command

    def finish(self, command: str, keys: Any) -> Any:
        self.waited.append((command, keys))
        kind = next(kind for kind in ("scan.py", "tls_grades", "shapes") if kind in command)
        if isinstance(keys, list):
            return [{"by": "controller", "of": list(place)} for place in keys]
        return {name: f"{kind} of {name}" for name in keys}

    def ask(
        self, neighbours: list[str], request: dict[str, Any], limit: float
    ) -> dict[str, dict[str, Any]]:
        self.asked.append((neighbours, request, limit))
        scans = json.loads(request["scans"])
        return {
            name: {
                "scans": [{"by": name, "of": one["address"]} for one in scans],
                "frames": {host: f"frames of {host} by {name}" for host in request["hosts"]},
            }
            for name in neighbours
        }

    def command(self, kind: str) -> tuple[str, str]:
        [found] = [one for one in self.started if kind in one[0]]
        return found


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    found = Looks()
    for name in ("start", "finish", "ask"):
        monkeypatch.setattr(all_scans, f"_{name}", getattr(found, name))
    # Whatever addresses the machine of these tests has.
    monkeypatch.setattr(all_scans, "is_here", lambda address: address == "127.0.0.1")
    return found


def host(edge: str, **addresses: str) -> dict[str, Any]:
    return {"ssh_ports": [22], "edge": {"host": edge}, "targets": [], "addresses": addresses}


HOSTS = {
    "a": host("a.example.com", ipv4="192.0.2.1", ipv6="2001:db8::1"),
    "b": host("b.example.com", ipv4="192.0.2.2") | {"ssh_ports": [2222]},
    "here": host("c.example.com", ipv4="127.0.0.1"),
}


def asked(*promises: str, neighbours: tuple[str, ...] = ()) -> dict[str, Any]:
    known = {"inventory": "inventory/prod.py", "neighbours": [*neighbours], "ports": [1, 99]}
    return {**known, "promises": [*promises], "hosts": HOSTS}


def test_each_address_is_scanned_once_from_here_but_our_own(looks: Looks) -> None:
    found = scan_from_everywhere(asked("NET-09"))
    command, said = looks.command("scan.py")
    # As many files as there may be, or as many as are allowed.
    assert command.startswith("ulimit -n 26000 2>/dev/null || ulimit -n $(ulimit -Hn)")
    *first, program, script, request = shlex.split(command.partition("; exec ")[2])
    assert first == ["nice", "-n", "10"], "others wait for their answers"
    assert (program, Path(script), said) == (sys.executable, HERE / "scan.py", "")
    scans = json.loads(request)
    assert [one["address"] for one in scans] == ["192.0.2.1", "2001:db8::1", "192.0.2.2"]
    assert [one["skip"] for one in scans] == [[22], [22], [2222]]
    assert all(one["tcp"] == [1, 99] and one["udp"] == [*UDP_PORTS] for one in scans)
    of = {name: found[name]["scans"] for name in ("a", "b")}
    assert of == {
        "a": {
            "controller": {
                "ipv4": {"by": "controller", "of": ["a", "ipv4"]},
                "ipv6": {"by": "controller", "of": ["a", "ipv6"]},
            }
        },
        "b": {"controller": {"ipv4": {"by": "controller", "of": ["b", "ipv4"]}}},
    }
    assert [found[name]["blind"] for name in ("a", "b")] == [None, None]


def test_this_machine_is_blind_for_itself(looks: Looks) -> None:
    found = scan_from_everywhere(asked("NET-09"))["here"]
    assert found["scans"] == {"controller": {"ipv4": {"error": found["blind"]}}}
    words = shlex.split(found["blind"].partition("ssh ")[2])
    assert words[:3] == ["OTHER", "python3", "-"]
    [scan] = json.loads(words[3])
    assert (scan["address"], scan["skip"]) == ("127.0.0.1", [22])
    assert words[4] == "<" and Path(words[5]).resolve() == HERE / "scan.py"
    # Short, for people to copy.
    assert ", " not in words[3] and ": " not in words[3]
    # One that others look at for us.
    found = scan_from_everywhere(asked("NET-09", neighbours=("next",)))["here"]
    assert found["blind"] and found["scans"] == {
        "next": {"ipv4": {"by": "next", "of": "127.0.0.1"}}
    }


def test_neighbours_see_all_of_them(looks: Looks) -> None:
    found = scan_from_everywhere(asked("NET-08", "NET-12", neighbours=("n", "m")))
    [(neighbours, request, limit)] = looks.asked
    assert neighbours == ["n", "m"]
    assert (request["inventory"], request["hosts"]) == ("inventory/prod.py", HOSTS)
    # Four addresses of three hosts.
    assert limit == 45 + 4 * 10
    for who in neighbours:
        assert found["a"]["scans"][who] == {
            "ipv4": {"by": who, "of": "192.0.2.1"},
            "ipv6": {"by": who, "of": "2001:db8::1"},
        }
        assert found["b"]["frames"][who] == f"frames of b by {who}"


@pytest.mark.parametrize("promise", ["NET-11", "NET-12"])
def test_single_packets_need_no_scan(looks: Looks, promise: str) -> None:
    found = scan_from_everywhere(asked(promise, neighbours=("n",)))
    [(_, request, _)] = looks.asked
    assert json.loads(request["scans"]) == []
    assert found["a"]["frames"] == {"n": "frames of a by n"}
    assert found["a"]["scans"] == {}


@pytest.mark.parametrize("promise", ["NET-08", "NET-09", "NET-10"])
def test_ports_are_scanned_for_these(looks: Looks, promise: str) -> None:
    scan_from_everywhere(asked(promise))
    assert json.loads(shlex.split(looks.command("scan.py")[0])[-1]) != []


def test_who_asks_about_the_edge_alone_has_no_port_scanned(looks: Looks) -> None:
    found = scan_from_everywhere(asked("EDGE-10", "EDGE-09", neighbours=("n",)))
    assert looks.asked == []
    assert json.loads(shlex.split(looks.command("scan.py")[0])[-1]) == []
    command, said = looks.command("shapes")
    assert shlex.split(command) == [
        *("exec", sys.executable, "-m", "vllm_hosts.verify.outside.shapes", "EDGE-09", "EDGE-10")
    ]
    edges = {name: HOSTS[name]["edge"] for name in HOSTS}
    assert json.loads(said) == edges
    command, said = looks.command("tls_grades")
    assert shlex.split(command)[1:] == [
        *(sys.executable, "-m", "vllm_hosts.verify.outside.tls_grades")
    ]
    assert json.loads(said) == edges
    for name in HOSTS:
        assert found[name]["tls"] == f"tls_grades of {name}"
        assert found[name]["shapes"] == f"shapes of {name}"


def test_which_udp_ports_nobody_may_have_open_unawares() -> None:
    """Those of DNS, DHCP, TFTP, RPC, NTP, NetBIOS, SNMP, LDAP, QUIC, IKE, IPMI, OpenVPN, SSDP, NFS,
    VXLAN, mDNS, LLMNR, Swarm, flannel, memcached, WireGuard."""
    assert {53, 67, 69, 111, 123, 137, 161, 389, 443, 500, 623} < {*UDP_PORTS}
    assert {1194, 1900, 2049, 4789, 5353, 5355, 7946, 8472, 11211, 51820} < {*UDP_PORTS}


def test_whose_address_it_is() -> None:
    assert all_scans.is_here("127.0.0.1")
    assert not all_scans.is_here("203.0.113.77")
    assert not all_scans.is_here("2001:db8::77")


class TestProcesses:
    """Real ones, of a line of shell."""

    def test_what_it_is_told_and_where_it_stands(self) -> None:
        started = all_scans._start("cat; pwd", '{"a": "')
        out, _ = started.communicate(timeout=20)
        assert out == f'{{"a": "{HERE.parents[2]}\n'

    def test_one_that_reads_nothing_says_why_later(self) -> None:
        started = all_scans._start("echo no module >&2; exit 3", "x" * 10_000_000)
        assert all_scans._finish(started, ["a", "b"]) == [{"error": "no module"}] * 2

    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("echo '{'", "the answer could not be understood: "),
            ("echo Traceback >&2; echo '  \x1b[2Jno way ' >&2; exit 1", "no way"),
            ("exit 7", "the scan ended with 7"),
        ],
    )
    def test_why_there_is_no_answer(self, script: str, why: str) -> None:
        found = all_scans._finish(all_scans._start(script), {"a": 1, "b": 2})
        assert [*found] == ["a", "b"]
        assert found["a"] == found["b"] and [*found["a"]] == ["error"]
        assert found["a"]["error"].strip().startswith(why)
        assert "\x1b" not in found["a"]["error"]

    def test_its_answer(self) -> None:
        started = all_scans._start("echo '{\"a\": [1]}'")
        assert all_scans._finish(started, ["a"]) == {"a": [1]}

    def test_one_that_falls_silent_is_ended(self) -> None:
        started = all_scans._start("exec sleep 100")
        assert all_scans._end(started, 0.2) == (None, "no answer after 0 s")
        assert started.returncode == -9

    def test_a_look_has_a_quarter_of_an_hour(self) -> None:
        class Slow:
            returncode = 0

            def communicate(self, timeout: float) -> tuple[str, str]:
                assert timeout == 900
                return "[]", ""

        slow: Any = Slow()
        assert all_scans._finish(slow, []) == []


class TestNeighbours:
    def test_each_is_asked_by_a_process_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[tuple[str, str]] = []

        def start(command: str, said: str) -> Any:
            started.append((command, said))
            name = json.loads(said)["neighbour"]
            out = json.dumps({"scans": [name], "frames": {}})
            return SimpleNamespace(communicate=lambda timeout: (out, ""), returncode=0)

        monkeypatch.setattr(all_scans, "_start", start)
        request = {"scans": "[{}]", "hosts": {}}
        found = all_scans._ask(["n", "m"], request, 5)
        assert found == {name: {"scans": [name], "frames": {}} for name in ("n", "m")}
        words = ["exec", sys.executable, "-m", "vllm_hosts.verify.outside.neighbours"]
        assert {tuple(shlex.split(command)) for command, _ in started} == {tuple(words)}
        assert sorted(json.loads(said)["neighbour"] for _, said in started) == ["m", "n"]
        assert all(json.loads(said)["hosts"] == {} for _, said in started)

    def test_one_that_fails_is_asked_once_more_and_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times: list[str] = []

        def start(command: str, said: str) -> Any:
            times.append(command)
            return SimpleNamespace(communicate=lambda timeout: ("", "gone\n"), returncode=1)

        monkeypatch.setattr(all_scans, "_start", start)
        request = {"scans": "[{}, {}]", "hosts": {"a": {}, "b": {}}}
        failed = {"error": "neighbour n could not scan: gone"}
        assert all_scans._ask(["n"], request, 5) == {
            "n": {"scans": [failed] * 2, "frames": {"a": failed, "b": failed}}
        }
        assert len(times) == 2

    def test_without_any_nobody_is_asked(self) -> None:
        assert all_scans._ask([], {}, 5) == {}


def test_it_runs_by_itself() -> None:
    """As verify starts it."""
    known = {"inventory": "x", "neighbours": [], "promises": [], "ports": [1, 2], "hosts": {}}
    done = subprocess.run(
        [sys.executable, "-m", "vllm_hosts.verify.outside.all_scans"],
        input=json.dumps(known),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=HERE.parents[2],
    )
    assert json.loads(done.stdout) == {}
