"""Turns of hosts with the same models: who waits for whom, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.operations import one_by_one
from vllm_hosts.operations.one_by_one import Serving, Turn, Turns, in_turn

M, N, BOTH = frozenset("m"), frozenset("n"), frozenset("mn")
NONE: frozenset[str] = frozenset()
NOW = ("announced", "waits", "changes", "done", "failed")


def test_what_agents_serve() -> None:
    serving = Serving({"a": "m", "b": "n", "c": "m"}, "/opt/vllm", 9)
    assert serving.of(["a", "c", "none"]) == M
    assert serving.of(["a", "b"]) == BOTH
    assert serving.together is False


def test_a_turn_is_announced_first() -> None:
    turns = Turns()
    turn = turns.announce("a", M, N, 3)
    assert (turn.host, turn.models, turn.serving, turn.order) == ("a", M, N, 3)
    assert turn.state == "announced"
    assert turns.turns == [turn]


@pytest.mark.parametrize(
    ("serving", "rank"), [(M, (True, 3)), (N, (False, 3)), (NONE, (False, 3)), (BOTH, (True, 3))]
)
def test_who_serves_nothing_of_it_goes_first(
    serving: frozenset[str], rank: tuple[bool, int]
) -> None:
    assert Turn("a", M, serving, 3).rank == rank


def test_models_that_nobody_serves_are_not_guarded() -> None:
    turns = Turns()
    mine = turns.announce("a", BOTH, NONE, 0)
    assert turns.guarded(mine) == NONE
    turns.announce("b", NONE, N, 1)
    assert turns.guarded(mine) == N


@pytest.mark.parametrize("everybody", [True, False])
@pytest.mark.parametrize("state", NOW)
@pytest.mark.parametrize(
    ("host", "models", "order"),
    [("b", M, 0), ("b", M, 2), ("b", N, 0), ("a", M, 0), ("b", BOTH, 0), ("b", M, 1)],
)
def test_who_is_ahead(
    host: str, models: frozenset[str], order: int, state: Any, everybody: bool
) -> None:
    turns = Turns()
    other = turns.announce(host, models, models, order)
    other.state = state
    mine = turns.announce("a", M, M, 1)
    about_me = host == "b" and bool(models & M)
    before = order < 1 and state in (("waits", "announced") if everybody else ("waits",))
    ahead = about_me and (state == "changes" or before)
    assert turns.ahead(mine, everybody=everybody) == [other] * ahead
    # Nobody waits for itself.
    assert mine not in turns.ahead(mine, everybody=everybody)
    assert turns.failed(mine) is (other if about_me and state == "failed" else None)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([("b", M, M)], "waits until b serves m again"),
        ([("b", M, NONE)], "waits until b serves m"),
        ([("b", BOTH, BOTH), ("c", M, M)], "waits until b, c serve m, n again"),
        ([("b", M, M), ("b", N, N)], "waits until b serves m, n again"),
        ([("b", M, M), ("c", N, NONE)], "waits until b, c serve m, n"),
        ([("b", M, frozenset("x"))], "waits until b serves m"),
    ],
)
def test_what_is_waited_for(others: list[tuple[str, Any, Any]], words: str) -> None:
    ahead = [Turn(*other, order) for order, other in enumerate(others)]
    assert one_by_one._waits_for(ahead, Turn("a", BOTH, BOTH, 9)) == words


def test_who_is_left_as_it_is_is_told_why() -> None:
    broken, mine = Turn("b", BOTH, BOTH, 0), Turn("a", frozenset("nmx"), M, 1)
    assert one_by_one._stopped(broken, mine) == (
        "the agents of this host are left as they are: b failed while its agents of m, n were down."
        " Repair b, or take the change back, and deploy again; with vllm.change_together = True"
        " hosts do not wait for each other"
    )


def test_the_order_of_hosts() -> None:
    hosts = {"a": (M, M), "b": (M, NONE), "c": (M, M), "d": (N, N), "e": (N, NONE)}
    assert in_turn(hosts, ()) == {"a": ["b"], "c": ["b", "a"], "d": ["e"]}
    assert in_turn({"a": (M, NONE), "b": (M, NONE)}, ()) == {}
    assert in_turn({"a": (M, NONE), "b": (M, NONE)}, ["m"]) == {"b": ["a"]}


def test_a_turn_that_fails_or_is_cancelled() -> None:
    turns = Turns()
    first, second = turns.announce("a", M, M, 0), turns.announce("b", M, M, 1)
    said: list[str] = []
    taken = turns.taken(first, everybody=True, say=said.append)
    taken.__enter__()
    states: list[str] = [first.state]
    assert not taken.__exit__(KeyError, KeyError(), None)
    assert [*states, first.state] == ["changes", "failed"]
    with (
        pytest.raises(HostError, match="a failed while its agents of m were down"),
        turns.taken(second, everybody=True, say=said.append),
    ):
        raise AssertionError
    assert second.state == "done"
    assert said == []


@pytest.mark.parametrize("ends", ["done", "failed"])
def test_a_turn_that_ends(ends: str) -> None:
    turns = Turns()
    turn, said = turns.announce("a", M, M, 0), list[str]()
    with turns.taken(turn, everybody=True, say=said.append):
        if ends == "failed":
            turns.abandon("a")
    assert turn.state == ends


@pytest.mark.parametrize(
    ("state", "then"),
    [*zip(NOW, ("done", "done", "failed", "done", "failed"), strict=True)],
)
def test_turns_of_a_host_that_failed(state: Any, then: str) -> None:
    turns = Turns()
    mine, other = turns.announce("a", M, M, 0), turns.announce("b", M, M, 1)
    mine.state = other.state = state
    turns.abandon("a")
    assert (mine.state, other.state) == (then, state)


class Run:
    """A run of hosts, on one of which something is done."""

    def __init__(self, parallel: int | None = 2) -> None:
        self.said: list[object] = []
        self.ran: list[tuple[str, dict[str, object]]] = []
        self.error: Exception | None = None
        hosts = [SimpleNamespace(name=name) for name in ("a", "b")]
        config = SimpleNamespace(PARALLEL=parallel)
        self.state: Any = SimpleNamespace(inventory=hosts, active_hosts=hosts, config=config)
        self.host: Any = SimpleNamespace(name="b", log=self.said.append, run_shell_command=self.run)

    def run(self, command: object, **how: object) -> None:
        self.ran.append((str(command), how))
        if self.error:
            raise self.error

    @contextmanager
    def at(self) -> Iterator[Turns]:
        with ctx_state.use(self.state), ctx_host.use(self.host):
            yield one_by_one.begin()
        one_by_one.begin()


def test_turns_of_the_present_host() -> None:
    with Run().at() as turns:
        assert one_by_one.announced() is None
        first = one_by_one.announce(M, N)
        assert (first.host, first.models, first.serving, first.order) == ("b", M, N, 1)
        second = one_by_one.announce(N, N)
        turns.announce("a", M, M, 0)
        assert one_by_one.announced() is second
        one_by_one.abandon("b")
        assert (first.state, second.state) == ("done", "done")
        assert one_by_one.announced() is None
        assert one_by_one.begin().turns == []


def test_together_nobody_is_waited_for() -> None:
    with Run().at() as turns:
        turns.announce("a", M, M, 0)
        turn = one_by_one.announce(M, M)
        with one_by_one.turn_taken(turn, together=True):
            assert turn.state == "done"


@pytest.mark.parametrize(
    ("parallel", "everybody"), [(2, True), (3, True), (1, False), (None, False)]
)
@pytest.mark.parametrize("error", [None, OSError(), EOFError(), SSHException()])
def test_how_a_turn_is_taken(
    monkeypatch: pytest.MonkeyPatch, parallel: int | None, everybody: bool,
    error: Exception | None,
) -> None:  # fmt: skip
    run = Run(parallel)
    run.error = error
    given: dict[str, Any] = {}

    @contextmanager
    def taken(self: Turns, turn: Turn, **how: Any) -> Iterator[None]:
        given.update(how, turn=turn)
        yield

    monkeypatch.setattr(Turns, "taken", taken)
    options = lambda state, host: {"_sudo": (state, host)}  # noqa: E731
    monkeypatch.setattr(one_by_one, "connector_options", options)
    with run.at():
        turn = one_by_one.announce(M, M)
        with one_by_one.turn_taken(turn):
            pass
        given["say"]("waits")
        given["meanwhile"]()
    assert (given["turn"], given["everybody"]) == (turn, everybody)
    assert run.said == ["    waits"]
    how = {"print_output": False, "print_input": False, "_sudo": (run.state, run.host)}
    assert run.ran == [("true", how)]


def test_an_operation_that_fails_ends_its_host_s_turn() -> None:
    with Run().at():
        turn = one_by_one.announce(M, M)
        host: Any = SimpleNamespace(name="b")
        one_by_one.Ending.operation_host_error(SimpleNamespace(), host, "ab12")  # type: ignore[arg-type]
        assert turn.state == "done"


class Changed:
    """What is waited for: each time the next of these happens; whether somebody told of it."""

    def __init__(self, turns: Turns, *happen: Callable[[], bool]) -> None:
        self.happen, self.told, self.waited = list(happen), 0, list[float]()
        turns._changed = self

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return self.happen.pop(0)()

    def set(self) -> None:
        self.told += 1


def test_who_waits_says_so_once_and_again_after_a_minute() -> None:
    turns, said = Turns(), list[str]()
    other, mine = turns.announce("a", M, M, 0), turns.announce("b", M, M, 1)
    other.state = "changes"

    def is_over() -> bool:
        assert mine.state == "waits"
        other.state = "done"
        return True

    changed = Changed(turns, lambda: True, lambda: False, lambda: True, is_over)
    say, meanwhile = said.append, lambda: said.append("meanwhile")
    with turns.taken(mine, everybody=True, say=say, meanwhile=meanwhile):
        assert mine.state == "changes"
        assert changed.told == 0
    words = "waits until a serves m again"
    assert said == [words, "meanwhile", f"still {words}"]
    assert changed.waited == [60.0] * 4
    assert changed.told == 1
    # Who comes now waits for something new.
    assert turns._changed is not changed


def test_others_are_told_of_every_end() -> None:
    for end in ("failed", "cancelled", "abandoned"):
        turns, said = Turns(), list[str]()
        first, second = turns.announce("a", M, M, 0), turns.announce("b", M, M, 1)
        taken = turns.taken(first, everybody=True, say=said.append)
        changed = Changed(turns)
        if end == "failed":
            taken.__enter__()
            taken.__exit__(KeyError, KeyError(), None)
        elif end == "abandoned":
            turns.abandon("a")
        else:
            first.state = "failed"
            with pytest.raises(HostError):
                turns.taken(second, everybody=True, say=said.append).__enter__()
        assert changed.told == 1, end
