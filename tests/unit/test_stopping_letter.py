"""What is on its way to the greenlet that waits for all others, step by step and to the letter."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pyinfra_cli  # noqa: F401  has gevent replace threads by greenlets
import pytest
from gevent.pool import Pool

from vllm_hosts.connect import stopping
from vllm_hosts.project import ending


class _Stops(BaseException):
    pass


class Clock:
    """The process's timer and who has it, which never rings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.handler: Any = "theirs"
        self.timer = (60.0, 0.0)
        monkeypatch.setattr(signal, "signal", self._signal)
        monkeypatch.setattr(signal, "setitimer", self._setitimer)

    def _signal(self, number: int, handler: Any) -> Any:
        assert number == signal.SIGALRM
        before, self.handler = self.handler, handler
        return before

    def _setitimer(self, which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        assert which == signal.ITIMER_REAL
        before, self.timer = self.timer, (seconds, interval)
        return before

    @property
    def theirs(self) -> bool:
        return (self.handler, self.timer) == ("theirs", (60.0, 0.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    yield Clock(monkeypatch)
    stopping._on_its_way = None


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What gevent's loop is to call when no greenlet runs."""
    found: list[Callable[[], None]] = []
    loop = SimpleNamespace(run_callback=found.append)
    monkeypatch.setattr(gevent, "get_hub", lambda: SimpleNamespace(loop=loop))
    return found


class Main:
    """Stands for the greenlet that waits."""

    def __init__(self) -> None:
        self.thrown: list[BaseException] = []

    def throw(self, error: BaseException) -> None:
        self.thrown.append(error)


def in_greenlet(job: Callable[[], object]) -> gevent.Greenlet[..., object]:
    spawned: gevent.Greenlet[..., object] = gevent.spawn(job)
    spawned.join()
    return spawned


def test_who_runs_hears_it_at_once(clock: Clock, called: list[Callable[[], None]]) -> None:
    error = _Stops()
    with pytest.raises(_Stops) as raised:
        stopping.reach(gevent.getcurrent(), error)
    assert raised.value is error
    assert clock.theirs and called == []


def test_another_one_hears_it_when_nobody_runs(
    clock: Clock, called: list[Callable[[], None]]
) -> None:
    main, error = Main(), _Stops()
    stopping.reach(main, error)
    # Twice a second, however often it is late.
    assert (clock.handler, clock.timer) == (stopping._late, (0.5, 0.5))
    [arrives] = called
    assert main.thrown == []
    arrives()
    assert main.thrown == [error]
    assert clock.theirs and stopping._on_its_way is None
    # Once.
    arrives()
    assert main.thrown == [error]


def test_what_came_first_is_forgotten(clock: Clock, called: list[Callable[[], None]]) -> None:
    main = Main()
    first, second = _Stops(), _Stops()
    stopping.reach(main, first)
    stopping.reach(main, second)
    for arrives in called:
        arrives()
    assert main.thrown == [second]
    assert clock.theirs


def test_late_for_who_waits(clock: Clock, called: list[Callable[[], None]]) -> None:
    """It has not come to a place where the loop runs."""
    error = _Stops()
    main = gevent.getcurrent()
    in_greenlet(lambda: stopping.reach(main, error))
    with pytest.raises(_Stops) as raised:
        stopping._late(signal.SIGALRM, None)
    assert raised.value is error
    assert clock.theirs and stopping._on_its_way is None


class TestLateWhere:
    @pytest.fixture(autouse=True)
    def on_its_way(self, clock: Clock, called: list[Callable[[], None]]) -> None:
        stopping.reach(Main(), _Stops())

    def test_a_greenlet_goes_on_for_ever(self) -> None:
        after: list[int] = []

        def goes_on() -> None:
            stopping._late(signal.SIGALRM, None)
            after.append(1)

        ended = in_greenlet(goes_on)
        assert isinstance(ended.value, gevent.GreenletExit)
        assert after == [] and stopping._on_its_way is not None

    def test_a_thread_does(self) -> None:
        """paramiko's go on, and their connections with them."""
        after: list[int] = []

        def goes_on() -> None:
            stopping._late(signal.SIGALRM, None)
            after.append(1)

        thread = threading.Thread(target=goes_on)
        thread.start()
        thread.join()
        assert after == [1]

    def test_the_loop_does(self) -> None:
        after: list[int] = []

        def goes_on() -> None:
            stopping._late(signal.SIGALRM, None)
            after.append(1)

        gevent.hub.get_hub().loop.run_callback(goes_on)
        gevent.sleep(0)
        assert after == [1]

    def test_nothing_is_on_its_way_any_more(self) -> None:
        stopping.settle()
        assert in_greenlet(lambda: stopping._late(signal.SIGALRM, None)).successful()


@pytest.mark.parametrize(
    ("number", "broken", "times"), [(15, False, 0), (15, True, 1), (1, False, 1)]
)
def test_a_stop_frees_places_and_needs_nobody_who_reads(
    monkeypatch: pytest.MonkeyPatch, number: int, broken: bool, times: int
) -> None:
    def say(what: str) -> None:
        if broken:
            raise BrokenPipeError

    nowhere: list[int] = []
    reached: list[Any] = []
    monkeypatch.setattr(ending, "_say", say)
    monkeypatch.setattr(ending, "_write_nowhere", lambda: nowhere.append(1))
    monkeypatch.setattr(stopping, "reach", lambda main, error: reached.append(error.code))
    monkeypatch.setattr(gevent, "get_hub", SimpleNamespace)
    state: Any
    for state in (SimpleNamespace(pool="full"), SimpleNamespace(), None):
        monkeypatch.setattr(ending, "_code", None)
        monkeypatch.setattr(ending, "_state", state)
        ending._stop(number, None)
        assert isinstance(getattr(state, "pool", None), Pool) is hasattr(state, "pool")
    assert reached == [128 + number] * 3 and nowhere == [1] * times * 3
