"""Hosts are verified side by side, and the report is as if they had been verified in turn."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.samples import settings
from vllm_hosts.suite import side_by_side
from vllm_hosts.verify.report.collect import Collector

HOSTS = ("a", "b", "c")
SUITE = """
import os
import time
from pathlib import Path

import pytest
from vllm_hosts.suite.promise import BrokenError, promise

HERE = Path(__file__).parent

@pytest.fixture(scope="session")
def process():
    return os.getpid()

@pytest.mark.parametrize("host_name", ["a", "b", "c"])
class TestIt:
    @promise("NET-01")
    def test_each_waits_for_all(self, host_name, process):
        (HERE / f"{host_name}.{process}").touch()
        until = time.monotonic() + 20
        while len(list(HERE.glob("?.*"))) < 3:
            assert time.monotonic() < until
            time.sleep(0.01)

    @promise("NET-02")
    def test_broken(self, host_name, noted, warned):
        print(f"printed for {host_name}")
        noted(host_name, "pid", str(os.getpid()))
        warned(host_name, f"{host_name} is odd")
        if host_name == "b":
            raise BrokenError("b is open to everybody")
        if host_name == "c":
            pytest.skip("c is none")

    @promise("NET-03")
    def test_that_may_end_its_process(self, host_name):
        if host_name == os.environ.get("ENDS"):
            os._exit(3)

def test_without_a_host():
    pass
"""


class Loop:
    """What the suite's conftest does, for another suite."""

    def __init__(self, collector: Collector, at_once: int) -> None:
        self.collector, self.at_once = collector, at_once
        self.renewed = Path()
        self.order: list[str] = []
        self.printed: list[str] = []

    @pytest.fixture
    def noted(self) -> Any:
        return self.collector.note

    @pytest.fixture
    def warned(self) -> Any:
        return self.collector.warn

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        inside = [item for item in session.items if side_by_side.host_of(item)]
        assert side_by_side.possible(session.config, inside)
        with side_by_side.begun(
            session,
            inside,
            self.at_once,
            self.collector,
            lambda: (self.renewed / f"renewed-{os.getpid()}").touch(),
        ) as finish:
            finish()
        side_by_side.run_here(session, [item for item in session.items if item not in inside])
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.capstdout:
            self.printed.append(report.capstdout)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.order.append(nodeid.rpartition("::")[2])


def run(folder: Path, *words: str, at_once: int = 3) -> tuple[Collector, Loop, int]:
    # pytest keeps modules by their names.
    (folder / f"test_of_{folder.name}.py").write_text(SUITE)
    collector = Collector({name: settings(name=name) for name in HOSTS}, "prod", None)
    loop = Loop(collector, at_once)
    loop.renewed = folder
    code = pytest.main(
        [
            *(str(folder), "-q", "-p", "no:cacheprovider", "-p", "no:timeout", "--tb=no"),
            *("--import-mode=importlib", f"--rootdir={folder}", *words),
        ],
        plugins=[collector, loop],
    )
    return collector, loop, int(code)


def outcomes(collector: Collector) -> dict[str, dict[str, tuple[str, str]]]:
    return {
        host.name: {look.promise: (look.outcome, look.why) for look in host.looks}
        for host in collector.report.hosts
    }


KEPT = ("kept", "")


def test_what_each_has_found(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    collector, loop, code = run(tmp_path, f"--junit-xml={junit}")
    assert outcomes(collector) == {
        "a": {"NET-01": KEPT, "NET-02": KEPT, "NET-03": KEPT},
        "b": {"NET-01": KEPT, "NET-02": ("broken", "b is open to everybody"), "NET-03": KEPT},
        "c": {"NET-01": KEPT, "NET-02": ("does not apply", "c is none"), "NET-03": KEPT},
    }
    assert code == pytest.ExitCode.TESTS_FAILED
    names = ("each_waits_for_all", "broken", "that_may_end_its_process")
    inside = [f"test_{name}[{host}]" for name in names for host in HOSTS]
    assert loop.order == [*inside, "test_without_a_host"]
    # Each in a process and with fixtures of its own, of which none were of use here.
    pids = {host.name: host.notes["pid"] for host in collector.report.hosts}
    assert len({*pids.values(), str(os.getpid())}) == 4
    assert {f"{name}.{pid}" for name, pid in pids.items()} == {p.name for p in tmp_path.glob("?.*")}
    assert [host.warnings for host in collector.report.hosts] == [
        [f"{name} is odd"] for name in HOSTS
    ]
    # Each had its connections made anew.
    assert {p.name for p in tmp_path.glob("renewed-*")} == {f"renewed-{p}" for p in pids.values()}
    # What a test has printed stands with it alone.
    assert loop.printed == [f"printed for {name}\n" for name in HOSTS]
    properties = [
        (one.get("name"), one.get("value")) for one in ElementTree.parse(junit).iter("property")
    ]
    assert properties.count(("why", "b is open to everybody")) == 1
    failures = list(ElementTree.parse(junit).iter("failure"))
    assert [one.get("message") for one in failures] == ["b is open to everybody"]


def test_a_process_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDS", "b")
    collector, _, code = run(tmp_path)
    why = "the process that checks b ended with 3; verify again"
    found = outcomes(collector)
    assert found["b"] == {
        "NET-01": KEPT,
        "NET-02": ("broken", "b is open to everybody"),
        "NET-03": ("not checked", why),
    }
    assert found["a"]["NET-03"] == found["c"]["NET-03"] == KEPT
    assert code == pytest.ExitCode.TESTS_FAILED


def test_the_first_failure_ends_it_where_that_was_asked_for(tmp_path: Path) -> None:
    collector, loop, _ = run(tmp_path, "-x")
    assert loop.order[-1] == "test_broken[b]"
    assert "NET-03" not in outcomes(collector)["a"]


def test_fewer_processes_than_hosts() -> None:
    def item(host: str, number: int) -> Any:
        return SimpleNamespace(callspec=SimpleNamespace(params={"host_name": host}), number=number)

    items = [item(host, number) for number in (1, 2) for host in "abcde"]
    found = side_by_side.shares(items, 2)
    seen: Any = found
    assert [[(side_by_side.host_of(i), i.number) for i in share] for share in seen] == [
        [(host, number) for number in (1, 2) for host in "ace"],
        [(host, number) for number in (1, 2) for host in "bd"],
    ]
    assert len(side_by_side.shares(items, 8)) == 5
    assert side_by_side.host_of(SimpleNamespace()) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("debugs", ["usepdb", "trace", ""])
def test_one_host_and_debuggers_are_run_in_turn(debugs: str) -> None:
    def item(host: str) -> Any:
        return SimpleNamespace(callspec=SimpleNamespace(params={"host_name": host}))

    option = SimpleNamespace(usepdb=debugs == "usepdb", trace=debugs == "trace")
    config: Any = SimpleNamespace(option=option)
    assert side_by_side.possible(config, [item("a"), item("b")]) is not bool(debugs)
    assert not side_by_side.possible(config, [item("a"), item("a")])
