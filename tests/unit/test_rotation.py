"""Who gets requests from a gateway, and who is told so, in HAProxy's words."""

from __future__ import annotations

import pytest

from vllm_hosts.facts.base import END
from vllm_hosts.facts.rotation import BalancerSeen
from vllm_hosts.host.balancer import ServerState, told
from vllm_hosts.host.paths import DRAINED
from vllm_hosts.host.rotation import Balancer, Member, agent_of, balancer, telling

STATES = [
    "1",
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_port",
    "3 qwen 1 qwen.haaaa 192.0.2.1 2 8 8443",
    "3 qwen 2 qwen.hbbbb 192.0.2.2 2 0 8443",
    "3 qwen 3 coder.hcccc 192.0.2.3 0 0 8443",
]
STAT = [
    "# pxname,svname,scur,status,check_status,check_desc",
    "qwen,qwen.haaaa,2,DRAIN,L7OK,Layer7 check passed",
    "qwen,qwen.hbbbb,1,UP,L7OK,Layer7 check passed",
    "qwen,coder.hcccc,0,DOWN,L4CON,Layer4 connection problem",
]
BEFORE = [
    "# pxname,svname,scur,status,check_status,check_desc",
    "qwen,qwen.haaaa,1,UP,L7OK,",
    "old,qwen.haaaa,4,UP,L7OK,",
]


def seen(*by_hand: str) -> Balancer:
    return balancer({"admin": STATES, "now": STAT, "before 47": BEFORE}, by_hand)


def test_what_it_says() -> None:
    assert seen("qwen.haaaa", "qwen.hbbbb").servers == (
        Member("qwen", "qwen.haaaa", up=True, drained=True, running=3, by_hand=True),
        # A mark of a time before says nothing.
        Member("qwen", "qwen.hbbbb", up=True, drained=False, running=1),
        Member("qwen", "coder.hcccc", up=False, drained=False, running=0),
        Member("old", "qwen.haaaa", up=False, drained=False, running=4, by_hand=True, gone=True),
    )
    assert [server.takes for server in seen().servers] == [False, True, False, False]
    assert [server.agent for server in seen().servers] == ["qwen", "qwen", "coder", "qwen"]
    assert agent_of("qwen3-8b.h0123") == "qwen3-8b"


def test_who_answers_in_the_place_of_whom() -> None:
    one, two, three, _ = seen().servers
    assert seen().others_take(one, ())
    assert not seen().others_take(one, ["qwen.hbbbb"])
    assert not seen().others_take(two, ())
    other = Balancer((two, Member("other", "qwen.hdddd", up=True, drained=False, running=0)))
    assert not other.others_take(two, ()), "of another pool"
    assert [found.pool for found in seen().of(["qwen.haaaa", "none"])] == ["qwen", "old"]
    assert seen().others_take(three, ())


def test_nothing_runs_there() -> None:
    assert BalancerSeen().process(["== none", END]) is None


def test_how_it_is_told() -> None:
    one, two = (Member("qwen", f"qwen.h{n}", up=True, drained=False, running=0) for n in "21")
    for state, by_hand, note in (
        (ServerState.DRAIN, False, ":"),
        (ServerState.DRAIN, True, f"mkdir -p {DRAINED}; touch {DRAINED}/qwen.h1 {DRAINED}/qwen.h2"),
        (ServerState.READY, False, f"rm -f {DRAINED}/qwen.h1 {DRAINED}/qwen.h2"),
        (ServerState.READY, True, f"rm -f {DRAINED}/qwen.h1 {DRAINED}/qwen.h2"),
    ):
        assert telling(iter([one, two]), state, by_hand=by_hand) == (
            f"set -eu; umask 077; {note}\n"
            + told("qwen", "qwen.h2", state)
            + told("qwen", "qwen.h1", state)
        )


def test_what_has_no_state_is_no_answer() -> None:
    for missing in ("admin", "now"):
        parts = {"admin": STATES, "now": STAT}
        del parts[missing]
        with pytest.raises(KeyError, match=missing):
            balancer(parts, ())
