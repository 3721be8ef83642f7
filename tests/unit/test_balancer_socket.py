"""What HAProxy's runtime socket says, as HAProxy 2.6 and 3.0 print it, and odd answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts.balancer import BalancerState
from vllm_hosts.facts.base import END
from vllm_hosts.host.balancer import Does, Server, ServerState, servers, told

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


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a/b", "A", "-a", "a" * 200, "a\nb"])
def test_only_names_reach_the_socket(name: str) -> None:
    for pool, server in ((name, "qwen.h1"), ("qwen", name)):
        with pytest.raises(ValueError, match="no name"):
            told(pool, server, ServerState.DRAIN)
