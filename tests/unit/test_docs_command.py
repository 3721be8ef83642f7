"""Documents that messages name, printed where no checkout is."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner, Result

from tests.unit.projects import ROOT
from vllm_hosts.cli.main import main

#: As messages of the package name them.
_NAMED = re.compile(r"(?<!main/)docs/[a-z-]+\.md")


def docs(*words: str) -> Result:
    return CliRunner().invoke(main, ["docs", *words])


@pytest.mark.parametrize("name", ["keys", "keys.md", "docs/keys.md", "docs/keys.md#two-keys"])
def test_a_document_is_found_by_what_a_message_calls_it(name: str) -> None:
    done = docs(name)
    assert done.exit_code == 0
    assert done.stdout.strip() == (ROOT / "docs/keys.md").read_text().strip()


def test_all_are_listed_with_their_titles() -> None:
    lines = docs().stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        path.stem for path in (ROOT / "docs").glob("*.md")
    )
    assert "settings          Settings" in lines


@pytest.mark.parametrize("name", ["nothing", "../README.md", "/etc/passwd", ""])
def test_no_other_file_is_printed(name: str) -> None:
    done = docs(name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no document" in done.stderr


def test_what_messages_name_is_there() -> None:
    files = [*(ROOT / "vllm_hosts").rglob("*.py"), *(ROOT / "roles").rglob("*.py")]
    named = {name for path in files for name in _NAMED.findall(path.read_text())}
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
