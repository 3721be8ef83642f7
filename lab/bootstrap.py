"""Make the project's virtual environment. Runs before anything is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(folder: str) -> None:
    """Create ``folder`` and install the requirements into it.

    :raises SystemExit: Python is too old, or pip failed.
    """
    if sys.version_info < (3, 11):
        raise SystemExit(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version}")
    if importlib.util.find_spec("ensurepip") is None:
        print("installing python3-venv (Debian keeps it apart from Python)", flush=True)
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "-y", "install", "python3-venv"], check=True)
    may_install = shutil.which("apt-get") is not None and os.geteuid() == 0
    missing = [name for name in ("age", "logrotate") if not _has(name)] if may_install else []
    if missing:
        print(f"installing {' and '.join(missing)} (tests use them)", flush=True)
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "-y", "install", *missing], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--upgrade-deps", folder], check=True)
    pip = [str(Path(folder) / "bin" / "pip"), "install", "--progress-bar", "off"]
    subprocess.run([*pip, "-r", "requirements.txt", "-r", "requirements-dev.txt"], check=True)
    if may_install and not _has("nginx"):
        _unpack("nginx", Path(folder) / "debian")


def _has(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None


def _unpack(package: str, folder: Path) -> None:
    """Have a program without installing it: this machine is to serve nothing."""
    print(f"unpacking {package} (tests run it on loopback)", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "-qq", "update"], check=True)
    subprocess.run(["apt-get", "-qq", "download", package], cwd=folder, check=True)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        archive.unlink()


if __name__ == "__main__":
    main(sys.argv[1])
