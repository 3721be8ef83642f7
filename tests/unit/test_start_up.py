"""What a command imports before it does anything: no more than it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.projects import Project
from vllm_hosts.cli.main import main

#: What takes long to import.
_HEAVY = ("pyinfra", "gevent", "paramiko", "testinfra", "pytest", "huggingface_hub", "rich")
_SCRIPT = """
import sys
from vllm_hosts.cli.main import main
try:
    main()
finally:
    sys.stderr.write("\\n" + " ".join(name for name in sys.modules if "." not in name))
"""


def imported(folder: Path, *words: str, **environment: str) -> set[str]:
    """Modules that are there when the command has ended."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("settings",), ("docs",), ("init", "-h")]
)
def test_what_knows_no_host_imports_nothing_that_does(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert imported(tmp_path, *words) & set(_HEAVY) == set()


def test_completion_of_a_command_imports_none(tmp_path: Path) -> None:
    asked = {
        "_VLLM_HOSTS_COMPLETE": "bash_complete",
        "COMP_WORDS": "vllm-hosts d",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.replace("main()", "main(prog_name='vllm-hosts')")],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["plain,docs", "plain,doctor", "plain,drift"]
    assert set(done.stderr.splitlines()[-1].split()) & set(_HEAVY) == set()


def test_check_imports_what_loads_an_inventory_and_no_more(tmp_path: Path) -> None:
    project = Project(tmp_path)
    found = imported(project.folder, "check", "inventory/prod.py")
    assert "pyinfra" in found
    assert found & {"testinfra", "pytest", "huggingface_hub", "rich"} == set()


@pytest.mark.parametrize("name", main.commands)
def test_the_list_of_commands_says_what_they_say(name: str) -> None:
    # As click shortens it where it imports all of them, in a terminal of 80 columns.
    assert main.summaries[name] == main.commands[name].get_short_help_str(63)


def test_a_name_that_is_nearly_a_command_s_is_answered_with_that() -> None:
    done = CliRunner().invoke(main, ["verfy"])
    assert done.exit_code == 2
    assert "Did you mean 'verify'?" in done.stderr
