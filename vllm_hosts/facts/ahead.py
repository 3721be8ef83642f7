"""Looking ahead: what the last run asked of a host is asked again in one execution.

Operations get their facts from that answer as long as nothing was done at the host since. Nothing
is decided differently: an answer counts for exactly the command that it is of, run as the same
user, in the same stage of a run; whatever is missing, late or odd is asked as ever.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from paramiko import SSHException
from pyinfra import logger
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_host

from vllm_hosts.facts import asked, touched
from vllm_hosts.facts.asked import Question
from vllm_hosts.host import frames

#: Off where this is 0.
SWITCH = "VLLM_HOSTS_LOOKAHEAD"
#: Seconds for which an answer counts once it is here: a run may wait, for a person or a model.
FRESH = 30.0

#: Seconds for all answers: what the host allows them, and the way there.
_LONGEST = frames.PATIENCE + 20
_OPTIONS = frozenset(CONNECTOR_ARGUMENT_KEYS)
#: Where this run asks something else than the last one, so many looks further it may go on.
_NEAR = 10

#: Gives a fact's value, anew each time.
Value = Callable[[], Any]


@dataclass(frozen=True)
class Query:
    """One fact as it is asked of a host: two of the same command are the same."""

    fact: type[FactBase[Any]]
    command: str
    arguments: Mapping[str, Any] = field(compare=False)

    @classmethod
    def of(cls, fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> Query:
        return cls(fact, str(fact().command(**arguments)), arguments)

    def read(self, lines: list[str]) -> Any:
        """The value, from what the command printed."""
        fact = self.fact()
        # Some keep from their command what they need to read its answer.
        fact.command(**self.arguments)
        return fact.process(list(lines))


@dataclass
class _AtHost:
    """One host of a run. ``answers`` count as long as ``valid_for`` stays what it is."""

    #: What the last run asked, and how far this one has come in it.
    last: tuple[Question, ...] = ()
    at: int = 0
    asked: list[Question] = field(default_factory=list)
    executing: bool | None = None
    #: What was done at the host by the time that this stage began.
    before: int = 0
    answers: dict[Query, Value] = field(default_factory=dict)
    valid_for: tuple[object, ...] = ()
    until: float = 0.0
    #: Answers that were thrown away, and looks after which it is tried again: a run that changes
    #: one thing after the other does not ask for everything in between.
    wasted: int = 0
    rest: int = 0
    #: How commands run in the current operation, which takes pyinfra long to find out.
    operation: object = None
    options: dict[str, Any] = field(default_factory=dict)
    how: str = ""
    #: Only a host that nobody has changed in this run is taken at what it said before.
    strict: bool = False

    def stage(self, host: Host, *, executing: bool) -> None:
        """pyinfra prepares all of a run before it executes anything, and may ask in between."""
        if self.executing is not executing:
            self.executing, self.before = executing, touched.times(host)
            self.at = self.wasted = self.rest = 0
            self.asked, self.answers, self.valid_for = [], {}, ()

    def follow(self, one: Question) -> bool:
        """Go on in what the last run asked. Whether it asked this."""
        near = self.last[self.at : self.at + _NEAR]
        if one in near:
            self.at += near.index(one) + 1
        elif self.last.count(one) == 1:
            self.at = max(self.at, self.last.index(one) + 1)
        return one in self.last

    def options_at(self, host: Host) -> dict[str, Any]:
        """As which user, with which shell and so on pyinfra runs commands at this point."""
        operation = host.current_op_global_arguments
        if operation is None or operation is not self.operation:
            given: Mapping[str, Any] = operation or {}
            if not given.keys() >= _OPTIONS:
                # Outside of operations. Those have them all.
                given, _ = pop_global_arguments(host.state, host, dict(given))
            self.operation = operation
            self.options = {key: given.get(key) for key in CONNECTOR_ARGUMENT_KEYS}
            self.how = repr(self.options)
        return self.options

    def forget(self) -> None:
        if self.answers and time.monotonic() <= self.until:
            self.wasted += 1
            self.rest = 2 ** (self.wasted - 1) - 1
        self.answers = {}


@dataclass
class _Run:
    file: Path
    name: str
    hosts: dict[Host, _AtHost] = field(default_factory=dict)
    lists: asked.Lists = field(default_factory=dict)
    off: bool = False
    #: Most hosts are asked the same.
    queries: dict[Question, Query] = field(default_factory=dict)
    asked: dict[Question, Query] = field(default_factory=dict)
    #: By name, those that may be asked ahead.
    facts: dict[str, type[FactBase[Any]]] = field(default_factory=dict)

    def query(self, one: Question) -> Query | None:
        """As ``_known``, looked up once for all hosts."""
        if one not in self.queries:
            if one.fact not in self.facts:
                self.facts = _steady()
            if (query := _known(one, self.facts)) is not None:
                self.queries[one] = query
        return self.queries.get(one)

    def asking(
        self, one: Question, fact: type[FactBase[Any]], arguments: Mapping[str, Any]
    ) -> Query:
        """As ``Query.of``: which command asks this follows from the fact and its arguments."""
        query = self.asked.get(one)
        if query is None or query.fact is not fact:
            query = self.asked[one] = Query.of(fact, arguments)
        return query


_run: _Run | None = None


def begin(file: Path, name: str) -> None:
    """Look ahead from now on.

    :param file: where it is kept what was asked.
    :param name: of what is run, such as ``deploy.py``.
    """
    global _run
    touched.install()
    _run = _Run(file, name, off=os.environ.get(SWITCH) == "0")
    if _run.off:
        return
    try:
        _run.lists = asked.read(file)
    except PermissionError:
        logger.warning(
            f"{file} is not used, since others could have written it; remove it, and the next run"
            " makes another"
        )


def end(state: State | None = None) -> None:
    """Keep what a run asked while it executed, and look ahead no more."""
    global _run
    run, _run = _run, None
    if run is None or run.off or state is None or not state.is_executing:
        return
    before = run.lists.get(run.name, {})
    known = {host.name for host in state.inventory}
    now = {name: looks for name, looks in before.items() if name in known}
    for host, here in run.hosts.items():
        # Of a host that failed, or a run that was cut off, the rest is what it was.
        ended = state.current_stage == StateStage.Disconnect and host not in state.failed_hosts
        rest = () if ended else here.last[here.at :]
        if here.asked and here.executing:
            now[host.name] = (*here.asked, *rest)
    if now != before:
        asked.write(run.file, run.lists | {run.name: now})


def foreseen(host: Host, fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> Value | None:
    """What was answered ahead; None: the host has to be asked."""
    run, state = _run, host.state
    if run is None or run.off or not getattr(fact, "steady", False):
        return None
    here = run.hosts.get(host)
    if here is None:
        here = run.hosts[host] = _AtHost(run.lists.get(run.name, {}).get(host.name, ()))
    here.stage(host, executing=state.is_executing)
    one = Question.of(fact.__name__, arguments)
    if one is None:
        return None
    here.asked.append(one)
    # Who wants to see each command and its output gets them.
    shown = state.print_fact_output or state.print_fact_input
    late = here.strict and touched.times(host) != here.before
    if not here.follow(one) or shown or late or not host.connected:
        return None
    look, options = run.asking(one, fact, arguments), here.options_at(host)
    valid_for = (touched.times(host), here.how)
    if here.valid_for != valid_for or time.monotonic() > here.until:
        here.forget()
        if here.rest:
            here.rest -= 1
            return None
        _ask(run, here, host, look, options)
        here.valid_for = valid_for
    return here.answers.get(look)


def _ask(run: _Run, here: _AtHost, host: Host, first: Query, options: dict[str, Any]) -> None:
    """Ask for what is about to be asked, and for all that the last run asked from here on."""
    later = (run.query(one) for one in dict.fromkeys(here.last[here.at :]))
    looks = list(dict.fromkeys([first, *(look for look in later if look is not None)]))
    if len(looks) > 1:
        with touched.asking(host):
            here.answers = asked_together(host, looks, options)
    # What was not answered is not tried again for each fact.
    here.until = time.monotonic() + FRESH


@dataclass(frozen=True)
class Moment:
    """When the current host was asked something that is asked alone, such as what containers do."""

    done: int
    until: float

    @classmethod
    def now(cls) -> Moment:
        """To be taken before the question."""
        host = ctx_host.get() if _run is not None else None
        return cls(touched.times(host) if host else 0, time.monotonic() + FRESH)

    @property
    def lasts(self) -> bool:
        """Whether the answer still counts, as one that was given ahead would."""
        if _run is None or _run.off:
            return False
        return self.done == touched.times(ctx_host.get()) and time.monotonic() <= self.until


@contextmanager
def strictly(host: Host) -> Iterator[None]:
    """What is asked meanwhile is asked now, where anything was done at the host in this run: what
    a run checks at its end is not what it saw on the way."""
    here = _run.hosts.get(host) if _run is not None else None
    if here is None:
        yield
        return
    here.strict = True
    try:
        yield
    finally:
        here.strict = False


def _known(one: Question, facts: Mapping[str, type[FactBase[Any]]] | None = None) -> Query | None:
    """The present code's command for something that was asked by some earlier version."""
    fact = (_steady() if facts is None else facts).get(one.fact)
    try:
        return Query.of(fact, one.given()) if fact is not None else None
    except Exception:
        # Whatever another version asked in another way.
        return None


def _steady() -> dict[str, type[FactBase[Any]]]:
    return {fact.__name__: fact for fact in _below(FactBase) if getattr(fact, "steady", False)}


def _below(fact: type[Any]) -> Iterator[type[Any]]:
    for one in fact.__subclasses__():
        yield one
        yield from _below(one)


def asked_together(host: Host, looks: list[Query], options: dict[str, Any]) -> dict[Query, Value]:
    """What the host answers, in one execution. One that does not is asked again, one by one, and
    what is wrong with it is said then."""
    shell = options.get("_shell_executable")
    try:
        done, output = host.run_shell_command(
            StringCommand(frames.program(shell if isinstance(shell, str) else "sh")),
            print_output=False,
            print_input=False,
            **{
                **options,
                "_stdin": _given(tuple(look.command for look in looks)),
                # A host that says nothing does not hold the run for ever.
                "_timeout": options.get("_timeout") or _LONGEST,
            },
        )
        lines = frames.answers(output.stdout_lines, len(looks)) if done else []
    except (OSError, EOFError, ValueError, SSHException, PyinfraError) as error:
        logger.debug(f"{host.name}: looking ahead failed: {error!r}")
        lines = []
    found = {
        look: _reading(look, said)
        for look, said in zip(looks, lines, strict=False)
        if said is not None
    }
    logger.debug(f"{host.name}: {len(found)} of {len(looks)} facts are known ahead")
    return found


@lru_cache(maxsize=16)
def _given(commands: tuple[str, ...]) -> list[str]:
    """Packed once for all hosts that are asked the same."""
    return frames.given(commands)


def _reading(look: Query, lines: list[str]) -> Value:
    return lambda: look.read(lines)
