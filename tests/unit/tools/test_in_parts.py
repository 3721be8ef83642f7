"""What the runner of the unit tests in parts promises: files do not see each other's changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.in_parts import ROOT

_PATCHES = """
import os, pytest

@pytest.fixture(scope="module")
def another():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sep", "another")
        yield

def test_one(another): assert os.sep == "another"
def test_two(another): assert os.sep == "another"
"""
_READS = """
from os import sep

def test_three(): assert sep == "/"
"""
_RUN = """
import sys
from pathlib import Path
import pytest
from tests.unit.in_parts import Share

tests, taken = map(Path, sys.argv[1:])
options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tests), str(tests)]
sys.exit(pytest.main(options, plugins=[Share([tests], taken)]))
"""


def test_a_file_is_read_when_the_one_before_has_undone_its_changes(tmp_path: Path) -> None:
    for name, text in (("test_a.py", _PATCHES), ("test_b.py", _READS)):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    (tmp_path / "taken").mkdir()
    command = [sys.executable, "-c", _RUN, str(tmp_path / "tests"), str(tmp_path / "taken")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
