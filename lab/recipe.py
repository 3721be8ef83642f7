"""Building things once: folders kept under a hash of what they are made from, with progress lines.

Everything here needs root on Debian, as the lab itself does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.layout import CACHE

#: Seconds without a sign of life after which a running step says that it is still at work, and
#: between further ones.
PATIENCE, OFTEN = 5.0, 30.0
#: How many generations of one name are kept: a running server may still hold the previous one.
GENERATIONS = 2
_POLICY = Path("/usr/sbin/policy-rc.d")


def say(line: str) -> None:
    """One progress line, at once, on stderr: stdout stays free for answers."""
    print(f"lab: {line}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    why: str,
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Run a command to its end and return its stdout; ``why`` is what the progress lines say.

    A step that takes longer than PATIENCE says so, and then every OFTEN seconds. A command that
    fails raises RuntimeError with the end of its output.
    """
    began = time.monotonic()
    patience = PATIENCE
    with tempfile.TemporaryFile("w+", errors="replace") as noise:
        process = subprocess.Popen(
            [str(part) for part in argv],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            errors="replace",
        )
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=patience)
                    break
                except subprocess.TimeoutExpired:
                    say(f"{why} ... {time.monotonic() - began:.0f} s")
                    patience = OFTEN
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode != 0:
            noise.seek(0)
            ending = "\n".join([*output.splitlines(), *noise.read().splitlines()][-25:])
            raise RuntimeError(f"{why}: {argv[0]} ended with {process.returncode}\n{ending}")
    return output


def fingerprint(parts: Iterable[str | Path]) -> str:
    """A short hash of texts and of files' contents, in order."""
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:12]


def files_below(folder: Path) -> list[Path]:
    """Every source file of a folder in a fixed order, for use as parts of a recipe."""
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )


def keep(name: str, recipe: Iterable[str | Path], make: Callable[[Path], None]) -> Path:
    """The folder CACHE/name-HASH, made by ``make(empty folder)`` unless it is already there.

    The folder appears complete or not at all, also when several processes ask at the same time:
    they wait for the first one. Names end in a hash of ``recipe``, so a changed recipe is a new
    folder.
    """
    folder = CACHE / f"{name}-{fingerprint(recipe)}"
    if folder.is_dir():
        # The generations that are kept are those used last.
        os.utime(folder)
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / f".{name}.lock", name):
        if folder.is_dir():
            return folder
        began = time.monotonic()
        unfinished = CACHE / f".{folder.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            make(unfinished)
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if (seconds := time.monotonic() - began) >= PATIENCE:
            say(f"{name}: built in {seconds:.0f} s; kept for the next time")
        _forget_old(name)
    return folder


def ensure_packages(names: Iterable[str]) -> None:
    """Install those of these Debian packages that are missing, without starting any service."""
    missing = [name for name in names if not _installed(name)]
    if not missing:
        return
    say(f"installing Debian packages: {' '.join(missing)}")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / ".apt.lock", "apt"), _no_service_starts():
        run(["apt-get", "update"], "refreshing package lists", env=quiet)
        run(install, "installing packages", env=quiet)


def _installed(name: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts what it installs; 101 from policy-rc.d is its documented way to refuse."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    with path.open("w") as lock:
        waited = 0.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % OFTEN == 0:
                    say(f"{name}: another process is building it, waiting")
                time.sleep(0.5)
                waited += 0.5
        yield


def _forget_old(name: str) -> None:
    """Keep the newest GENERATIONS of a name, so that changed recipes do not fill the disk."""
    of_name = [
        path
        for path in CACHE.glob(f"{name}-*")
        if path.is_dir() and len(path.name) == len(name) + 1 + len(fingerprint([]))
    ]
    of_name.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in of_name[GENERATIONS:]:
        say(f"{name}: forgetting {path.name}")
        shutil.rmtree(path, ignore_errors=True)
