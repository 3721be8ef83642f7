"""Commands that are forks, and pytests that share the files, show what others would."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.together import together
from tests.unit import started
from tests.unit.in_parts import FOLDERS, HERE, LONG, parts
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


def test_one_goes_on_until_a_signal_ends_it(project: Project, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(
        "import signal, sys, time\n"
        "def end(number, frame): print('ended by', number); sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('begun', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    for number, code, words in (
        (signal.SIGTERM, 7, "ended by 15\n"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ):
        with project.begin(str(tmp_path / "waits.py")) as process:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
            process.send_signal(number)
            assert process.communicate(timeout=20) == (words, None)
            assert (process.returncode, process.poll()) == (code, code)


def test_nobody_s_command_is_ended(project: Project, tmp_path: Path) -> None:
    """As where a test's process is killed, which cannot end what it began."""
    (tmp_path / "waits.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    process = project.begin(str(tmp_path / "waits.py"))
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process._line.close()
    assert process.stdout.read() == "", "it would be open"
    process.stdout.close()


def test_a_terminal_is_its_own(project: Project, tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(
        "import os, sys\n"
        "print(sys.stdin.isatty(), os.tcgetpgrp(0) == os.getpid() == os.getsid(0))\n"
        "try: input('Well? ')\n"
        "except KeyboardInterrupt: print('interrupted'); sys.exit(3)\n"
    )
    with project.terminal(str(tmp_path / "asks.py")) as terminal:
        terminal.wait_for("True True")
        terminal.wait_for("Well?")
        # The prompt is there a moment before Python can be interrupted at it.
        time.sleep(0.3)
        terminal.type("\x03")
        assert terminal.wait() == 3
        assert "interrupted" in terminal.text


def test_scripts_call_them_as_people_type(project: Project) -> None:
    done = project.shell(
        "vllm-hosts no-such 2>errors || echo code $?\n"
        "cd inventory; vllm-hosts check prod.py | wc -l"
    )
    assert done.returncode == 0 and done.stdout.startswith("code 2\n"), done.stdout
    assert "No such command" in (project.folder / "errors").read_text()
    assert int(done.stdout.split()[-1]) > 0


def test_pytests_are_counted_together() -> None:
    said = ["84 passed, 2 errors in 52.41s", "1 failed, 400 passed, 3 deselected in 60.00s (0:01)"]
    assert together(said) == "Together: 484 passed, 2 errors, 1 failed, 3 deselected"


def test_every_file_has_all_its_parts_once() -> None:
    there = {path: set[int]() for path in HERE.rglob("test_*.py")}
    all_parts = [part for folders in FOLDERS.values() for part in parts(folders)]
    for part in all_parts:
        assert part.number not in there[part.file]
        there[part.file].add(part.number)
        assert part.number < part.of
    sizes = {part.file: part.of for part in all_parts}
    assert {file: set(range(sizes[file])) for file in there} == there
    assert {*LONG} <= {file.stem.removeprefix("test_") for file in there}


def test_several_pytests_share_one_that_forks(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    # in_parts.py has begun one like it; another would import everything again.
    there = started._SHARED in os.environ
    with nullcontext() if there else started.shared(tmp_path / "starter"):
        for _ in range(2):
            one, other = started.Starter(), started.Starter()
            for starter in (one, other, one):
                [done] = starter.run(
                    ("vllm-hosts", "check", "inventory/prod.py"),
                    folder=project.folder,
                    environment={**os.environ},
                    timeout=60,
                )
                assert done.returncode == 0, done.stdout
            one.close()
            other.close()


def test_waits_are_as_long_as_they_say(tmp_path: Path) -> None:
    """Also in a fork of a process that has been idle for longer than they last."""
    (tmp_path / "wait.py").write_text(
        "import subprocess\n"
        "subprocess.run(['sleep', '0.1'], timeout=1, check=True, capture_output=True)\n"
    )
    starter = started.Starter()
    for _ in range(2):
        [done] = starter.run(
            (str(tmp_path / "wait.py"),), folder=tmp_path, environment={**os.environ}, timeout=60
        )
        assert done.returncode == 0, done.stdout
        time.sleep(1.2)
    starter.close()
