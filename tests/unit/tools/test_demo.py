"""What somebody who tries the project sees first: few lines, and at the end what comes next."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import bootstrap, recipe
from tests.unit.projects import ROOT


def demo(*words: str, **environment: str) -> str:
    return subprocess.run(
        ["bash", "lab/demo.sh", *words],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout


def test_the_demo_says_how_long_it_takes_and_what_comes_next(tmp_path: Path) -> None:
    first = demo("begin", VLLM_HOSTS_LAB_CACHE=str(tmp_path))
    assert "about 10 minutes" in first and str(tmp_path) in first
    (tmp_path / "registry-0123456789ab").mkdir()
    assert "about 6 minutes" in demo("begin", VLLM_HOSTS_LAB_CACHE=str(tmp_path))
    end = demo("end", str(int(time.time()) - 77))
    assert "done after 7" in end
    assert "make lab-down" in end and "make clean-cache" in end and "README.md" in end
    failed = demo("failed", str(int(time.time()) - 77))
    assert "FAILED after 7" in failed and "make lab-down" in failed


def test_make_n_runs_nothing_of_the_demo() -> None:
    done = subprocess.run(
        ["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    steps = ["demo.sh begin", "lab up --hosts 2 --gateways 1", "lab_fleet.py deploy.py"]
    steps += ["verify", "endpoints", "demo.sh end"]
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places)
    assert "FAILED" not in done.stdout + done.stderr


def test_what_the_demo_leaves_behind_is_not_committed(tmp_path: Path) -> None:
    """O20: a report, keys, and the environment."""
    left = ["report/report.html", "report/report.json", "report/junit.xml", "pyinfra-debug.log"]
    left += ["inventory/.vllm-hosts/prod/keys.json", "inventory/.vllm-hosts/prod/ca.pem"]
    left += [".venv/bin/python", "vllm_hosts/__pycache__/cli.pyc"]
    kept = ["keys/prod.age", "inventory/prod.py", "vllm_hosts/verify/report/results.py"]
    for name in [*left, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / ".gitignore", tmp_path)

    def git(*words: str) -> str:
        return subprocess.check_output(["git", *words], cwd=tmp_path, text=True)

    git("init", "-q")
    shown = git("status", "--porcelain", "--untracked-files=all").splitlines()
    assert sorted(line[3:] for line in shown) == sorted([".gitignore", *kept])


def test_what_pip_prints_is_shown_only_if_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap.quietly([sys.executable, "-c", "print('noise\\n' * 500)"], "installing")
    assert capsys.readouterr().out == "    installing\n"
    script = "print('noise\\n' * 500 + 'no such package'); raise SystemExit(3)"
    with pytest.raises(SystemExit, match="installing: .* ended with 3; see its output above"):
        bootstrap.quietly([sys.executable, "-c", script], "installing")
    said = capsys.readouterr()
    assert "no such package" in said.err and len(said.err.splitlines()) <= 30


@pytest.mark.parametrize("what", ["bootstrap", "recipe"])
def test_what_takes_long_says_that_it_is_at_work(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import time; print('Collecting torch', flush=True); time.sleep(2)"
    if what == "bootstrap":
        monkeypatch.setattr(bootstrap, "_SOON", 1)
        bootstrap.quietly([sys.executable, "-c", script], "installing")
    else:
        monkeypatch.setattr(recipe, "PATIENCE", 1.0)
        recipe.run([sys.executable, "-c", script], "installing")
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if re.search(r"\d s", line)]
    assert len(lines) == 1
    assert what == "recipe" or lines[0].endswith(", Collecting torch")
