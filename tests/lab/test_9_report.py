"""The report's page in real headless Chromium: alone, readable everywhere, accessible."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.recipe import ensure_packages
from tests.unit.test_report import host, report
from vllm_hosts.verify.report.collect import html

SCRIPT = Path(__file__).with_name("in_chromium.py")
GOOD: dict[str, list[str]] = {"asked": [], "said": [], "wide": [], "axe": []}


@pytest.fixture(scope="module", autouse=True)
def chromium() -> None:
    ensure_packages(["chromium", "fonts-dejavu-core"])


def looks(page: str, folder: Path) -> dict[str, Any]:
    (folder / "page.html").write_text(page)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "page.html"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def page_of_a_bad_day() -> str:
    """Two hosts with every outcome, and words of hosts that are long and without a space."""
    bad = host("gpu-host-with-a-long-name-17.example.com", NET_01="kept", SEC_01="broken")
    bad.looks[1] = replace(bad.looks[1], why="0x" + "f" * 400)
    return html(report(bad, host("b", NET_01="not checked", SSH_01="does not apply")))


def test_the_page_is_good_at_every_width_in_both_schemes_and_printed(tmp_path: Path) -> None:
    assert looks(page_of_a_bad_day(), tmp_path) == GOOD
    assert (tmp_path / "printed.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("kind", "flaw"),
    [
        ("asked", '<img src="http://127.0.0.1:9/pixel.png" alt="">'),
        ("said", "<script>console.error('no')</script>"),
        ("wide", '<div style="width: 1500px">wide</div>'),
        ("axe", '<p style="color: #999; background: #aaa">hard to read</p>'),
        ("axe", '<input type="text">'),
    ],
)
def test_a_flaw_is_seen(kind: str, flaw: str, tmp_path: Path) -> None:
    page = page_of_a_bad_day().replace("<main>", f"<main>{flaw}")
    found = looks(page, tmp_path)
    assert found[kind], f"{flaw} was not seen"
