"""How ports are tried from outside, without waiting: how often, by how many, as of which moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host

from vllm_hosts.facts import touched
from vllm_hosts.operations import outside

HERE, EDGE = "192.0.2.1", 443


class Host:
    """Where something may be done, and ports may open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done, self.open = 0, set[int]()
        self.asked: list[tuple[object, ...]] = []
        self.pools: list[tuple[object, ...]] = []
        monkeypatch.setattr(touched, "times", lambda host: self.done)
        probe = SimpleNamespace(
            LONGEST=2.0,
            round_trip=self.round_trip,
            patience=lambda far: 10 * far,
            reachable=self.reachable,
        )
        monkeypatch.setattr(outside, "probe", probe)
        monkeypatch.setattr(outside, "ThreadPoolExecutor", self.pool)

    def round_trip(self, *given: object) -> float:
        self.asked.append(given)
        return 0.1

    def reachable(self, *given: Any) -> bool:
        self.asked.append(given)
        return given[1] in self.open

    def pool(self, max_workers: int) -> Any:
        def submit(work: Callable[..., Any], *given: object) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(work(*given))
            return done

        self.pools.append(("begun", max_workers))
        ended = lambda wait: self.pools.append(("ended", wait))  # noqa: E731
        return SimpleNamespace(submit=submit, shutdown=ended)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made: Any = Host(monkeypatch)
    with ctx_host.use(made):
        yield made


def opened(*ports: int, address: str = HERE) -> list[bool]:
    opens = outside.opened(address, ports, answering=EDGE)
    return [opens(address, port) for port in ports]


def test_a_closed_port_is_tried_twice_and_an_open_one_once(host: Host) -> None:
    host.open = {8002}
    assert opened(8001, 8002) == [False, True]
    closed, open_ = (HERE, 8001, 1.0), (HERE, 8002, 1.0)
    assert host.asked == [(HERE, EDGE, 2.0), closed, closed, open_]


def test_all_are_tried_at_once_and_nobody_stays_for_it(host: Host) -> None:
    opened(8001, 8002, 8003)
    assert host.pools == [("begun", 4), ("ended", False)]


def test_no_ports_are_no_work(host: Host) -> None:
    outside.begin(HERE, [], answering=EDGE)
    assert opened() == []
    assert (host.asked, host.pools) == ([], [])


@pytest.mark.parametrize(
    ("done", "address", "ports", "again"),
    [
        (0, HERE, (8001, 8002), False),
        (0, HERE, (8001,), False),
        (0, HERE, (8001, 8003), True),
        (0, "192.0.2.2", (8001,), True),
        (1, HERE, (8001,), True),
    ],
)
def test_what_was_seen_counts_for_as_long_as_nothing_was_done(
    host: Host, done: int, address: str, ports: tuple[int, ...], again: bool
) -> None:
    outside.begin(HERE, [8001, 8002], answering=EDGE)
    host.done, host.open = done, set(ports)
    assert opened(*ports, address=address) == [again] * len(ports)
    # And once only.
    host.open = set()
    assert opened(*ports, address=address) == [False] * len(ports)
    assert len(host.pools) == 2 * (3 if again else 2)


def test_what_was_tried_is_a_value(host: Host) -> None:
    outside.begin(HERE, [8001], answering=EDGE)
    current: Any = host
    with pytest.raises(FrozenInstanceError):
        outside._tried[current].done = 7  # type: ignore[misc]
