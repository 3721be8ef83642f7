"""What users have: a wheel alone, in an environment of its own, and a site that `init` made."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: What lab/bootstrap.py keeps there: the packages that the wheel asks for. No registry is asked.
WHEELS = Path(sys.prefix) / "wheels"
#: Nothing listens there, which is as far as most commands have to get.
NOBODY = 'gpu_hosts = [("gpu1", {"ssh_hostname": "127.0.0.1", "ssh_port": 1})]\n'


@dataclass(frozen=True)
class Built:
    """What a release would have."""

    sdist: Path
    wheel: Path
    #: Built from a checkout, without an sdist in between.
    straight: Path


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel, and what it needs, and nothing else."""

    folder: Path
    home: Path

    def run(self, folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """One of its commands, with its output and errors in one text."""
        return subprocess.run(
            [str(self.folder / "bin" / words[0]), *words[1:]],
            cwd=folder,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": str(self.home),
                "PYINFRA_PROGRESS": "off",
                "COLUMNS": "200",
                **more,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )


def run(*words: str, cwd: Path, stdout: IO[bytes] | None = None) -> None:
    """A step that has to work, and says why it does not."""
    done = subprocess.run(
        words, cwd=cwd, stdout=stdout or subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, (done.stdout or b"").decode()[-4000:]


def files() -> list[str]:
    """The checkout's files, as git knows them."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    return [name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout: a build leaves things beside what it builds."""
    folder = tmp_path_factory.mktemp("checkout")
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as made:
        for name in files():
            made.add(ROOT / name, name)
    # Debian 12's Python has no filters yet, and newer ones want one.
    trusted: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
    with tarfile.open(archive) as made:
        made.extractall(folder, **trusted)
    return folder


@pytest.fixture(scope="session")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("built")
    build = (sys.executable, "-m", "build", "--no-isolation")
    # The wheel is made from the sdist.
    run(*build, "--outdir", str(out), ".", cwd=tree)
    run(*build, "--wheel", "--outdir", str(out / "straight"), ".", cwd=tree)
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    [straight] = (out / "straight").glob("*.whl")
    return Built(sdist, wheel, straight)


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"), cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python"))
    offline = ("--no-index", "--find-links", str(WHEELS), "--no-compile", str(built.wheel))
    run(*pip, "install", *offline, cwd=folder)
    (folder / "home").mkdir()
    return Installed(folder / "venv", folder / "home")


@pytest.fixture(scope="session")
def site(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose host refuses connections."""
    folder = tmp_path_factory.mktemp("of-mine") / "my-site"
    done = installed.run(folder.parent, "vllm-hosts", "init", "my-site")
    assert done.returncode == 0, done.stdout
    (folder / "inventory" / "prod.py").write_text(NOBODY)
    return folder


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has another site's settings, which must count for nothing."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "group_data").mkdir()
    for name in ("all", "gpu_hosts"):
        (folder / "group_data" / f"{name}.py").write_text("agents = 'of another site'\n")
    return folder
