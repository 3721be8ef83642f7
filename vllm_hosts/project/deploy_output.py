"""What a deploy prints unless it is asked for more: what changed, what takes long, what failed.

pyinfra 3.10 prints a heading for each operation, a line for each of its hosts, and a table of all
operations at the end: some hundred lines for two hosts, most of which say that nothing changed.
With ``-v`` it still does.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import click
import gevent
from pyinfra import logger
from pyinfra.api import operations
from pyinfra.api.host import Host
from pyinfra.api.output import format_text
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.progress import progress_spinner

from vllm_hosts.connect.pyinfra_output import before_errors
from vllm_hosts.operations import foreseen

#: Seconds after which an operation says its name: there is something to wait for. Most of what
#: takes long has said how far it is by then (``watched``).
_SILENT = 12.0
#: More hosts than these are counted, not named.
_NAMED = 6
#: pyinfra's functions that print, at level INFO, what is printed here in other words.
_THEIRS = {"log_operation_start", "run_host_op", "_run_host_op"}
#: What pyinfra says of its own steps, and nobody waits for.
_STEPS = ("--> Preparing operation", "--> Skipping change", "Loading: ")


def install(state: State) -> None:
    """Print less, where pyinfra runs files such as deploy.py and no option asks for more."""
    context = click.get_current_context(silent=True)
    options: dict[str, Any] = context.params if context else {}
    more = ("verbosity", "debug", "debug_all", "serial", "json_output", "dry")
    cli: Any = sys.modules.get("pyinfra_cli.cli")
    files = options.get("operations") or ()
    if cli is None or "verbosity" not in options or any(options.get(name) for name in more):
        return
    if not all(str(file).endswith(".py") for file in files):
        return
    brief = Brief()
    before_errors.append(brief.show)
    state.add_callback_handler(brief)
    logger.addFilter(brief.wanted)
    cli.print_results = brief.results
    operations.progress_spinner = brief.spinner  # type: ignore[attr-defined]
    operations.logger = _Briefly(logger)  # type: ignore[assignment, attr-defined]


class _Briefly:
    """pyinfra's logger, where it runs operations. What ``Brief`` would drop is not even made a
    record: one line for each operation and host is a twelfth of what a run takes here."""

    def __init__(self, whole: logging.Logger) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def info(self, message: object, *args: object, **kwargs: Any) -> None:
        if sys._getframe(1).f_code.co_name not in _THEIRS:
            self._whole.info(message, *args, **{"stacklevel": 2, **kwargs})


class Brief(BaseStateCallback):
    """One run's output. pyinfra runs one operation after the other, on all hosts at once."""

    def __init__(self) -> None:
        self._name = self._role = self._step = ""
        self._shown = True
        self._hosts: set[str] = set()
        #: Of the current role, by hosts: the steps that changed something there.
        self._changes: dict[tuple[str, ...], list[str]] = {}
        self._timer: gevent.Greenlet | None = None
        self._done: dict[str, Counter[str]] = {}
        self._failed: dict[str, str] = {}

    def operation_start(self, state: State, op_hash: str) -> None:  # type: ignore[override]
        self._name = next(iter(state.get_op_meta(op_hash).names))
        role, _, step = self._name.rpartition(" | ")
        if role != self._role:
            self._say_changes()
        self._role, self._step, self._shown = role, step, False
        self._timer = gevent.spawn_later(_SILENT, self.show)

    def operation_host_error(  # type: ignore[override]
        self, state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        self._failed.setdefault(host.name, self._name)

    def operation_end(self, state: State, op_hash: str) -> None:  # type: ignore[override]
        if self._timer is not None:
            self._timer.kill()
        self._shown = True
        changed = []
        # pyinfra's own iterator goes over a set, and so in any order.
        for host in (host for host in state.inventory if host in state.activated_hosts):
            data = state.ops[host].get(op_hash)
            if data is None or not data.operation_meta.is_complete():
                continue
            self._hosts.add(host.name)
            if data.operation_meta.did_succeed():
                kind = "changed" if data.operation_meta.did_change() else "unchanged"
                self._done.setdefault(host.name, Counter())[kind] += 1
                changed += [host.name] if kind == "changed" else []
        if changed:
            self._changes.setdefault(tuple(changed), []).append(self._step)

    def _say_changes(self) -> None:
        """What a role changed, when the next one begins: a line for hosts with the same changes."""
        for names, steps in self._changes.items():
            said = format_text(f"changed on {_listed(names, len(self._hosts))}", "green")
            role = f"{format_text(self._role, bold=True)}: " if self._role else ""
            logger.info(f"{role}{said}: {'; '.join(steps)}")
        self._changes.clear()

    def wanted(self, record: logging.LogRecord) -> bool:
        """A filter of pyinfra's logger. A problem gets the name of its operation in front."""
        if record.levelno == logging.INFO:
            said = str(record.msg)
            if said.startswith("--> "):
                self._say_changes()
            ready = record.module == "util" and "Ready:" in said
            return not (ready or said.startswith(_STEPS) or record.funcName in _THEIRS)
        if record.levelno >= logging.WARNING:
            self.show()
        return True

    def spinner(self, items: Iterable[Any], prefix_message: str | None = None) -> Any:
        """pyinfra's line at the bottom of a terminal, with what is being done."""
        return progress_spinner(items, prefix_message or self._name)

    def results(self, state: State) -> None:
        """One line for each host, in the place of a table of all operations."""
        for host in state.inventory:
            if not state.is_host_in_limit(host):
                continue
            done = self._done.get(host.name, Counter())
            counts = f"{done['changed']} changed, {done['unchanged']} unchanged"
            if host not in state.activated_hosts:
                said = format_text("could not be reached; nothing was done there", "red")
            elif foreseen.was_refused(host.name):
                said = format_text("was refused before the run, and not changed", "red")
            elif name := self._failed.get(host.name):
                said = format_text(f'failed at "{name}"; before that: {counts}', "red")
            elif host in state.failed_hosts:
                said = format_text(f"failed; before that: {counts}", "red")
            else:
                said = format_text(counts, "green" if done["changed"] else "cyan")
            logger.info(f"{host.print_prefix}{said}")

    def show(self) -> None:
        """The name of the operation, once, after what its role has done so far."""
        if not self._shown:
            self._shown = True
            self._say_changes()
            logger.info(f"{format_text(self._name, bold=True)} ...")


def _listed(names: Sequence[str], of: int) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"all {of} hosts" if len(names) == of else f"{len(names)} of {of} hosts"
