"""What all operations share: one host's failure stays its own, and long work shows progress."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from functools import wraps
from typing import ParamSpec

from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.connect import lock, stopping
from vllm_hosts.errors import HostError, LostError
from vllm_hosts.facts.base import LOST, has_ended
from vllm_hosts.host.paths import WORK
from vllm_hosts.operations.foreseen import refused, would_fail
from vllm_hosts.text import clean

P = ParamSpec("P")
#: Seconds between messages about something that takes long, after the first one.
OFTEN = 30
Commands = Generator[PyinfraCommand, None, None]
#: Names of hosts of which it was said that their connection is lost.
_told: set[str] = set()


def host_operation(function: Callable[P, Commands]) -> Callable[..., OperationMeta]:
    """Like pyinfra's ``@operation()``, but an exception fails only its own host.

    pyinfra aborts the run of *all* hosts when an operation raises while it executes.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Commands:
        # A host that will not be deployed to is not queried any more.
        if refused():
            return
        try:
            # Closed with this one: it may hold what others wait for.
            with closing(function(*args, **kwargs)) as commands:
                for command in commands:
                    _about_to_change()
                    yield command
        except HostError as error:
            if not would_fail(str(error), lost=isinstance(error, LostError)):
                yield failure(str(error))
        except Exception as error:
            logger.debug(traceback.format_exc())
            yield failure(f"internal error in {function.__name__}: {error!r}")

    return operation()(guarded)


def _about_to_change() -> None:
    """What this run does to the host stands in its history, whatever comes of it."""
    host, state = ctx_host.get(), ctx_state.get()
    if state.is_executing and (operation_hash := host.executing_op_hash) is not None:
        lock.changing(next(iter(state.get_op_meta(operation_hash).names)))


def failure(message: str) -> FunctionCommand:
    """A command that fails its host with one sentence."""
    return FunctionCommand(fail, (message,), {})


def fail(state: State, host: Host, message: str) -> bool:
    """Fail a host with a sentence, from a function that pyinfra runs as a command."""
    host.log_styled(clean(message), fg="red", log_func=logger.error)
    if message == LOST:
        _told.add(host.name)
    return False


def say_if_lost(state: State, host: Host) -> None:
    """After a failure: a command whose connection ends says nothing of that, nor does pyinfra."""
    if has_ended(host) and not stopping.stopped and host.name not in _told:
        fail(state, host, LOST)


def note(message: str) -> FunctionCommand:
    """A command that only prints something about its host."""
    return FunctionCommand(_note, (message,), {})


def _note(state: State, host: Host, message: str) -> bool:
    host.log(f"    {clean(message)}")
    return True


class Shown(StringCommand):
    """A shell command whose output is shown as it arrives, at any verbosity."""

    def execute(
        self, state: State, host: Host, connector_arguments: object
    ) -> tuple[bool, CommandOutput]:
        arguments = {**connector_arguments, **self.connector_arguments}  # type: ignore[dict-item]
        done, output = host.run_shell_command(
            self, print_output=True, print_input=state.print_input, **arguments
        )
        # pyinfra would print a failed command's output again.
        return done, output if done else CommandOutput([])


class Listening(Shown):
    """The same; once it is done, ``heard`` gets what it printed."""

    def __init__(self, command: Shown, heard: Callable[[str], None]) -> None:
        super().__init__(*command.bits, **command.connector_arguments)
        self._heard = heard

    def execute(
        self, state: State, host: Host, connector_arguments: object
    ) -> tuple[bool, CommandOutput]:
        done, output = super().execute(state, host, connector_arguments)
        if done:
            self._heard(output.stdout)
        return done, output


class Tried(Shown):
    """The same; if it fails, ``otherwise`` is called, whose sentence the host then fails with."""

    def __init__(self, command: Shown, otherwise: Callable[[], str | None]) -> None:
        super().__init__(*command.bits, **command.connector_arguments)
        self._otherwise = otherwise

    def execute(
        self, state: State, host: Host, connector_arguments: object
    ) -> tuple[bool, CommandOutput]:
        done, output = super().execute(state, host, connector_arguments)
        if not done and (sentence := self._otherwise()):
            fail(state, host, sentence)
        return done, output


#: How lines of a script begin that people have to see, even if all ends well.
NOTE = "note: "


def watched(
    label: str,
    script: str,
    *,
    seconds: int = 10,
    tail: int = 20,
    summary: str = "tail -n 1",
    notes: bool = False,
    heard: Callable[[str], None] | None = None,
) -> Shown:
    """Run a script that takes long; report its progress, soon and then every half minute.

    Its output goes to a private log, whose last ``tail`` lines are shown if it fails.

    :param label: what is being done, in a few words.
    :param seconds: until the first report.
    :param summary: command that makes one line from that log, for people who wait.
    :param notes: whether lines that begin with ``NOTE`` are shown at the end.
    :param heard: gets what was shown, once all has gone well.
    """
    told = f"sed -n 's/^{NOTE}/    /p' \"$log\" | cut -c 1-300 | head -n 5; " if notes else ""
    shown = Shown(
        f"""
        umask 077; log=$(mktemp {WORK}); trap 'rm -f "$log"' EXIT
        trap 'exit 1' HUP INT TERM PIPE
        ( {script.strip()}
        ) >"$log" 2>&1 </dev/null &
        job=$!; waited=0; due={seconds}
        # What takes no second is not waited for so long.
        for pause in 0.02 0.03 0.05 0.1 0.2 0.3 0.3; do
            kill -0 $job 2>/dev/null || break; sleep $pause
        done
        waited=1
        while kill -0 $job 2>/dev/null; do
            sleep 1; waited=$((waited + 1))
            [ $waited -ge $due ] || continue
            due=$((waited + {OFTEN}))
            line=$({summary} <"$log" | tail -n 1 | tr -d '\\r' | cut -c 1-100)
            echo "    {label}: $waited s, $line"
        done
        if wait $job; then {told}exit 0; fi
        tail -n {tail} "$log" >&2; exit 1
        """
    )
    return shown if heard is None else Listening(shown, heard)
