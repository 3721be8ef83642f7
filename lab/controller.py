"""A lab host as its own controller: the project and its Python environment in a user's home."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from lab import hosts

ROOT = Path(__file__).resolve().parent.parent
#: Of Python itself: what nothing here imports.
_LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "__pycache__")


def make(name: str, user: str) -> str:
    """Bring everything that ``pip install -r requirements.txt`` would, from this machine.

    Lab hosts reach no package index. Python comes along where it is not the distribution's.

    :returns: the project's folder on the host.
    :raises subprocess.CalledProcessError: git or tar failed.
    """
    root = hosts.root(name)
    home = "/root" if user == "root" else f"/home/{user}"
    folder = root / f"{home}/vllm-hosts".lstrip("/")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    _copy(ROOT, folder, tracked)
    base = Path(sys.base_prefix)
    if base == Path("/usr"):
        hosts.run(name, "apt-get -qq update && apt-get -qq -y install python3-venv", timeout=300)
    else:
        library = base / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        inside = root / base.relative_to("/")
        inside.mkdir(parents=True, exist_ok=True)
        skipped = [f"--exclude={library.relative_to(base)}/{part}" for part in _LEFT_OUT]
        libraries = [str(path.relative_to(base)) for path in base.glob("lib/libpython*")]
        names = ["bin", str(library.relative_to(base)), *libraries]
        _copy(base, inside, "\0".join(names).encode(), *skipped)
        # The way there may be for root alone.
        for parent in [inside, *inside.relative_to(root).parents]:
            path = root / parent
            if path != root:
                path.chmod(path.stat().st_mode | 0o055)
    _environment(folder, home)
    uid = 0 if user == "root" else _uid(root, user)
    subprocess.run(["chown", "-R", f"{uid}:{uid}", str(folder)], check=True)
    return f"{home}/vllm-hosts"


def _environment(folder: Path, home: str) -> None:
    """``.venv`` as pip would have made it there."""
    here, there, inside = Path(sys.prefix), folder / ".venv", f"{home}/vllm-hosts/.venv"
    packages = Path(sysconfig.get_path("purelib")).relative_to(here)
    ours = str(packages / "__editable__*")
    names = ["pyvenv.cfg", "bin", str(packages)]
    _copy(here, there, "\0".join(names).encode(), f"--exclude={ours}", "--exclude=__pycache__")
    (there / packages / "vllm_hosts.pth").write_text(f"{home}/vllm-hosts\n")
    for script in (there / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        data = script.read_bytes()
        if data.startswith(b"#!") or b"VIRTUAL_ENV" in data:
            script.write_bytes(data.replace(str(here).encode(), inside.encode()))


def _copy(source: Path, target: Path, names: bytes, *options: str) -> None:
    target.mkdir(exist_ok=True)
    with subprocess.Popen(
        ["tar", "-C", str(source), "--null", *options, "--files-from=-", "-cf", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as packed:
        assert packed.stdin is not None
        packed.stdin.write(names)
        packed.stdin.close()
        subprocess.run(["tar", "-C", str(target), "-xf", "-"], stdin=packed.stdout, check=True)
    if packed.returncode:
        raise subprocess.CalledProcessError(packed.returncode, "tar")


def _uid(root: Path, user: str) -> int:
    for line in (root / "etc/passwd").read_text().splitlines():
        name, _, uid, *_ = line.split(":")
        if name == user:
            return int(uid)
    raise KeyError(user)
