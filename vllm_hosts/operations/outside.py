"""Whether ports of a host open from here, tried while its run goes on.

A firewall that drops answers nothing, so that trying it is waiting. What was seen early counts only
if nothing was done at the host since: an agent that starts later may be published to everybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pyinfra.api.host import Host
from pyinfra.context import ctx_host

from vllm_hosts.facts import ahead, touched
from vllm_hosts.host import probe


@dataclass(frozen=True)
class _Tried:
    """``done``: what had been done at the host when it began. ``until``: for how long it counts, as
    what is asked ahead."""

    address: str
    done: int
    opens: dict[int, Future[bool]]
    until: float

    def counts(self, address: str, ports: Collection[int], done: int) -> bool:
        """Whether it says of these ports what would be seen now."""
        same = (self.address, self.done) == (address, done)
        return same and self.opens.keys() >= set(ports) and time.monotonic() <= self.until


_tried: WeakKeyDictionary[Host, _Tried] = WeakKeyDictionary()


def begin_ahead(address: str, ports: Sequence[int], *, answering: int) -> None:
    """As ``begin``, before anything was done at the host: what a run that does nothing there needs.
    Not where looking ahead is off."""
    if ahead.Moment.now().lasts:
        begin(address, ports, answering=answering)


def begin(address: str, ports: Sequence[int], *, answering: int) -> None:
    """Try these ports of the current host from now on, without waiting for them; unless they are
    tried already, and nothing was done at the host since.

    :param answering: a port that answers who may connect to it, to see how far away the host is.
    """
    host = ctx_host.get()
    tried, done = _tried.get(host), touched.times(host)
    if tried is None or not tried.counts(address, ports, done):
        _tried[host] = _try(address, ports, answering, done)


def opened(address: str, ports: Sequence[int], *, answering: int) -> Callable[[str, int], bool]:
    """Says of a port whether it opens: as it was seen by ``begin``, or else as it is seen now."""
    host = ctx_host.get()
    tried, done = _tried.pop(host, None), touched.times(host)
    if tried is None or not tried.counts(address, ports, done):
        tried = _try(address, ports, answering, done)
    return lambda _, port: tried.opens[port].result()


def _try(address: str, ports: Sequence[int], answering: int, done: int) -> _Tried:
    until = time.monotonic() + ahead.FRESH
    if not ports:
        return _Tried(address, done, {}, until)
    pool = ThreadPoolExecutor(max_workers=len(ports) + 1)
    far = pool.submit(probe.round_trip, address, answering, probe.LONGEST)

    def opens(port: int) -> bool:
        seconds = probe.patience(far.result())
        # A first packet may be lost, which closes no port.
        return any(probe.reachable(address, port, seconds) for _ in range(2))

    tried = _Tried(address, done, {port: pool.submit(opens, port) for port in ports}, until)
    pool.shutdown(wait=False)
    return tried
