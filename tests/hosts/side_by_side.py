"""Tests of several hosts side by side, since a test mostly waits for its host.

Each process is a fork with connections of its own. What its tests found comes back here, and is
reported as if they had run here, in their order.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from vllm_hosts.verify.report.collect import Collector

#: Reports of one test, as pytest itself hands them between processes.
Found = list[dict[str, Any]]


def host_of(item: pytest.Item) -> str:
    """The host that a test is about; empty: none."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("host_name", "")) if callspec else ""


def shares(items: Sequence[pytest.Item], at_once: int) -> list[list[pytest.Item]]:
    """Tests for each process, in their order: all of a host for the same one."""
    hosts = list(dict.fromkeys(map(host_of, items)))
    place = {host: number % at_once for number, host in enumerate(hosts)}
    found: list[list[pytest.Item]] = [[] for _ in range(min(at_once, len(hosts)))]
    for item in items:
        found[place[host_of(item)]].append(item)
    return found


def possible(config: pytest.Config, items: Sequence[pytest.Item]) -> bool:
    """Whether there is more than one host, and a debugger is not wanted in the tests."""
    # Elsewhere than on Linux, libraries of the system do not survive a fork.
    plain = sys.platform == "linux" and not (config.option.usepdb or config.option.trace)
    return plain and len(set(map(host_of, items))) > 1


@contextmanager
def begun(
    session: pytest.Session,
    items: Sequence[pytest.Item],
    at_once: int,
    collector: Collector,
    renewed: Callable[[], None],
) -> Iterator[Callable[[], None]]:
    """Start the tests; what is yielded waits for them and reports them.

    :param renewed: called in each process first: connections cannot be shared.
    """
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[BaseProcess, list[pytest.Item]]] = {}
    try:
        for share in shares(items, at_once):
            here, there = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(
                target=_run, args=(session, share, there, collector, renewed), daemon=True
            )
            process.start()
            there.close()
            running[here] = (process, share)
        yield lambda: _report(session, items, running, collector)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _run(
    session: pytest.Session,
    items: list[pytest.Item],
    tell: Connection,
    collector: Collector,
    renewed: Callable[[], None],
) -> None:
    """In a process of its own."""
    # Who interrupts a run reads about it once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config = session.config
    # The file that what tests print is kept in would be the same for all.
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()
        capture.start_global_capturing()
    renewed()
    for item, after in zip_longest(items, items[1:]):
        reports = runtestprotocol(item, log=False, nextitem=after)
        found = [
            config.hook.pytest_report_to_serializable(config=config, report=one) for one in reports
        ]
        tell.send((item.nodeid, found))
    tell.send(("", collector.said()))


def _report(
    session: pytest.Session,
    items: Sequence[pytest.Item],
    running: dict[Connection, tuple[BaseProcess, list[pytest.Item]]],
    collector: Collector,
) -> None:
    found: dict[str, Found] = {}
    left = list(running)
    ahead = iter(items)
    item = next(ahead, None)
    while item is not None:
        while item is not None and item.nodeid in found:
            _tell(session, item, found.pop(item.nodeid))
            item = next(ahead, None)
        if item is None:
            break
        for connection in wait(left):
            assert isinstance(connection, Connection)
            try:
                name, what = connection.recv()
            except EOFError:
                left.remove(connection)
                found |= _missing(*running[connection], found)
                continue
            if name:
                found[name] = what
            else:
                collector.add(what)
                left.remove(connection)
    # What a process says last may still be under way.
    for connection in left:
        try:
            collector.add(connection.recv()[1])
        except EOFError:
            continue


def run_here(session: pytest.Session, items: Sequence[pytest.Item]) -> None:
    """Tests in turn, as pytest's own loop does; that takes failures before it for its own."""
    for item, after in zip_longest(items, items[1:]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        _stop_if_asked(session)


def _stop_if_asked(session: pytest.Session) -> None:
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)


def _tell(session: pytest.Session, item: pytest.Item, found: Found) -> None:
    hook, config = item.ihook, session.config
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for one in found:
        report = config.hook.pytest_report_from_serializable(config=config, data=one)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    _stop_if_asked(session)


def _missing(
    process: BaseProcess, items: Sequence[pytest.Item], found: dict[str, Found]
) -> dict[str, Found]:
    """Reports of the tests that a process has not come to before it ended."""
    process.join()
    why = f"the process that checks {host_of(items[0])} ended with {process.exitcode}; verify again"
    missing = {}
    for item in items:
        if item.nodeid not in found:
            report = pytest.TestReport(
                item.nodeid,
                item.location,
                keywords={},
                outcome="failed",
                longrepr=why,
                when="setup",
                user_properties=[("outcome", "not checked"), ("why", why)],
            )
            hook, config = item.config.hook, item.config
            data = hook.pytest_report_to_serializable(config=config, report=report)
            missing[item.nodeid] = [data]
    return missing
