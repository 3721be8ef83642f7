"""The part of pytest's run that gathers what the tests found."""

from __future__ import annotations

import json
import operator
import time
from collections.abc import Callable, Generator, Mapping, Sized
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hosts import __version__
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.host.render import render
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.exposure import exposed
from vllm_hosts.text import clean, clean_styled
from vllm_hosts.verify.promises import BrokenError, promises
from vllm_hosts.verify.report.results import AgentSummary, Check, HostReport, Outcome, Report

_LIMIT = 600  # characters of a reason: a list of everything helps nobody
#: What several of them do.
_COUNTED: Mapping[str, str] = {"does not apply": "do not apply"}
_MARKS: dict[Outcome, str] = {
    "kept": "✓",
    "broken": "✕",
    "not checked": "?",
    "does not apply": "·",
}


class _Shown(str):
    """A failure's text as pytest takes it, with the line for summaries where it looks for that."""

    __slots__ = ("reprcrash",)
    reprcrash: SimpleNamespace

    def __new__(cls, text: str, message: str) -> _Shown:
        made = super().__new__(cls, text)
        made.reprcrash = SimpleNamespace(message=message)
        return made


class Collector:
    """A pytest plugin: one for each run of the suite.

    :param folder: where the report goes; None: only to the terminal.
    :param file: the inventory's path, for what is to be typed.
    """

    def __init__(
        self,
        settings: Mapping[str, HostSettings],
        inventory: str,
        folder: str | None,
        file: str = "INVENTORY",
    ) -> None:
        self._folder = Path(folder) if folder else None
        self._started = time.monotonic()
        self._exposed = [
            f"{host.name}: {sentence}" for host in settings.values() for sentence in exposed(host)
        ]
        hosts = [
            HostReport(
                name=host.name,
                address=host.address,
                agents=[
                    AgentSummary(
                        agent.name,
                        agent.model,
                        agent.client_model_name,
                        agent.port,
                        agent.gpus,
                        tuple(map(str, agent.expose.networks)) if agent.expose else (),
                        tuple(f"{name} {what}" for name, what in agent.risks.items()),
                    )
                    for agent in host.own_agents
                ],
            )
            for host in settings.values()
        ]
        self.report = Report(inventory, __version__, utc_now(), 0.0, hosts, file)
        self._by_name = {host.name: host for host in hosts}
        self._differs: str | None = None
        self._items: dict[str, pytest.Item] = {}

    def note(self, host: str, what: str, value: str) -> None:
        """Something that the report shows about a host."""
        self._by_name[host].notes[what] = clean(value, _LIMIT)

    def warn(self, host: str, sentence: str) -> None:
        """Something that breaks no promise yet."""
        self._by_name[host].warnings.append(clean(self.report.named(sentence), _LIMIT))

    def said(self) -> dict[str, tuple[dict[str, str], list[str]]]:
        """Notes and warnings by host, where tests ran in another process than the report's."""
        return {host.name: (host.notes, host.warnings) for host in self.report.hosts}

    def add(self, said: Mapping[str, tuple[dict[str, str], list[str]]]) -> None:
        """What another process has ``said``."""
        for name, (notes, warnings) in said.items():
            self._by_name[name].notes.update(notes)
            self._by_name[name].warnings.extend(warnings)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Which tests there are: a report has but the name of its own."""
        self._items = {item.nodeid: item for item in session.items}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Sort every test's end into the outcomes that a promise can have."""
        report = yield
        if item.get_closest_marker("promise") is None or not _ends(report):
            return report
        outcome, why = _judge(report, call, self._differs)
        # For junit.xml and options of pytest's own, which show what was raised as it is.
        if isinstance(report.longrepr, tuple):
            report.longrepr = (*report.longrepr[:2], clean(report.longrepr[2], _LIMIT))
        elif report.longrepr is not None:
            report.longrepr = clean_styled(report.longreprtext)
        said: list[tuple[str, object]] = [("outcome", outcome), ("why", why)]
        # Those of the test go on to the report of its teardown, which junit.xml has them from.
        item.user_properties += said
        report.user_properties += said
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has ended, here or in another process."""
        said: dict[str, Any] = dict(report.user_properties)
        item = self._items.get(report.nodeid)
        marker = item.get_closest_marker("promise") if item else None
        if item is None or marker is None or not _ends(report) or "outcome" not in said:
            return
        if isinstance(report.longrepr, str):
            report.longrepr = _Shown(report.longrepr, said["why"])
        parameters = item.callspec.params  # type: ignore[attr-defined]
        self._by_name[parameters["host_name"]].looks.append(
            Check(
                marker.args[0],
                parameters["host_name"],
                parameters.get("agent_name"),
                said["outcome"],
                said["why"],
                report.duration,
            )
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """A new test begins."""
        self._differs = None

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> None:
        """What a test compared, as values, before pytest makes text of it."""
        self._differs = compared(op, left, right) or self._differs

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what was asked for. Where nothing was checked, nothing is known to be kept."""
        looked = any(host.looks for host in self.report.hosts)
        if session.exitstatus == pytest.ExitCode.OK and not looked:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        self.report.seconds = time.monotonic() - self._started
        self.report.hosts = [host for host in self.report.hosts if host.looks]
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        document = json.dumps(self.report.as_json(), indent=2, ensure_ascii=False)
        (self._folder / "report.json").write_text(f"{document}\n")
        (self._folder / "report.html").write_text(html(self.report))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What is not kept, in words, and how many are."""
        write = terminalreporter.write_line
        for host in self.report.hosts:
            together = host.together()
            for why, names in together.items():
                title = f"{len(names)} promises not checked on {host.name}"
                write(f"\n{_MARKS['not checked']} {title}", bold=True, yellow=True)
                write(f"    {why}")
            said = {name for names in together.values() for name in names}
            for promise in self.report.looked_at:
                outcome = host.outcome(promise.identifier)
                if outcome in ("broken", "not checked") and promise.identifier not in said:
                    color = {"red" if outcome == "broken" else "yellow": True}
                    title = f"{promise.identifier} {outcome} on {host.name}: {promise.says}"
                    write(f"\n{_MARKS[outcome]} {title}", bold=True, **color)
                    for why in host.reasons(promise.identifier):
                        write(f"    {why}")
                    if outcome == "broken":
                        write(f"    to do: {self.report.to_do(promise)}")
        warnings = [f"{one.name}: {said}" for one in self.report.hosts for said in one.warnings]
        for sentence in [*warnings, *self._exposed]:
            write(f"\n! {sentence}", yellow=True)
        counts = ", ".join(
            f"{n} {_COUNTED.get(outcome, outcome)}"
            for outcome, n in self.report.counts.items()
            if n
        )
        hosts = len(self.report.hosts)
        write(f"\n{hosts} host{'' if hosts == 1 else 's'}, promises: {counts or 'none'}")
        if self._folder is not None:
            write(f"report: {self._folder / 'report.html'}")


def html(report: Report) -> str:
    """The report as one page that needs nothing else."""
    return render(
        "report/report.html.j2",
        report=report,
        promises=promises(),
        marks=_MARKS,
        groups=list(dict.fromkeys(p.identifier.partition("-")[0] for p in report.looked_at)),
    )


def _ends(report: pytest.TestReport) -> bool:
    """Whether a report is the one that says how its test has ended."""
    return report.when != "teardown" and not (report.when == "setup" and report.passed)


def _judge(
    report: pytest.TestReport, call: pytest.CallInfo[None], differs: str | None
) -> tuple[Outcome, str]:
    """:param differs: what was compared and is not as it should be; None: nothing."""
    if report.passed:
        return "kept", ""
    assert call.excinfo is not None
    error = call.excinfo.value
    if isinstance(error, pytest.skip.Exception):
        return "does not apply", clean(error.msg, _LIMIT)
    if isinstance(error, BrokenError):
        said = error.sentence
    elif isinstance(error, AssertionError) and differs is not None:
        said = differs
    else:
        # The rest of it is for whoever looks into the suite.
        said = next(iter(str(error).splitlines()), type(error).__name__)
    if report.when == "call" and isinstance(error, AssertionError):
        return "broken", clean(said, _LIMIT)
    ours = isinstance(error, HostError | SettingsError | OSError | ExceptionGroup)
    name = "" if ours or report.when == "setup" else f"{type(error).__name__}: "
    return "not checked", clean(name + said, _LIMIT)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
    "is": operator.is_,
    "is not": operator.is_not,
}


def compared(sign: str, found: object, wanted: object) -> str | None:
    """What is wrong with two values that a test compared, in words; None: nothing is.

    A test that wants nothing has found what it names.
    """
    if _OPERATORS[sign](found, wanted):
        return None
    if sign != "==":
        return f"{found!r} {sign} {wanted!r}"
    if isinstance(wanted, Sized) and not len(wanted):
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return "; ".join(found)
        return repr(found)
    return f"found {found!r}, expected {wanted!r}"
