"""Make the project's virtual environment. Runs before anything is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: Seconds until the first word about something that takes long, and between further ones.
_SOON, _OFTEN = 10, 30
#: nginx with what its Lua needs, of one archive, so that they fit each other; and Lua by itself.
#: HAProxy with what asks its runtime socket, keepalived, sshd, and their libraries on whichever
#: Debian this is.
_UNPACKED = (
    *("nginx", "libnginx-mod-http-lua", "libnginx-mod-http-ndk"),
    *("lua-resty-core", "lua-resty-lrucache", "libluajit2-5.1-2", "libpcre3", "luajit"),
    *("haproxy", "socat", "liblua5.3-0", "liblua5.4-0", "libwrap0"),
    *("keepalived", "libnl-3-200", "libnl-genl-3-200", "libmnl0", "libnftnl11", "libpci3"),
    *("libsnmp40", "libsnmp40t64", "libsensors5", "libperl5.40"),
    *("libopentracing-c-wrapper0", "libopentracing1", "openssh-server"),
)
#: Programs that tests use, with the packages that have them.
_USED = {"age": "age", "logrotate": "logrotate", "nft": "nftables"}
_APT = {"DEBIAN_FRONTEND": "noninteractive"}


def main(folder: str) -> None:
    """Create ``folder`` and install the requirements into it.

    :raises SystemExit: Python is too old, or something could not be installed.
    """
    if sys.version_info < (3, 11):
        raise SystemExit(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version}")
    if importlib.util.find_spec("ensurepip") is None:
        _install(["python3-venv"], "Debian keeps it apart from Python")
    may_install = shutil.which("apt-get") is not None and os.geteuid() == 0
    missing = [package for program, package in _USED.items() if not _has(program)]
    if missing and may_install:
        _install(missing, "tests use them")
    quietly([sys.executable, "-m", "venv", "--upgrade-deps", folder], "making the environment")
    pip = [str(Path(folder) / "bin" / "pip"), "install", "--progress-bar", "off"]
    packages = ["-r", "requirements.txt", "-r", "requirements-dev.txt", "-c", "requirements.lock"]
    steps = [
        lambda: quietly([*pip, *packages], "installing Python packages"),
        lambda: _keep_wheels(Path(folder)),
    ]
    names = ("usr/bin/luajit", "usr/sbin/haproxy", "usr/sbin/keepalived", "usr/sbin/sshd")
    programs = [Path(folder) / "debian" / name for name in names]
    if may_install and not all(program.exists() for program in programs):
        steps.append(lambda: _unpack(_UNPACKED, Path(folder) / "debian"))
    # Each of them is at one processor, or waits for an archive.
    with ThreadPoolExecutor(len(steps)) as pool:
        for step in [pool.submit(step) for step in steps]:
            step.result()


def _keep_wheels(folder: Path) -> None:
    """What tests/packaging installs a wheel of ours with, where no registry is asked."""
    lines = [line.partition("#")[0].strip() for line in _lines("requirements.txt")]
    pinned = [line for line in lines if line and not line.startswith("-")]
    shutil.rmtree(folder / "wheels", ignore_errors=True)
    pip = [str(folder / "bin" / "pip"), "wheel", "--progress-bar", "off"]
    where = ["--wheel-dir", str(folder / "wheels")]
    quietly([*pip, *where, *pinned], "keeping wheels for tests/packaging")


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


def quietly(argv: Sequence[str], why: str, *, cwd: Path | None = None) -> None:
    """Run a command, say now and then that it is at work, and show what it printed if it fails.

    :raises SystemExit: it failed.
    """
    print(f"    {why}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **_APT},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        wait = _SOON
        while True:
            try:
                code = process.wait(wait)
                break
            except subprocess.TimeoutExpired:
                wait = _OFTEN
                said.seek(0)
                lines = [line.strip() for line in said if not line.startswith("WARNING")]
                seconds = time.monotonic() - began
                doing = f", {lines[-1][:80]}" if lines else ""
                print(f"    {why}: {seconds:.0f} s{doing}", flush=True)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if code:
            said.seek(0)
            print("\n".join(said.read().splitlines()[-30:]), file=sys.stderr)
            raise SystemExit(f"{why}: {argv[0]} ended with {code}; see its output above")


def _has(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None


def _install(packages: Sequence[str], reason: str) -> None:
    quietly(["apt-get", "-qq", "update"], "reading the archives' lists")
    names = " and ".join(packages)
    quietly(["apt-get", "-qq", "-y", "install", *packages], f"installing {names} ({reason})")


def _is_known(package: str) -> bool:
    shown = ["apt-cache", "show", "--quiet=2", package]
    return subprocess.run(shown, capture_output=True, check=False).returncode == 0


def _unpack(packages: Sequence[str], folder: Path) -> None:
    """Have programs without installing them: this machine is to serve nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    quietly(["apt-get", "-qq", "update"], "reading the archives' lists")
    why = f"fetching {packages[0]} and {packages[-1]} (tests run them on loopback)"
    # Not every Debian has all of them: from 13 on there is no libpcre3, nor a need for it.
    known = [name for name in packages if _is_known(name)]
    quietly(["apt-get", "-qq", "download", *known], why, cwd=folder)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        archive.unlink()


if __name__ == "__main__":
    main(sys.argv[1])
