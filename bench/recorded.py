"""pyinfra, with hosts that answer from recorded looks after a delay: ``python -m bench.recorded``.

What connections cost is not in it: nothing is encrypted here. All else is a run as users have it.
"""

from __future__ import annotations

# isort: off
# First: gevent replaces what others import.
import pyinfra_cli  # noqa: F401

# isort: on
import json
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pyinfra.connectors.ssh import SSHConnector
from pyinfra_cli.main import main as pyinfra_main

from tests.unit.recorded_host import Host
from vllm_hosts.connect import lock
from vllm_hosts.facts import ahead, base
from vllm_hosts.host import probe

#: Round trips: of a new connection with its keys, and of an execution in one that is there.
_CONNECT, _EXECUTE = 6, 2


class _Shell:
    """The shell that holds a host."""

    def __init__(self) -> None:
        self._says = ["lock taken\n"]

    def send(self, text: str) -> None: ...

    def line(self) -> str:
        return self._says.pop() if self._says else ""

    def errors(self) -> str:
        return ""

    def close(self) -> None: ...


def install(recorded: Host, delay: float, count: dict[str, int]) -> None:
    """Have every host answer as the recorded one, ``delay`` seconds away."""

    def wait(what: str, trips: int) -> None:
        count[what] = count.get(what, 0) + 1
        time.sleep(trips * delay)

    transport = SimpleNamespace(
        sock=None,
        auth_handler=SimpleNamespace(auth_method="publickey"),
        is_active=lambda: True,
    )

    def connect(connector: Any) -> None:
        wait("connect", _CONNECT)
        connector.client = SimpleNamespace(get_transport=lambda: transport, close=lambda: None)

    def run(connector: Any, command: Any, *_: Any, **given: Any) -> Any:
        raise AssertionError(f"a run that changes nothing runs {command}")

    def fact(state: Any, host: Any, kind: Any, kwargs: dict[str, Any], **_: Any) -> Any:
        own = {name: value for name, value in kwargs.items() if name != "_timeout"}
        kind().command(**{n: v for n, v in own.items() if n[0] != "_"})
        wait("fact", _EXECUTE)
        count[kind.__name__] = count.get(kind.__name__, 0) + 1
        return recorded.answer(kind, **own)

    def together(host: Any, looks: list[Any], options: object) -> dict[Any, Callable[[], Any]]:
        ahead._given(tuple(look.command for look in looks))
        wait("looks ahead", _EXECUTE)
        answers: dict[Any, Callable[[], Any]] = {}
        for look in looks:
            try:
                value = recorded.answer(look.fact, **look.arguments)
            except LookupError:
                continue
            answers[look] = lambda value=value: value  # type: ignore[misc]
        return answers

    def opened(*_: Any) -> _Shell:
        wait("lock", _EXECUTE)
        return _Shell()

    @contextmanager
    def visit(*_: Any, **__: Any) -> Iterator[Callable[..., probe.Response]]:
        wait("edge", 2)

        def ask(path: str, **_: Any) -> probe.Response:
            wait("request", 1)
            return probe.Response(401, {}, b"")

        yield ask

    def reachable(address: str, port: int, timeout: float) -> bool:
        wait("port", 0)
        time.sleep(timeout)
        return False

    for place, name, ours in (
        (SSHConnector, "connect", connect),
        (SSHConnector, "run_shell_command", run),
        (base, "get_fact", fact),
        (ahead, "asked_together", together),
        (lock, "opened", opened),
        (probe, "visit", visit),
        (probe, "reachable", reachable),
        (probe, "round_trip", lambda *_: delay),
    ):
        setattr(place, name, ours)


def queued() -> float:
    """Seconds for which this process was ready to go on, and others had the processors."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def main() -> None:
    """Arguments: the recorded host, seconds of a round trip, the file for figures; then
    pyinfra's."""
    recorded, delay, figures, *words = sys.argv[1:]
    count: dict[str, int] = {}
    # Written by ``site.made`` a moment ago, in a folder of its own.
    host = pickle.loads(Path(recorded).read_bytes())  # noqa: S301
    install(host, float(delay), count)
    sys.argv = ["pyinfra", *words]
    begun, took, waited = time.monotonic(), time.process_time(), queued()
    code: object = 0
    try:
        pyinfra_main()
    except SystemExit as ended:
        code = ended.code
    used, below = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    Path(figures).write_text(
        json.dumps(
            {
                "wall": time.monotonic() - begun,
                "cpu": sum(one.ru_utime + one.ru_stime for one in (used, below)),
                "queued": queued() - waited,
                "waits": time.monotonic() - begun - (time.process_time() - took),
                "rss": used.ru_maxrss * 1024,
                "code": code,
                "count": count,
            }
        )
    )
    sys.exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
