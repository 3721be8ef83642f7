"""Draining and putting back, at gateways that answer from memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts.rotation import BalancerSeen
from vllm_hosts.host import probe
from vllm_hosts.host.rotation import Balancer, Member
from vllm_hosts.operations import balancers, rotation
from vllm_hosts.operations.balancers import Gate
from vllm_hosts.operations.rotation import NoEdge, Rotation, alone
from vllm_hosts.settings.fleet import host_label

ONE, TWO = host_label("gpu1"), host_label("gpu2")


class Place:
    """A host of the inventory, with what it was told to print."""

    def __init__(self, name: str) -> None:
        self.name, self.said = name, []  # type: ignore[var-annotated]

    def log(self, text: str) -> None:
        self.said.append(text.strip())


@dataclass
class Fleet:
    """Two gateways before two hosts with the agent qwen. ``events``: what happens when."""

    gates: dict[str, list[Member] | HostError | None]
    now: float = 0.0
    #: Seconds that pass between two looks at the clock.
    tick: float = 1e-6
    slept: list[float] = field(default_factory=list)
    events: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    reaches: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    why: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = {name: Place(name) for name in ("gpu1", "gpu2", *self.gates)}
        inventory = SimpleNamespace(get_host=self.places.__getitem__)
        self.state = SimpleNamespace(inventory=inventory)

    @property
    def said(self) -> list[str]:
        return self.places["gpu1"].said

    # Connections:
    def at(self, name: str, do: Callable[[], Any]) -> Any:
        token = HERE.set(name)
        gevent.sleep(0)
        try:
            return do()
        finally:
            HERE.reset(token)

    # What is done there:
    def ask_host(self, fact: type, **given: Any) -> Any:
        assert fact is BalancerSeen
        self.asked.append(HERE.get())
        found = self.gates[HERE.get()]
        if isinstance(found, HostError):
            raise found
        return None if found is None else Balancer(tuple(found))

    def carry_out(self, commands: list[Any]) -> None:
        [command] = commands
        gate, text = HERE.get(), str(command)
        servers = self.gates[gate]
        assert isinstance(servers, list)
        for pool, name, state in re.findall(r"set server (\S+)/(\S+) state (\w+)", text):
            [at] = [n for n, one in enumerate(servers) if (one.pool, one.name) == (pool, name)]
            drained = state == "drain"
            by_hand = drained and "touch" in text
            servers[at] = replace(servers[at], drained=drained, by_hand=by_hand)
            hand = " by hand" if by_hand else ""
            self.told.append(f"{gate} {state} {name.partition('.')[0]}{hand}")

    def put(self, gate: str, host: str = ONE, **changes: Any) -> None:
        servers = self.gates[gate]
        assert isinstance(servers, list)
        for at, server in enumerate(servers):
            if server.name.endswith(host):
                servers[at] = replace(server, **changes)

    # Time:
    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        end = self.now + seconds
        while self.events and self.events[0][0] <= end:
            at, do = self.events.pop(0)
            self.now = max(self.now, at)
            do()
        self.now = end

    def answers(self, agent: str) -> str | None:
        assert agent == "qwen"
        self.told.append("asked")
        return self.why.pop(0) if self.why else None

    def rotation(self, **changes: Any) -> Rotation:
        gates = tuple(Gate(name, f"{name}.example.com", 443) for name in self.gates)
        connections: Any = lambda: self  # noqa: E731
        given: dict[str, Any] = {"timeout": 600, "gates": gates} | changes
        return Rotation("gpu1", answers=self.answers, connections=connections, **given)


HERE: ContextVar[str] = ContextVar("HERE")


def qwen(host: str, **changes: Any) -> Member:
    return replace(Member("qwen", f"qwen.{host}", up=True, drained=False, running=0), **changes)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet({gate: [qwen(ONE), qwen(TWO)] for gate in ("gw1", "gw2")})
    monkeypatch.setattr(balancers, "ask_host", made.ask_host)
    monkeypatch.setattr(balancers, "carry_out", made.carry_out)
    monkeypatch.setattr(rotation, "time", made)
    monkeypatch.setattr(balancers, "time", made)
    monkeypatch.setattr(probe, "reachable", lambda address, port: address in made.reaches)
    return made


def test_a_host_that_is_behind_no_gateway_asks_nobody() -> None:
    nowhere = Rotation("gpu1")
    nowhere.reachable()
    nowhere.out(["qwen"])
    nowhere.back(["qwen"])


def test_agents_leave_rotation_when_nothing_runs_there_any_more(fleet: Fleet) -> None:
    fleet.put("gw1", running=3)
    fleet.put("gw2", running=1)
    fleet.events = [
        (8.0, lambda: fleet.put("gw1", running=1)),
        (40.0, lambda: fleet.put("gw2", running=0)),
        (50.0, lambda: fleet.put("gw1", running=0)),
    ]
    fleet.rotation().out(["qwen"])
    assert fleet.told == ["gw1 drain qwen", "gw2 drain qwen"]
    assert 50 <= fleet.now <= 53
    assert fleet.said[0] == "gw1, gw2: no new requests to qwen"
    assert re.fullmatch(
        r"waiting for running requests: [56] s of 600, qwen 1 from gw2, qwen 3 from gw1",
        fleet.said[1],
    )
    assert re.fullmatch(r"waiting for .* 3\d s of 600, qwen 1 from gw1, .*", fleet.said[2])
    assert re.fullmatch(r"qwen: no request runs, after 5\d s", fleet.said[-1])


def test_what_runs_at_a_server_that_is_gone_is_waited_for(fleet: Fleet) -> None:
    """Its pool has another name since the gateway's last reload."""
    fleet.put("gw1", drained=False, up=False, gone=True, running=2)
    fleet.events = [(10.0, lambda: fleet.put("gw1", running=0))]
    fleet.rotation().out(["qwen"])
    assert fleet.told == ["gw2 drain qwen"]
    assert 10 <= fleet.now <= 13


def test_what_hangs_at_one_that_is_down_is_not_waited_for(fleet: Fleet) -> None:
    for gate in fleet.gates:
        fleet.put(gate, up=False, running=2)
    fleet.rotation().out(["qwen"])
    assert (fleet.told, fleet.said) == ([], [])


def test_a_stream_that_does_not_end_is_not_waited_for_for_ever(fleet: Fleet) -> None:
    fleet.put("gw1", running=1)
    fleet.rotation(timeout=90).out(["qwen"])
    assert 90 <= fleet.now < 91
    assert fleet.said[-1] == (
        "still running after 90 s (gateway.drain_timeout), and not waited for: qwen 1 from gw1"
    )


def test_looks_are_soon_at_first_and_lines_about_them_rare(fleet: Fleet) -> None:
    fleet.tick, fleet.now = 0, 1000
    fleet.put("gw1", running=1)
    fleet.rotation(timeout=40).out(["qwen"])
    assert fleet.slept == [0.25, 0.5, 1, *[2] * 19, 0.25]
    assert fleet.said[1:] == [
        "waiting for running requests: 6 s of 40, qwen 1 from gw1",
        "waiting for running requests: 36 s of 40, qwen 1 from gw1",
        "still running after 40 s (gateway.drain_timeout), and not waited for: qwen 1 from gw1",
    ]


def test_a_gateway_that_is_lost_meanwhile_is_not_waited_for(fleet: Fleet) -> None:
    """The agents are out of rotation by then."""

    def lost() -> None:
        fleet.gates["gw2"], fleet.reaches = HostError("no answer"), {"gw2.example.com"}

    for gate in fleet.gates:
        fleet.put(gate, running=1)
    fleet.events = [(3, lost), (9, lambda: fleet.put("gw1", running=0))]
    fleet.rotation().out(["qwen"])
    assert 9 <= fleet.now <= 12
    assert fleet.said[-1] == "qwen: no request runs, after 10 s"


def test_agents_leave_together(fleet: Fleet) -> None:
    for servers in fleet.gates.values():
        assert isinstance(servers, list)
        servers += [replace(one, pool="twin", name=f"twin{one.name[4:]}") for one in servers]
    fleet.rotation().out(["twin", "qwen"])
    assert fleet.said == [
        "gw1, gw2: no new requests to qwen, twin",
        "qwen, twin: no request runs, after 0 s",
    ]


@pytest.mark.parametrize("other", [{"up": False}, {"drained": True}])
def test_the_last_one_is_not_drained_for_nothing(fleet: Fleet, other: dict[str, bool]) -> None:
    for gate in fleet.gates:
        fleet.put(gate, TWO, **other)
        fleet.put(gate, running=5)
    fleet.rotation().out(["qwen"])
    assert fleet.told == []
    assert fleet.said == [
        "no other agent answers for qwen at gw1, gw2, so requests go on to it until it stops"
    ]
    assert fleet.now < 1, "nor waited for"
    assert alone({fleet.rotation(): ["qwen"]}) == {"qwen": ["gw1", "gw2"]}
    for gate in fleet.gates:
        fleet.put(gate, running=0)
    fleet.rotation().out(["qwen"], last=True)
    assert fleet.told == ["gw1 drain qwen", "gw2 drain qwen"]


def test_where_one_gateway_has_no_other_it_goes_on_there(fleet: Fleet) -> None:
    fleet.put("gw2", TWO, up=False)
    fleet.rotation().out(["qwen"])
    assert fleet.told == ["gw1 drain qwen"]
    assert fleet.now < 1
    assert "no other agent answers for qwen at gw2" in fleet.said[0]


def test_agents_that_go_together_do_not_answer_for_each_other(fleet: Fleet) -> None:
    for servers in fleet.gates.values():
        assert isinstance(servers, list)
        servers[1] = Member("qwen", f"twin.{ONE}", up=True, drained=False, running=0)
    fleet.rotation().out(["qwen", "twin"])
    assert fleet.told == []
    fleet.rotation().out(["qwen"])
    assert fleet.told == ["gw1 drain qwen", "gw2 drain qwen"]


@pytest.mark.parametrize("servers", [[], [qwen(TWO)], [qwen(ONE, up=False), qwen(TWO)], None])
def test_one_that_gets_no_requests_needs_no_drain(
    fleet: Fleet, servers: list[Member] | None
) -> None:
    fleet.gates = {"gw1": servers, "gw2": servers}
    fleet.rotation().out(["qwen"])
    assert (fleet.told, fleet.said) == ([], [])
    fleet.rotation().back(["qwen"])
    assert (fleet.told, fleet.said) == ([], [])


def test_a_gateway_that_only_clients_reach_stops_it(fleet: Fleet) -> None:
    fleet.gates["gw2"] = HostError("cannot be reached: no answer")
    fleet.reaches = {"gw2.example.com"}
    for do in (Rotation.out, Rotation.back, lambda one, agents: alone({one: agents})):
        with pytest.raises(HostError) as raised:
            do(fleet.rotation(), ["qwen"])
        assert "gw2 answers clients and cannot be asked to send them elsewhere: cannot be" in str(
            raised.value
        )
        assert "Repair the way to it, or take it out of gateways" in str(raised.value)
    with pytest.raises(HostError, match="gw2"):
        fleet.rotation().reachable()
    assert fleet.told == []


def test_a_gateway_that_nothing_reaches_counts_as_down(fleet: Fleet) -> None:
    fleet.gates["gw2"] = HostError("cannot be reached: no answer")
    fleet.rotation().out(["qwen"])
    assert fleet.told == ["gw1 drain qwen"]
    assert "gw2 counts as down: neither SSH nor port 443 answers" in fleet.said


def test_one_that_is_down_is_not_asked_again_while_others_are_waited_for(fleet: Fleet) -> None:
    """Each try takes as long as a connection takes to fail."""
    fleet.gates["gw2"] = HostError("cannot be reached: no answer")
    fleet.put("gw1", running=1)
    fleet.events = [(60, lambda: fleet.put("gw1", running=0))]
    fleet.rotation().out(["qwen"])
    assert fleet.asked.count("gw2") == 1
    assert fleet.asked.count("gw1") > 20
    assert len([line for line in fleet.said if "gw2" in line]) == 1


def test_agents_come_back_once_they_answer_and_gateways_find_them(fleet: Fleet) -> None:
    for gate in fleet.gates:
        fleet.put(gate, drained=True, up=False)
    fleet.why = ["/v1/completions gives 502", None]
    fleet.events = [
        (9.0, lambda: fleet.put("gw1", up=True)),
        (20.0, lambda: fleet.put("gw2", up=True)),
    ]
    fleet.rotation().back(["qwen"])
    assert fleet.told == ["asked", "asked", "gw1 ready qwen", "gw2 ready qwen"]
    assert 20 <= fleet.now <= 23
    assert fleet.said == ["gw1, gw2: requests go to qwen again"]


def test_one_whose_edge_does_not_answer_stays_out(fleet: Fleet) -> None:
    fleet.put("gw1", drained=True)
    fleet.why = ["/v1/completions gives 502"] * 99
    with pytest.raises(HostError, match="gets no requests from gateways.*gives 502.*deploy again"):
        fleet.rotation().back(["qwen"])
    assert fleet.told == ["asked"] * 15
    assert fleet.slept == [2] * 14
    fleet.told.clear()
    with pytest.raises(HostError, match="gets no requests from gateways.*gives 502.*deploy again"):
        fleet.rotation().back(["qwen"], again_later=True)
    assert fleet.told == ["asked"] * 15, "an edge that is there is waited for all the same"


def test_a_host_without_an_edge_yet_is_put_back_later_in_the_run(fleet: Fleet) -> None:
    """Such as one that was made anew while gateways know its agents."""
    fleet.put("gw1", drained=True)
    fleet.why = [NoEdge("refused")] * 99
    fleet.rotation().back(["qwen"], again_later=True)
    assert (fleet.told, fleet.now < 1) == (["asked"], True)
    assert fleet.said == ["qwen gets requests once its host has its edge, later in this run"]
    with pytest.raises(HostError, match="gets no requests from gateways.*refused"):
        fleet.rotation().back(["qwen"])
    assert fleet.told == ["asked"] * (1 + 15), "it may come within a moment"


def test_one_that_gateways_do_not_find_fails_its_host(fleet: Fleet) -> None:
    fleet.put("gw1", drained=True)
    fleet.put("gw2", drained=True, up=False)
    with pytest.raises(HostError, match="do not find these agents well after 6. s: qwen at gw2;"):
        fleet.rotation().back(["qwen"])
    fleet.now, fleet.tick, fleet.slept = 1000, 0, []
    fleet.put("gw1", drained=True, up=False)
    fleet.put("gw2", drained=True)
    with pytest.raises(HostError, match="after 62 s: qwen at gw1, qwen at gw2; see"):
        fleet.rotation().back(["qwen"])
    assert fleet.slept == [0.25, 0.5, 1, *[2] * 30]


def test_a_gateway_that_is_lost_meanwhile_keeps_nobody_out(fleet: Fleet) -> None:
    def lost() -> None:
        fleet.gates["gw2"], fleet.reaches = HostError("no answer"), {"gw2.example.com"}

    for gate in fleet.gates:
        fleet.put(gate, drained=True, up=False)
    fleet.events = [(3, lost), (9, lambda: fleet.put("gw1", up=True))]
    fleet.rotation().back(["qwen"])
    assert fleet.said == [
        "gw2 is not asked: no answer",
        "gw1, gw2: requests go to qwen again",
    ]


def test_nothing_is_asked_of_one_that_is_in_rotation(fleet: Fleet) -> None:
    fleet.put("gw1", up=False)
    fleet.rotation().back(["qwen"])
    assert (fleet.told, fleet.said) == ([], [])


def test_what_somebody_drained_stays_so_over_deploys(fleet: Fleet) -> None:
    fleet.rotation().out(["qwen"], by_hand=True)
    assert fleet.told == ["gw1 drain qwen by hand", "gw2 drain qwen by hand"]
    assert fleet.rotation().drained() == {"qwen": ["gw1", "gw2"]}
    # Also where another gateway cannot be asked:
    fleet.gates["gw3"], fleet.reaches = HostError("no answer"), {"gw3.example.com"}
    fleet.places["gw3"] = Place("gw3")
    rotation = fleet.rotation()
    for _ in range(2):
        assert rotation.drained() == {"qwen": ["gw1", "gw2"]}
    assert fleet.said.count("gw3 is not asked: no answer") == 1
    del fleet.gates["gw3"]
    fleet.told.clear()
    fleet.said.clear()
    # A deploy:
    fleet.rotation().out(["qwen"])
    fleet.rotation().back(["qwen"])
    assert fleet.told == []
    assert fleet.said[-1] == (
        "qwen was drained by hand and stays so until `vllm-hosts agents INVENTORY undrain`"
    )
    fleet.rotation().back(["qwen"], by_hand=True)
    assert fleet.told == ["asked", "gw1 ready qwen", "gw2 ready qwen"]
    assert fleet.rotation().drained() == {}


def test_one_that_a_run_left_drained_becomes_somebody_s(fleet: Fleet) -> None:
    fleet.put("gw1", drained=True)
    fleet.rotation().out(["qwen"], by_hand=True)
    assert fleet.told == ["gw1 drain qwen by hand", "gw2 drain qwen by hand"]


def operation(which: Any) -> Any:
    return which._inner.__wrapped__


@contextmanager
def executing(monkeypatch: pytest.MonkeyPatch, *, is_: bool) -> Iterator[None]:
    state = SimpleNamespace(get=lambda: SimpleNamespace(is_executing=is_))
    with monkeypatch.context() as patch:
        patch.setattr(rotation, "ctx_state", state)
        yield


def test_the_next_run_puts_back_what_one_that_was_cut_off_left(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.put("gw1", drained=True)
    # Nothing is to change there: no reason to fail.
    fleet.gates["gw2"], fleet.reaches = HostError("cannot be reached"), {"gw2.example.com"}
    with executing(monkeypatch, is_=False):
        assert list(operation(rotation.in_rotation)(fleet.rotation(), ["qwen"])) == []
    assert fleet.told == []
    with executing(monkeypatch, is_=True):
        assert list(operation(rotation.in_rotation)(fleet.rotation(), ["qwen"])) == []
    assert fleet.told == ["asked", "gw1 ready qwen"]
    assert "gw2 is not asked: cannot be reached" in fleet.said


def test_a_host_that_is_removed_is_drained_first(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with executing(monkeypatch, is_=False):
        assert list(operation(rotation.out_of_rotation)(fleet.rotation(), ["qwen"])) == []
    assert fleet.told == []
    with executing(monkeypatch, is_=True):
        assert list(operation(rotation.out_of_rotation)(fleet.rotation(), ["qwen"])) == []
    assert fleet.told == ["gw1 drain qwen", "gw2 drain qwen"]


def test_many_hosts_at_once_do_not_ask_a_gateway_for_each(fleet: Fleet) -> None:
    """One look that begins after all have asked serves them all; a later one begins anew."""
    jobs = [gevent.spawn(fleet.rotation().looks) for _ in range(20)]
    gevent.joinall(jobs, raise_error=True)
    assert 1 <= fleet.asked.count("gw1") <= 3
    before = len(fleet.asked)
    fleet.rotation().looks()
    assert len(fleet.asked) == before + 2


def test_haproxy_that_does_not_do_it_stops_the_host(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(commands: Any) -> None:
        raise HostError("No such server.")

    monkeypatch.setattr(balancers, "carry_out", refuse)
    with pytest.raises(
        HostError, match="HAProxy of gateway gw1 did not do what it was told: No su"
    ):
        fleet.rotation().out(["qwen"])


def test_a_fault_of_our_own_is_no_gateway_without_requests(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault")

    for name in ("carry_out", "ask_host"):
        monkeypatch.setattr(balancers, name, fault)
        with pytest.raises(RuntimeError, match="a fault"):
            fleet.rotation().out(["qwen"])


def test_a_look_of_this_moment_is_new_enough(fleet: Fleet) -> None:
    fleet.tick = 0
    for _ in range(2):
        fleet.rotation().looks()
    assert sorted(fleet.asked) == ["gw1", "gw2"]


def test_one_thing_at_a_time_is_done_at_a_gateway(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sshd allows ten sessions over a connection."""
    there: list[int] = [0]

    def alone_there(*_: Any) -> Balancer:
        there[0] += 1
        assert there[0] == 1
        gevent.sleep(0)
        there[0] -= 1
        return Balancer(())

    for name in ("ask_host", "carry_out"):
        monkeypatch.setattr(balancers, name, alone_there)
    known: Any = fleet
    jobs = [gevent.spawn(balancers.told_at, known, "gw1", "true") for _ in range(3)]
    jobs += [gevent.spawn(balancers.seen_at, known, "gw1", 1.0) for _ in range(3)]
    gevent.joinall(jobs, raise_error=True)


def test_connections_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(inventory="the inventory")
    monkeypatch.setattr(balancers, "ctx_state", SimpleNamespace(get=lambda: state))
    monkeypatch.setattr(balancers, "Connections", lambda *given: given)
    assert balancers.of_this_run() == ("the inventory", state)  # type: ignore[comparison-overlap]
