"""The report: hosts' words are text in it, never markup, scripts, escape codes or paths."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

from tests.unit import hostile
from tests.unit.examples import examples
from tests.unit.samples import settings as host_settings
from vllm_hosts.text import clean
from vllm_hosts.verify.promises import promises
from vllm_hosts.verify.report.collect import Collector, compared
from vllm_hosts.verify.report.results import Check, Outcome

MARKUP = (
    "<script>alert(1)</script>",
    "</code></p><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "&lt;script&gt;",
    "]]></failure><testcase name='forged'/><![CDATA[",
    "{{ self }}{% include '/etc/passwd' %}",
    "javascript:alert(1)",
    "<!--",
    "\x9b2J\u202e\x1b]0;owned\x07",
)
_OUTCOMES: tuple[Outcome, ...] = ("kept", "broken", "not checked", "does not apply")


class Tags(HTMLParser):
    """The page as its elements, with their attributes, without text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[object] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [name for name, _ in attrs]))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(tag)

    def handle_comment(self, data: str) -> None:
        self.found.append(f"comment {data}")

    def handle_data(self, data: str) -> None:
        self.text += data


def word(random: Random) -> str:
    return random.choice(MARKUP) if random.random() < 0.5 else hostile.word(random)[:5000]


def written(folder: Path, seed: int, said: list[str]) -> tuple[Tags, str, list[str]]:
    """The page, the JSON and the lines of a run of which hosts said these."""
    random, words = Random(seed), iter(said)
    collector = Collector({"gpu1": host_settings()}, "prod", str(folder), "inventory/prod.py")
    collector.report.time = datetime(2026, 11, 26, tzinfo=UTC)
    collector.note("gpu1", "Docker", next(words))
    collector.warn("gpu1", next(words))
    for identifier in random.sample(sorted(promises()), 8):
        outcome = random.choice(_OUTCOMES)
        why = clean(compared("==", next(words), "expected") or "", 600)
        collector.report.hosts[0].looks.append(Check(identifier, "gpu1", None, outcome, why, 0.1))
    collector.pytest_sessionfinish(SimpleNamespace(exitstatus=0))  # type: ignore[arg-type]
    lines: list[str] = []
    terminal = SimpleNamespace(write_line=lambda line, **_: lines.append(line))
    collector.pytest_terminal_summary(terminal)  # type: ignore[arg-type]
    assert {path.name for path in folder.iterdir()} <= {"report.html", "report.json"}
    page = (folder / "report.html").read_text()
    return Tags(page), (folder / "report.json").read_text(), lines


@settings(max_examples=examples(2), deadline=None)
@given(random=hostile.seeds)
def test_whatever_hosts_say_the_page_has_the_same_elements(folder: Path, random: Random) -> None:
    seed, said = random.randrange(1000), [word(random) for _ in range(10)]
    page, document, lines = written(folder, seed, said)
    plain, _, _ = written(folder, seed, [f"word {n}" for n in range(10)])
    assert page.found == plain.found
    for line in [*page.text.split("\n"), *document.split("\n")]:
        assert not hostile.evil(line), line
    for line in lines:
        assert not hostile.evil(line.removeprefix("\n")), line
    assert json.loads(document)["inventory"] == "prod"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


SUITE = f"""
import pytest
from vllm_hosts.errors import HostError
from vllm_hosts.suite.promise import BrokenError, promise

SAID = {" ".join(MARKUP)!r} + "\\nforged"

@pytest.mark.parametrize("host_name", ["gpu1"])
class TestIt:
    @promise("NET-01")
    def test_raised(self, host_name):
        raise BrokenError(SAID)

    @promise("NET-02")
    def test_compared(self, host_name):
        assert SAID == "expected"

    @promise("NET-03")
    def test_odd(self, host_name):
        raise KeyError(SAID)

    @promise("NET-04")
    def test_skipped(self, host_name):
        pytest.skip(SAID)
"""


def test_what_pytest_itself_writes_and_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """junit.xml, and the terminal where somebody asks pytest for more."""
    (tmp_path / "test_said.py").write_text(SUITE)
    collector = Collector({"gpu1": host_settings()}, "prod", None)
    junit = tmp_path / "junit.xml"
    words = [str(tmp_path), "-p", "no:cacheprovider", f"--junit-xml={junit}", "--tb=short", "-rA"]
    pytest.main([*words, "--import-mode=importlib", f"--rootdir={tmp_path}"], plugins=[collector])
    cases = list(ElementTree.parse(junit).iter("testcase"))
    assert [case.get("name") for case in cases] == [
        f"test_{name}[gpu1]" for name in ("raised", "compared", "odd", "skipped")
    ]
    for text in (junit.read_text(), capfd.readouterr().out):
        for line in text.split("\n"):
            assert not hostile.evil(line), line
    failures = [case.find("failure") for case in cases]
    assert failures[0] is not None
    message = failures[0].get("message") or ""
    assert message.startswith(MARKUP[0]) and "\n" not in message
