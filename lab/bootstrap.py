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
    if shutil.which("age") is None and shutil.which("apt-get") and os.geteuid() == 0:
        print("installing age (a test reads the store of keys with it)", flush=True)
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "-y", "install", "age"], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--upgrade-deps", folder], check=True)
    pip = [str(Path(folder) / "bin" / "pip"), "install", "--progress-bar", "off"]
    subprocess.run([*pip, "-r", "requirements.txt", "-r", "requirements-dev.txt"], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
