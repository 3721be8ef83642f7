"""Whether ports of a host open from here, tried while its run goes on.

A firewall that drops answers nothing, so that trying it is waiting. What was seen early counts only
if nothing was done at the host since: an agent that starts later may be published to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pyinfra.api.host import Host
from pyinfra.context import ctx_host

from vllm_hosts.facts import touched
from vllm_hosts.host import probe


@dataclass(frozen=True)
class _Tried:
    """``done``: what had been done at the host when it began."""

    address: str
    done: int
    opens: dict[int, Future[bool]]


_tried: WeakKeyDictionary[Host, _Tried] = WeakKeyDictionary()


def begin(address: str, ports: Sequence[int], *, answering: int) -> None:
    """Try these ports of the current host from now on, without waiting for them.

    :param answering: a port that answers who may connect to it, to see how far away the host is.
    """
    host = ctx_host.get()
    _tried[host] = _try(address, ports, answering, touched.times(host))


def opened(address: str, ports: Sequence[int], *, answering: int) -> Callable[[str, int], bool]:
    """Says of a port whether it opens: as it was seen by ``begin``, or else as it is seen now."""
    host = ctx_host.get()
    tried, done = _tried.pop(host, None), touched.times(host)
    if (
        tried is None
        or (tried.address, tried.done) != (address, done)
        or not tried.opens.keys() >= set(ports)
    ):
        tried = _try(address, ports, answering, done)
    return lambda _, port: tried.opens[port].result()


def _try(address: str, ports: Sequence[int], answering: int, done: int) -> _Tried:
    if not ports:
        return _Tried(address, done, {})
    pool = ThreadPoolExecutor(max_workers=len(ports) + 1)
    far = pool.submit(probe.round_trip, address, answering, probe.LONGEST)

    def opens(port: int) -> bool:
        seconds = probe.patience(far.result())
        # A first packet may be lost, which closes no port.
        return any(probe.reachable(address, port, seconds) for _ in range(2))

    tried = _Tried(address, done, {port: pool.submit(opens, port) for port in ports})
    pool.shutdown(wait=False)
    return tried
