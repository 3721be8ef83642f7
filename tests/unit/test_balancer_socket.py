"""What HAProxy's runtime socket says, as HAProxy 2.6 and 3.0 print it, and odd answers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts.balancer import BalancerState
from vllm_hosts.facts.base import END, sections
from vllm_hosts.host.balancer import (
    RESPONSE_GONE,
    SAVE_SCRIPT,
    Does,
    Server,
    ServerState,
    asking,
    query,
    servers,
    told,
)

ADMIN = [
    "1",
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_port",
    "3 qwen 7 qwen.h1 192.0.2.1 2 0 16 8443",
    "3 qwen 9 qwen.h2 192.0.2.2 1 8 16 8443",
    "5 coder 7 coder.h3 192.0.2.3 0 0 16 8443",
    "",
]
HEAD = "# pxname,svname,qcur,scur,status,weight,check_status,check_desc,"
NOW = [
    HEAD,
    "qwen,qwen.h1,0,3,UP,16,L7OK,Layer7 check passed,",
    "qwen,qwen.h2,0,1,DRAIN,16,* L7OK,,",
    'coder,coder.h3,0,0,DOWN 1/2,16,L7STS,"wrong, ""odd"" \x1b[2J",',
    "",
]
BEFORE = [HEAD, "qwen,qwen.h1,0,2,UP,16,L7OK,,", "gone,gone.h9,0,1,UP,16,L7OK,,", ""]


def parts(**more: list[str]) -> dict[str, list[str]]:
    return {"admin": ADMIN, "now": NOW} | {name.replace("_", " "): of for name, of in more.items()}


def test_servers_and_what_they_do() -> None:
    found = servers(parts())
    assert found == {
        ("qwen", "qwen.h1"): Server("qwen", "qwen.h1", True, False, 3, "L7OK Layer7 check passed"),
        ("qwen", "qwen.h2"): Server("qwen", "qwen.h2", True, True, 1, "* L7OK"),
        ("coder", "coder.h3"): Server(
            "coder", "coder.h3", False, False, 0, found["coder", "coder.h3"].check
        ),
    }
    assert "\x1b" not in found["coder", "coder.h3"].check
    assert [one.does for one in found.values()] == [Does.SERVES, Does.DRAINS, Does.DOWN]


def test_what_processes_of_before_still_have_counts() -> None:
    """Also for servers that are no longer configured; a process that has ended has nothing."""
    ended = ["Can't find the target PID matching the prefix '@!12'", ""]
    found = servers(parts(before_11=BEFORE, before_12=ended, before_13=BEFORE))
    assert found["qwen", "qwen.h1"].running == 7
    assert found["gone", "gone.h9"] == Server(
        "gone", "gone.h9", False, True, 2, "no longer configured"
    )


@pytest.mark.parametrize(
    ("state", "drained"),
    [
        ("0", False),
        ("8", True),
        ("16", True),
        ("1", True),
        ("32", False),
        ("9", True),
        ("64", False),
    ],
)
def test_who_is_drained(state: str, drained: bool) -> None:
    admin = [*ADMIN[:2], f"3 qwen 7 qwen.h1 192.0.2.1 2 {state} 16 8443"]
    found = servers({"admin": admin, "now": NOW[:2]})
    assert found["qwen", "qwen.h1"].drained is drained


@pytest.mark.parametrize(
    ("status", "alive"),
    [("UP", True), ("UP 1/2", True), ("UP -1/2", True), ("DOWN", False), ("DOWN 1/2", False),
     ("DRAIN 0/2", True),
     ("MAINT", False), ("MAINT (via a/b)", False), ("MAINT(resolution)", False),
     ("no check", True), ("NOLB", True)],
)  # fmt: skip
def test_who_is_alive(status: str, alive: bool) -> None:
    now = [HEAD, f"qwen,qwen.h1,0,3,{status},16,L7OK,,"]
    assert servers({"admin": ADMIN, "now": now})["qwen", "qwen.h1"].alive is alive


def replaced(part: str, old: str, new: str) -> dict[str, list[str]]:
    found = parts()
    found[part] = [line.replace(old, new) for line in found[part]]
    assert found != parts()
    return found


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: parts(admin=[]),
        lambda: parts(now=[]),
        lambda: parts(admin=["2", *ADMIN[1:]]),
        lambda: replaced("admin", "srv_admin_state", "x"),
        lambda: replaced("admin", "h1 192.0.2.1 2 0", "h1 192.0.2.1 2 -1"),
        lambda: replaced("admin", "qwen.h1", "qwen.h7"),
        lambda: replaced("admin", " 16 8443", " 16"),
        lambda: replaced("now", "# pxname", "pxname"),
        lambda: replaced("now", "scur", "x"),
        lambda: replaced("now", ",3,UP", ",3x,UP"),
        lambda: replaced("now", ",3,UP", ",\u0663,UP"),
        lambda: replaced("now", ",3,UP", ",9999999999,UP"),
        lambda: replaced("now", ",UP,", ",FINE,"),
        lambda: replaced("now", "qwen.h1", "qwen.h1;x"),
        lambda: replaced("now", "qwen.h2", "qwen.h1"),
        lambda: replaced("now", '"wrong', '"wrong" x'),
        lambda: parts(before_1=[HEAD, "qwen,qwen.h1,0,x,UP,16,L7OK,,"]),
        lambda: parts(now=[HEAD, *NOW[1:2] * 40_000]),
        lambda: parts(admin=[*ADMIN[:2], *ADMIN[2:3] * 40_000]),
    ],
)
def test_odd_answers_are_none(wrong: Callable[[], dict[str, list[str]]]) -> None:
    with pytest.raises((ValueError, LookupError)):
        servers(wrong())


def test_of_a_gateway_where_it_does_not_run() -> None:
    for lines in (["== user", "0", "== admin", "", "== now"], ["== user", "0", "== admin"]):
        with pytest.raises(HostError, match="does not answer on its runtime socket; see systemctl"):
            BalancerState().process([*lines, END])
    with pytest.raises(HostError, match="do not run as root; connect as root"):
        BalancerState().process(["== user", "1000", "== admin", END])


def test_a_name_that_has_no_address() -> None:
    """For people it is said what to do; of any other state, what the check says."""
    for status, check in (
        ("MAINT(resolution)", "no address was found for the host's name; once there is one, system"
         "ctl reload vllm-hosts-balancer.service on the gateway"),
        ("MAINT", "L7OK fine"),
    ):  # fmt: skip
        now = [HEAD, f"qwen,qwen.h1,0,3,{status},16,L7OK,fine,"]
        assert servers({"admin": ADMIN, "now": now})["qwen", "qwen.h1"].check == check


def test_long_words_of_a_check_are_cut() -> None:
    now = [HEAD, f"qwen,qwen.h1,0,3,UP,16,L7OK,{'x' * 500},"]
    found = servers({"admin": ADMIN, "now": now})["qwen", "qwen.h1"]
    assert found.check == f"L7OK {'x' * 115} ..."


def test_requests_that_are_sent_once_more_count_too() -> None:
    """In backends of their own, whose names begin with the pool's."""
    more = ["qwen.again,qwen.h1,0,4,UP,16,L7OK,,", "qwen.only,qwen.h2,0,5,UP,16,L7OK,,"]
    before = [HEAD, "qwen.again,qwen.h1,0,6,UP,16,L7OK,,", "qwen,qwen.h2,0,0,UP,16,L7OK,,"]
    found = servers(parts(now=[HEAD, *more, *NOW[1:]], before_1=before))
    assert {key: one.running for key, one in found.items()} == {
        ("qwen", "qwen.h1"): 13,
        ("qwen", "qwen.h2"): 6,
        ("coder", "coder.h3"): 0,
    }


def test_as_many_servers_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hosts.host.balancer._ROWS", 5)
    assert len(servers(parts())) == 3
    monkeypatch.setattr("vllm_hosts.host.balancer._ROWS", 4)
    with pytest.raises(ValueError, match="more than 4 servers"):
        servers(parts())
    with pytest.raises(ValueError, match="more than 4 servers"):
        servers(parts(admin=ADMIN[:2], now=[*NOW[:4], *NOW[1:4]]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: parts(admin=ADMIN[:1]), "HAProxy does not list its servers"),
        (lambda: replaced("admin", "# be_id", "be_id"), "HAProxy does not list its servers"),
        (lambda: parts(now=[""]), "HAProxy does not show its servers"),
        (lambda: replaced("now", '"wrong', '"wrong" x'), "HAProxy does not show its servers: .*"),
        (lambda: replaced("now", ",UP,", f",{'FINE' * 30},"), "a server's status is '(FINE){20}'"),
        (lambda: replaced("now", "qwen.h2", "qwen.h1"), r"\('qwen', 'qwen.h1'\) is there twice"),
        (lambda: replaced("now", "qwen.h1", "-" * 99), "'-{80}' is no name of a pool or a server"),
        (lambda: replaced("now", ",3,UP", f",{'x' * 99},UP"), "'x{80}' is no count"),
        (lambda: replaced("now", "Layer7", "a,b"), "zip.*"),
    ],
)
def test_what_is_odd_is_said(wrong: Callable[[], dict[str, list[str]]], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        servers(wrong())


class Socket:
    """HAProxy's sockets, as far as ``socat`` shows: what it answers to whom lies in files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        for name in ("run", "says", "bin"):
            (folder / name).mkdir()
        self.program("socat", """read -r asked; echo "$*: $asked" >>asked
            cat "says/$(echo "${4##*/} $asked" | tr '/ ' '__')" 2>/dev/null""")  # fmt: skip

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def says(self, socket: str, command: str, *lines: str) -> None:
        name = f"{socket}.sock {command}".replace("/", "_").replace(" ", "_")
        (self.folder / "says" / name).write_text("".join(f"{line}\n" for line in lines))

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().replace(f"{self.run}/", "").splitlines()

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-euc", script],
            cwd=self.folder,
            env={"PATH": path, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def socket(tmp_path: Path) -> Socket:
    return Socket(tmp_path)


PROCESSES = [
    "#<PID>          <type>          <reloads>       <uptime>        <version>",
    "10              master          2               0d00h00m10s     2.6.12",
    "# workers",
    "30              worker          0               0d00h00m01s     2.6.12",
    "# old workers",
    "21              worker          1               0d00h00m05s     2.6.12",
    "22              worker          2               0d00h00m09s     2.6.12",
    "# programs",
    "40              program         0               0d00h00m09s     -",
    "",
]


def test_what_is_asked_of_it(socket: Socket) -> None:
    """Of processes of before a reload, and of before a restart, too: with one of those, all that
    it has are such."""
    socket.says("admin", "show servers state", *ADMIN)
    socket.says("admin", "show stat -1 4 -1", *NOW)
    socket.says("master", "show proc", *PROCESSES)
    socket.says("master.7", "show proc", *(line.replace("2", "5", 1) for line in PROCESSES))
    for number in (21, 22):
        socket.says("master", f"@!{number} show stat -1 4 -1", *BEFORE)
    socket.says("master.7", "@!30 show stat -1 4 -1", HEAD, "qwen,qwen.h2,0,9,UP,16,L7OK,,")
    for name in ("master.sock", "master.7.sock", "master.x.sock", "a-master.8.sock", "master.9"):
        (socket.run / name).touch()
    done = socket.sh(query(str(socket.run)))
    assert (done.returncode, done.stderr) == (0, "")
    found = servers(sections(done.stdout.splitlines()))
    assert {key: one.running for key, one in found.items()} == {
        ("qwen", "qwen.h1"): 7,
        ("qwen", "qwen.h2"): 10,
        ("coder", "coder.h3"): 0,
        ("gone", "gone.h9"): 2,
    }
    assert [line.partition("CONNECT:")[2] for line in socket.asked] == [
        "admin.sock: show servers state",
        "admin.sock: show stat -1 4 -1",
        "master.sock: show proc",
        "master.sock: @!21 show stat -1 4 -1",
        "master.sock: @!22 show stat -1 4 -1",
        "master.7.sock: show proc",
        "master.7.sock: @!30 show stat -1 4 -1",
        "master.7.sock: @!51 show stat -1 4 -1",
        "master.7.sock: @!52 show stat -1 4 -1",
    ]
    assert {line.partition(" UNIX")[0] for line in socket.asked} == {"-t 20 -"}


def test_nobody_asks_of_processes_without_end(
    socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_hosts.host.balancer._OLD", 2)
    socket.says("master", "show proc", "# old workers", *(f"{n} worker 1 0d" for n in range(9)))
    for number in range(5):
        (socket.run / f"master.{number}.sock").touch()
    done = socket.sh(query(str(socket.run)))
    assert done.stdout.count("== before") == 2
    assert len([line for line in socket.asked if ".sock: show proc" in line]) == 1 + 2


def test_an_answer_has_an_end(socket: Socket) -> None:
    socket.program("socat", "head -c 40000000 /dev/zero")
    assert socket.sh(f"{asking(str(socket.run))}; ask admin x | wc -c").stdout.strip() == str(
        32 << 20
    )


def test_one_that_hangs_is_not_waited_for_for_ever(socket: Socket) -> None:
    socket.program("timeout", 'echo "$1 $2"')
    assert socket.sh(f"{asking(str(socket.run))}; ask admin x").stdout == "20 socat\n"


def telling(socket: Socket, state: ServerState) -> subprocess.CompletedProcess[str]:
    script = told("qwen", "qwen.h1", state, str(socket.run))
    return socket.sh(f"{script.replace(SAVE_SCRIPT, 'echo saved')}\necho and so on")


@pytest.mark.parametrize("state", ServerState)
def test_what_it_is_told_is_kept(socket: Socket, state: ServerState) -> None:
    socket.says("admin", f"set server qwen/qwen.h1 state {state}", "")
    done = telling(socket, state)
    assert (done.returncode, done.stdout, done.stderr) == (0, "saved\nand so on\n", "")
    [asked] = socket.asked
    assert asked.endswith(f"admin.sock: set server qwen/qwen.h1 state {state}")


def test_what_it_does_not_do_ends_it(socket: Socket) -> None:
    socket.says("admin", "set server qwen/qwen.h1 state drain", "No such server.", "")
    done = telling(socket, ServerState.DRAIN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "HAProxy: No such server.\n"


def test_one_that_says_nothing_has_not_done_it(socket: Socket) -> None:
    """It hangs, or is gone: who has done it says an empty line."""
    done = telling(socket, ServerState.DRAIN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "HAProxy does not answer on its runtime socket\n"


def test_what_clients_are_told_of_a_response_that_is_gone() -> None:
    error = json.loads(RESPONSE_GONE)["error"]
    assert error.pop("message").endswith("Send the whole conversation instead of its identifier.")
    assert error == {"type": "invalid_request_error", "param": None, "code": "response_not_found"}


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a/b", "A", "-a", "a" * 200, "a\nb"])
def test_only_names_reach_the_socket(name: str) -> None:
    for pool, server in ((name, "qwen.h1"), ("qwen", name)):
        with pytest.raises(ValueError, match="no name"):
            told(pool, server, ServerState.DRAIN)
