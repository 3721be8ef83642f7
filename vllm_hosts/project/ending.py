"""How a run of pyinfra's own command ends: its exit code, and what to type next.

0: all hosts are as they should be. 1: some are not. 2: nothing was begun, since what was typed or
set cannot be deployed. 129, 130, 143: the terminal was closed, somebody interrupted it, it was
ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

import click
import gevent
from gevent.pool import Pool
from pyinfra.api.host import Host
from pyinfra.api.state import State, StateStage

from vllm_hosts.connect import stopping
from vllm_hosts.keys.places import pyinfra_line
from vllm_hosts.operations.foreseen import refused_for_good

BAD_INPUT = 2
_WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "ended by SIGTERM",
    signal.SIGHUP: "its terminal was closed",
}
#: The code that the run ends with, once a signal has stopped it; the run, and the greenlet that it
#: is run by.
_code: int | None = None
_state: State | None = None
_main: Any = None


class StoppedError(SystemExit):
    """The run was told to end by a signal, whatever it did: also while it read the user's files,
    of which one that calls exit is refused."""


def listen(state: State | None = None) -> None:
    """End with the exit code of a signal, in the place of pyinfra's 0; the second time at once."""
    global _code, _state, _main
    _code, _state, _main = None, state, gevent.getcurrent()
    stopping.stopped = False
    stopping.settle()
    vars(gevent.get_hub()).pop(_PRINTS, None)
    for number in _WORDS:
        # As under nohup.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    global _code
    code = 128 + number
    if _code is not None:
        os._exit(code)
    _code = code
    if number == signal.SIGHUP:
        _write_nowhere()
    try:
        _say(f"--> The run is stopped: {_WORDS[signal.Signals(number)]}")
    except OSError:
        # The same Ctrl-C has ended a `| tee`; the run has to end all the same.
        _write_nowhere()
    # Connections are closed while greenlets still work over them, which nobody waits for any more.
    setattr(gevent.get_hub(), _PRINTS, lambda *_: None)
    if _state is not None and getattr(_state, "pool", None) is not None:
        # Hosts are disconnected from in it, and every place may be taken by one that is at work.
        _state.pool = Pool()
    stopping.reach(_main, StoppedError(code))


#: gevent's way to show why a greenlet has failed.
_PRINTS = "print_exception"


def _say(what: str) -> None:
    more = (
        "    What is being done on hosts at this moment continues there to its end, and the"
        " next run waits for it."
    )
    try:
        click.echo(err=True)
        click.secho(what, fg="red", err=True)
        click.echo(more, err=True)
    except RuntimeError:
        # Something is being written at this moment, and Python's file takes nothing meanwhile.
        os.write(2, f"\n{what}\n{more}\n".encode())


def keep_code() -> None:
    """A run that was stopped never ends as one that was not, whatever came of the signal.

    :raises StoppedError: it was stopped.
    """
    stopping.settle()
    if _code is not None:
        raise StoppedError(_code)


def _write_nowhere() -> None:
    """Nothing can be written to the terminal, or to who read what this says, any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def declined() -> None:
    """Somebody was asked, and did not say yes: that is no success."""
    click.secho("--> Not confirmed; nothing more was changed", fg="yellow", err=True)
    raise SystemExit(1)


def unfinished(chosen: Sequence[Host], state: State) -> list[str]:
    """Hosts on which a run has not come to its end, or has not begun."""
    if not chosen:
        # Refused before there was anything.
        return []
    if state.current_stage is StateStage.Execute:
        return [host.name for host in chosen]
    if state.current_stage is not StateStage.Disconnect and not state.failed_hosts:
        return []
    return [
        host.name
        for host in chosen
        if host in state.failed_hosts or host not in state.activated_hosts
    ]


def _host(state: State, name: str) -> Host:
    host = state.inventory.get_host(name)
    assert isinstance(host, Host)
    return host


def say_how_to_retry(
    chosen: Callable[[], Sequence[Host]],
    state: State,
    inventory: Path,
    file: str,
    further: str = "",
) -> None:
    """The last words of a run that left hosts behind.

    :param further: options that it was given.
    """
    if not (left := unfinished(chosen(), state)):
        return
    click.secho(f"--> Not finished: {', '.join(left)}", fg="red", bold=True, err=True)
    again = [name for name in left if not refused_for_good(_host(state, name))]
    if len(again) < len(left):
        where = ", ".join(name for name in left if name not in again)
        begins = f"{where}: the" if again else "The"
        click.echo(
            f"    {begins} same command would be refused again; above is why, and what to do",
            err=True,
        )
    if not again:
        return
    everybody = {host.name for host in state.inventory} == set(again)
    limits = "" if everybody else " ".join(f"--limit {quote(name)}" for name in again)
    click.echo("    Finished work is not repeated. To try again, run:", err=True)
    click.echo(f"    {pyinfra_line(inventory, file, f'{further}{limits}'.strip())}", err=True)
