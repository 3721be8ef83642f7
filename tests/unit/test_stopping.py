"""A signal reaches the greenlet that waits for all others, whichever one runs at that moment."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import click
import gevent
import pyinfra_cli  # noqa: F401  has gevent replace threads by greenlets
import pytest
from gevent.monkey import get_original

from vllm_hosts.connect import stopping
from vllm_hosts.project import ending

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Those of the operating system, which let no other greenlet run.
_select, _sleep = get_original("select", "select"), get_original("time", "sleep")

Sends = Callable[[], None]


@pytest.fixture(params=SIGNALS)
def sends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sends]:
    """Sends one of the signals to this process, in which a run listens."""
    monkeypatch.setattr(ending, "_write_nowhere", lambda: None)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    ending.listen()

    def send() -> None:
        os.kill(os.getpid(), request.param)

    send.code = 128 + request.param  # type: ignore[attr-defined]
    yield send
    for number, handler in before.items():
        signal.signal(number, handler)
    # Nothing is left that would reach another test.
    ending._code = None
    stopping.settle()


def stopped(send: Sends, wait: Callable[[], object]) -> float:
    """Waits, and is stopped: after how many seconds."""
    began = time.monotonic()
    with pytest.raises(ending.StoppedError) as error:
        wait()
    assert error.value.code == send.code  # type: ignore[attr-defined]
    return time.monotonic() - began


def test_one_that_comes_while_a_thread_runs(sends: Sends) -> None:
    """As paramiko's do, one for each connection."""
    went_on: list[object] = []

    def reads() -> None:
        sends()
        went_on.append(sum(range(100)))
        gevent.sleep(0.05)
        went_on.append("after it has waited")

    thread = threading.Thread(target=reads)
    thread.start()
    assert stopped(sends, lambda: gevent.sleep(10)) < 2
    thread.join()
    assert went_on == [4950, "after it has waited"]


def test_one_that_comes_while_somebody_works_at_a_host(sends: Sends) -> None:
    def works() -> str:
        sends()
        return "whole"

    job = gevent.spawn(works)
    assert stopped(sends, lambda: gevent.joinall([job, gevent.spawn(gevent.sleep, 10)])) < 2
    assert job.get() == "whole"


def test_one_that_comes_while_the_loop_runs(sends: Sends) -> None:
    seen = []

    def called() -> None:
        sends()
        seen.append("the rest of it")

    gevent.get_hub().loop.run_callback(called)
    assert stopped(sends, lambda: gevent.sleep(10)) < 2
    assert seen == ["the rest of it"]


def test_one_that_comes_while_garbage_is_ended(sends: Sends) -> None:
    class Channel:
        def __del__(self) -> None:
            try:
                sends()
                sum(range(100))
            except:  # noqa: E722  as paramiko's does
                pass

    gevent.spawn(lambda: Channel() and None)
    assert stopped(sends, lambda: gevent.sleep(10)) < 2


def test_one_that_comes_while_the_run_itself_works(sends: Sends) -> None:
    done = []

    def works() -> None:
        sends()
        _sleep(5)
        done.append("all")

    assert stopped(sends, works) < 2
    assert done == []


def test_one_that_comes_while_the_whole_process_waits_for_a_key(sends: Sends) -> None:
    """A prompt for a password lets no other greenlet run."""
    after = []

    def prompts() -> None:
        sends()
        # With a limit, so that a test that fails ends as well.
        after.append(_select([], [], [], 8))

    job = gevent.spawn(prompts)
    assert 0.3 < stopped(sends, lambda: gevent.sleep(10)) < 4
    assert isinstance(job.get(), gevent.GreenletExit)
    assert after == []


def test_one_that_comes_while_a_greenlet_computes(sends: Sends) -> None:
    def computes() -> None:
        sends()
        end = time.monotonic() + 8
        while time.monotonic() < end:
            pass

    gevent.spawn(computes)
    assert stopped(sends, lambda: gevent.sleep(10)) < 4


def test_it_is_raised_once(sends: Sends) -> None:
    """What is done after it is done in peace: hosts are let go."""
    gevent.spawn(sends)
    stopped(sends, lambda: gevent.sleep(10))
    gevent.sleep(1.2)
    assert stopping._on_its_way is None


def test_whose_timer_it_was_gets_it_back(sends: Sends) -> None:
    rang = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    timer = signal.setitimer(signal.ITIMER_REAL, 60)
    gevent.spawn(sends)
    stopped(sends, lambda: gevent.sleep(10))
    assert 50 < signal.setitimer(signal.ITIMER_REAL, *timer)[0] <= 60
    assert signal.signal(signal.SIGALRM, handler) is not handler
    assert rang == []


def test_a_run_whose_stop_nobody_heard_ends_with_its_code(sends: Sends) -> None:
    ending.keep_code()
    gevent.spawn(sends)
    # It has come to its end meanwhile.
    stopped(sends, lambda: gevent.sleep(10))
    with pytest.raises(ending.StoppedError) as error:
        ending.keep_code()
    assert error.value.code == sends.code  # type: ignore[attr-defined]


def test_why_a_greenlet_failed_is_nobody_s_business_then(
    sends: Sends, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its connection is closed while it works over it."""

    def fails() -> None:
        raise EOFError

    gevent.spawn(sends)
    stopped(sends, lambda: gevent.sleep(10))
    gevent.spawn(fails)
    gevent.sleep(0.01)
    assert "EOFError" not in capsys.readouterr().err
    ending.listen()
    gevent.spawn(fails)
    gevent.sleep(0.01)
    assert "EOFError" in capsys.readouterr().err


def test_it_is_said_while_something_is_written(
    sends: Sends, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's file refuses what its own thread writes meanwhile."""

    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(click, "echo", refuses)
    gevent.spawn(sends)
    stopped(sends, lambda: gevent.sleep(10))
    assert "--> The run is stopped: " in capfd.readouterr().err


class TestCommands:
    @pytest.fixture(autouse=True)
    def own(self) -> Iterator[None]:
        """Python's own handler, as when a command begins."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)
        stopping.settle()

    def test_ctrl_c_while_a_thread_runs_ends_a_command(self) -> None:
        stopping.interruptible()
        for _ in range(2):
            thread = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT))
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                gevent.sleep(10)
            thread.join()

    def test_who_listens_in_another_way_is_left_alone(self) -> None:
        for handler in (signal.SIG_IGN, signal.SIG_DFL, lambda *_: None):
            signal.signal(signal.SIGINT, handler)
            stopping.interruptible()
            assert signal.getsignal(signal.SIGINT) is handler

    def test_only_the_one_that_waits_for_all_others_is_reached(self) -> None:
        gevent.spawn(stopping.interruptible).get()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
