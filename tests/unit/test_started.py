"""Commands that are forks, and pytests that share the files, show what others would."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.unit.in_parts import files, together
from tests.unit.projects import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_each_has_its_own_settings_folder_and_exit_code(tmp_path: Path) -> None:
    for name, port, code in (("good", 8001, 0), ("bad", 0, 1), ("good again", 8002, 0)):
        (tmp_path / name).mkdir()
        project = Project(tmp_path / name)
        project.group(agents=[{"name": "one", "model": "org/model", "port": port}])
        done = project.check()
        assert (done.returncode, "The settings cannot be deployed" in done.stdout) == (code, code)
        assert f"port {port}" in done.stdout or code


def test_what_is_late_is_ended(project: Project) -> None:
    words = ("vllm-hosts", "check", "inventory/prod.py")
    with pytest.raises(subprocess.TimeoutExpired):
        project.run_at_once(words, timeout=0.001)
    [done] = project.run_at_once(words, timeout=0.001, killed=True)
    assert done.returncode == -signal.SIGKILL
    assert project.check().returncode == 0


def test_several_at_once_end_as_each_does(project: Project) -> None:
    words = [("vllm-hosts", "--version"), ("vllm-hosts", "no-such-command"), ("pyinfra", "--help")]
    codes = [done.returncode for done in project.run_at_once(*words)]
    assert codes == [0, 2, 0]


def test_pytests_are_counted_together() -> None:
    said = ["84 passed, 2 errors in 52.41s", "1 failed, 400 passed, 3 deselected in 60.00s (0:01)"]
    assert together(said) == "Together: 484 passed, 2 errors, 1 failed, 3 deselected"


def test_each_part_has_every_file_once() -> None:
    there = sorted(str(path) for path in Path(__file__).parent.rglob("test_*.py"))
    assert sorted(files(0)) == sorted(files(1)) == there
    assert files(0) != files(1)
