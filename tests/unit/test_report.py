"""The report of the hosts suite, as values and as a page."""

from __future__ import annotations

import ast
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from tests.unit.projects import ROOT
from tests.unit.samples import settings
from vllm_hosts.verify.promises import promises
from vllm_hosts.verify.report.collect import Collector, compared, html
from vllm_hosts.verify.report.results import AgentSummary, Check, HostReport, Outcome, Report, worst


def host(name: str, **outcomes: Outcome) -> HostReport:
    looks = [
        Check(identifier.replace("_", "-"), name, None, outcome, "because <b>", 0.1)
        for identifier, outcome in outcomes.items()
    ]
    agent = AgentSummary(
        "tiny", "Qwen/Qwen3-8B", "tiny", 8001, (0,), ("10.0.0.0/8",), ("--x <lets>",)
    )
    return HostReport(name, "192.0.2.1", [agent], {"Docker": "29.1.0"}, looks)


def report(*hosts: HostReport) -> Report:
    return Report("prod", "0.1.0", datetime(2026, 11, 24, tzinfo=UTC), 39.0, list(hosts))


def test_a_promise_is_as_good_as_its_worst_look() -> None:
    assert worst(["kept", "broken", "not checked"]) == "broken"
    assert worst(["kept", "not checked"]) == "not checked"
    assert worst(["kept", "does not apply"]) == "kept"
    assert worst([]) is None


def test_counts_and_verdict() -> None:
    found = report(host("a", NET_01="kept", SEC_01="broken"), host("b", NET_01="not checked"))
    assert found.counts == {"does not apply": 0, "kept": 1, "not checked": 1, "broken": 1}
    assert found.verdict == "broken"
    assert [promise.identifier for promise in found.looked_at] == ["NET-01", "SEC-01"]


def test_json_is_for_programs() -> None:
    document = report(host("a", NET_01="kept", SEC_01="broken")).as_json()
    assert json.loads(json.dumps(document))["hosts"][0]["promises"] == {
        "NET-01": {"outcome": "kept", "why": []},
        "SEC-01": {"outcome": "broken", "why": ["because <b>"]},
    }
    assert report().as_json()["verdict"] == "not checked"


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_hosts_say() -> None:
    page = html(report(host("a", NET_01="kept", SEC_01="broken"), host("b", NET_01="not checked")))
    assert "Some promises are broken" in page
    assert "because &lt;b&gt;" in page
    assert "because <b>" not in page
    assert "exposed</b> to 10.0.0.0/8" in page
    assert "src=" not in page
    assert "http" not in page.replace("https://", "http").lower().split("<style>")[0]
    assert "@import" not in page
    assert "url(" not in page


@pytest.mark.parametrize(
    ("sign", "found", "wanted", "said"),
    [
        ("==", ["a door"], [], "a door"),
        ("==", ["a door", "it's another"], [], "a door; it's another"),
        ("==", {"x": 1}, {}, "{'x': 1}"),
        ("==", "rw", "ro", "found 'rw', expected 'ro'"),
        (
            "==",
            ("exited", "unhealthy"),
            ("running", "healthy"),
            "found ('exited', 'unhealthy'), expected ('running', 'healthy')",
        ),
        ("==", 503, 200, "found 503, expected 200"),
        ("in", "nvidia", "runc", "'nvidia' in 'runc'"),
        (">=", 3, 7, "3 >= 7"),
        ("==", 200, 200, None),
        ("is not", None, 5, None),
    ],
)
def test_what_was_compared_in_words(sign: str, found: object, wanted: object, said: str) -> None:
    assert compared(sign, found, wanted) == said


SUITE = """
import pytest
from vllm_hosts.errors import HostError
from vllm_hosts.suite.promise import BrokenError, promise

@pytest.fixture
def blind():
    raise HostError("nobody answers")

@pytest.mark.parametrize("host_name", ["gpu1"])
class TestIt:
    @promise("NET-01")
    def test_sentence(self, host_name):
        assert 1 == 1
        raise BrokenError("it says\\nassert [] == [], in its own words")

    @promise("NET-02")
    def test_compared(self, host_name):
        long = "a door that is open to everybody, " * 5
        assert 1 in (1, 2) and [long, "assert 2 == 3"] == []

    @promise("NET-03")
    def test_not_checked(self, host_name, blind):
        pass

    @promise("NET-04")
    def test_odd(self, host_name):
        raise KeyError("x")

    @promise("NET-05")
    def test_skipped(self, host_name):
        pytest.skip("Skipped: not here")

    @promise("NET-06")
    def test_kept(self, host_name):
        assert [] == []
"""


def test_sentences_reach_the_report_as_they_were_raised(tmp_path: Path) -> None:
    """Through pytest, whose own text of an assertion is cut, and made for terminals."""
    (tmp_path / "test_it.py").write_text(SUITE)
    collector = Collector({"gpu1": settings()}, "prod", str(tmp_path))
    junit = tmp_path / "junit.xml"
    words = [str(tmp_path), "-q", "-p", "no:cacheprovider", f"--junit-xml={junit}"]
    pytest.main([*words, "--import-mode=importlib", f"--rootdir={tmp_path}"], plugins=[collector])
    found = {look.promise: (look.outcome, look.why) for look in collector.report.hosts[0].looks}
    assert found == {
        "NET-01": ("broken", "it says assert [] == [], in its own words"),
        "NET-02": ("broken", "a door that is open to everybody, " * 5 + "; assert 2 == 3"),
        "NET-03": ("not checked", "nobody answers"),
        "NET-04": ("not checked", "KeyError: 'x'"),
        "NET-05": ("does not apply", "Skipped: not here"),
        "NET-06": ("kept", ""),
    }
    properties = {
        (one.get("name"), one.get("value")) for one in ElementTree.parse(junit).iter("property")
    }
    assert {("why", found["NET-01"][1]), ("outcome", "broken")} <= properties


def test_every_assertion_of_the_suite_can_be_told_as_data() -> None:
    """It compares values, or raises its sentence: of anything else pytest has nothing but text."""
    for path in (ROOT / "tests/hosts").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                place = f"{path.name}:{node.lineno}"
                assert node.msg is None, f"{place}: raise BrokenError with that sentence"
                assert isinstance(node.test, ast.Compare), f"{place}: compares nothing"


def test_promises_are_whole_sentences() -> None:
    for promise in promises().values():
        assert promise.says
        assert promise.threat.endswith(".")
        assert promise.remedy


def test_one_reason_for_many_promises_is_said_once() -> None:
    unchecked: dict[str, Outcome] = dict.fromkeys(list(promises())[:20], "not checked")
    found = host("a", **unchecked)
    [(why, names)] = found.together().items()
    assert len(names) == 20
    assert why
    few = host("a", NET_01="not checked", NET_02="broken")
    assert few.together() == {}


def ended(status: int = 0) -> pytest.Session:
    return SimpleNamespace(exitstatus=status)  # type: ignore[return-value]


def test_nothing_checked_is_not_well() -> None:
    """As with pytest's own --collect-only."""
    collector = Collector({}, "prod", None)
    for before, after in ((0, 5), (1, 1), (4, 4)):
        session = ended(before)
        collector.pytest_sessionfinish(session)
        assert session.exitstatus == after
    collector.report.hosts = [host("a", NET_01="kept")]
    session = ended()
    collector.pytest_sessionfinish(session)
    assert session.exitstatus == 0


def test_what_to_type_names_the_inventory_s_file_everywhere(tmp_path: Path) -> None:
    assert any("INVENTORY" in promise.remedy for promise in promises().values())
    collector = Collector({}, "prod", str(tmp_path), "inventory/my prod.py")
    bad = {name.replace("-", "_"): "broken" for name in promises()}
    collector.report.hosts = [host("a", **bad)]  # type: ignore[arg-type]
    collector.pytest_sessionfinish(ended())
    document = (tmp_path / "report.json").read_text()
    page = (tmp_path / "report.html").read_text()
    for text in (document, page):
        assert "INVENTORY" not in text
        assert "my prod.py" in text
    said: list[str] = []
    terminal = SimpleNamespace(write_line=lambda line, **_: said.append(line))
    collector.pytest_terminal_summary(terminal)  # type: ignore[arg-type]
    assert "vllm-hosts" in "".join(said) and "INVENTORY" not in "".join(said)
    assert "pyinfra 'inventory/my prod.py'" in "".join(said)


def test_a_warning_breaks_nothing_and_is_shown(tmp_path: Path) -> None:
    """In the terminal, in the JSON and on the page, with the inventory's own file."""
    collector = Collector({"gpu1": settings()}, "prod", str(tmp_path), "inventory/prod.py")
    collector.report.hosts[0].looks.append(Check("TLS-04", "gpu1", None, "kept", "", 0.1))
    collector.warn("gpu1", "its certificate expires: deploy: pyinfra INVENTORY deploy.py \x1b[2J")
    collector.pytest_sessionfinish(ended())
    said = "its certificate expires: deploy: pyinfra inventory/prod.py deploy.py "
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["hosts"][0]["warnings"] == [said]
    assert document["verdict"] == "kept"
    assert said in (tmp_path / "report.html").read_text()
    lines: list[str] = []

    class Terminal:
        def write_line(self, line: str, **style: bool) -> None:
            lines.append(line)

    collector.pytest_terminal_summary(Terminal())  # type: ignore[arg-type]
    assert f"\n! gpu1: {said}" in lines
