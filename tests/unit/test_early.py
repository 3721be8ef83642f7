"""A run's first moments: whoever stops it then hears so, and it is not taken for one that ended."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator

import pytest

from vllm_hosts.project import early, run

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """As pyinfra has them when it reads config.py."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class _Ended(BaseException):
    """Stands for the end of the process, with its code."""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []

    def ends(code: int) -> None:
        raise _Ended(code)

    monkeypatch.setattr(os, "_exit", ends)
    monkeypatch.setattr(os, "write", lambda file, text: found.append((file, text)))
    return found


def heard() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_signals_count_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[object]] = []
    monkeypatch.setattr(run, "install", lambda: seen.append(heard()))
    early.install()
    assert seen == [[early._end] * 3]


@pytest.mark.parametrize("ignored", SIGNALS)
def test_one_that_is_ignored_stays_so(
    monkeypatch: pytest.MonkeyPatch, ignored: signal.Signals
) -> None:
    """As SIGHUP is under nohup."""
    monkeypatch.setattr(run, "install", lambda: None)
    signal.signal(ignored, signal.SIG_IGN)
    early.install()
    assert heard() == [early._end if one != ignored else signal.SIG_IGN for one in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_it_is_said_and_has_its_code(written: list[tuple[int, bytes]], number: int) -> None:
    with pytest.raises(_Ended) as error:
        early._end(number, None)
    assert error.value.args == (128 + number,)
    assert written == [(2, b"\n--> The run is stopped before it has begun\n")]


def test_it_ends_although_nobody_reads_it(
    written: list[tuple[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(file: int, text: bytes) -> None:
        raise OSError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(os, "write", closed)
    with pytest.raises(_Ended):
        early._end(signal.SIGTERM, None)
