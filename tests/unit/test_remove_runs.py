"""What a run of remove.py is told, and what it says when it could not do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.projects import ROOT, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """With a host that nobody answers at."""
    project = Project(tmp_path)
    (tmp_path / "remove.py").symlink_to(ROOT / "remove.py")
    project.write(
        "inventory/prod.py",
        "gpu_hosts = [('gpu1', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1, 'ssh_user': 'a'})]\n",
    )
    return project


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("remove_models=perhaps", "--data: remove_models is 'perhaps'; give it as --data"),
        ("remove_model=true", "unknown setting 'remove_model'; there is"),
    ],
)
def test_an_option_that_means_nothing_is_refused(project: Project, data: str, why: str) -> None:
    done = project.run("pyinfra", "-y", "--data", data, "inventory/prod.py", "remove.py")
    assert done.returncode == 2, done.stdout
    assert why in done.stdout and "No host was changed." in done.stdout


def test_what_is_for_one_run_stands_in_no_file(project: Project) -> None:
    project.group(remove_models=True)
    done = project.run("pyinfra", "-y", "inventory/prod.py", "remove.py")
    assert done.returncode == 2, done.stdout
    assert (
        "group_data/gpu_hosts.py: remove_models is for one run of remove.py; take it out here, and"
        " give it there: --data remove_models=true"
    ) in done.stdout


def test_the_line_to_retry_has_what_it_was_told(project: Project) -> None:
    words: list[Any] = ["-y", "--data", "remove_models=true"]
    done = project.run("pyinfra", *words, "inventory/prod.py", "remove.py")
    assert done.returncode == 1, done.stdout
    assert "pyinfra --data remove_models=true inventory/prod.py remove.py" in done.stdout


def test_the_inventory_comes_first(project: Project) -> None:
    done = project.run("pyinfra", "-y", "remove.py", "inventory/prod.py")
    assert done.returncode == 2
    assert "the inventory comes first; run: pyinfra inventory/prod.py remove.py" in done.stdout
