"""The report of the hosts suite, as values and as a page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.samples import settings
from vllm_hosts.verify.promises import promises
from vllm_hosts.verify.report.collect import Collector, _short, html
from vllm_hosts.verify.report.model import AgentSummary, HostReport, Look, Outcome, Report, worst


def host(name: str, **outcomes: Outcome) -> HostReport:
    looks = [
        Look(identifier.replace("_", "-"), name, None, outcome, "because <b>", 0.1)
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
    ("said", "shown"),
    [
        ("assert ['a door'] == []\n  Left contains", "a door"),
        ("AssertionError: the table is not loaded\nassert 1 == 0", "the table is not loaded"),
        ("assert {'x': 1} == {}", "{'x': 1}"),
        ("assert 'rw' == 'ro'", "found 'rw', expected 'ro'"),
        (
            "assert ('exited', 'unhealthy') == ('running', 'healthy')\n  At index 0",
            "found ('exited', 'unhealthy'), expected ('running', 'healthy')",
        ),
        ("assert 503 == 200", "found 503, expected 200"),
        ("AssertionError: assert 503 == 200", "found 503, expected 200"),
    ],
)
def test_reasons_without_the_machinery(said: str, shown: str) -> None:
    assert _short(said) == shown


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


def test_what_to_type_names_the_inventory_s_file_everywhere(tmp_path: Path) -> None:
    assert any("INVENTORY" in promise.remedy for promise in promises().values())
    collector = Collector({}, "prod", str(tmp_path), "inventory/my prod.py")
    bad = {name.replace("-", "_"): "broken" for name in promises()}
    collector.report.hosts = [host("a", **bad)]  # type: ignore[arg-type]
    collector.pytest_sessionfinish()
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
    collector.report.hosts[0].looks.append(Look("TLS-04", "gpu1", None, "kept", "", 0.1))
    collector.warn("gpu1", "its certificate expires: deploy: pyinfra INVENTORY deploy.py \x1b[2J")
    collector.pytest_sessionfinish()
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
