"""What stays when the lab is down, its caches and its state, and taking that away.

Runs with any Python, without the project's environment: `python3 -m lab.clean`.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lab import network, processes
from lab.layout import CACHE, STATE

#: Builds of recipe.py, whole and unfinished, and their locks.
_BUILT = re.compile(r"(?P<name>[a-z][a-z0-9-]*)-[0-9a-f]{12}")
_UNFINISHED = re.compile(r"\.[a-z][a-z0-9-]*-[0-9a-f]{12}\.unfinished")
_LOCK = re.compile(r"\.[a-z][a-z0-9-]*\.lock")
#: Everything else that the lab makes in the two folders.
_IN_CACHE = {"bench-ansible", "apt", *(f"apt-{number}" for number in range(1, 10)), "wheels"}
_IN_STATE = {
    *("apt-cacher-ng", "ca", "ca.pem", "hosts", "hosts.json", "hub-tokens", "lock", "log"),
    *("archive", "registry.yml", "registry-next", "registry-wrong", "run", "ssh"),
}


def clean(*, cache: Path = CACHE, state: Path = STATE, old: bool = False) -> list[Path]:
    """Remove the lab's caches and its state, and nothing else.

    :param old: only builds that a newer one has replaced, and what was left unfinished.
    :return: what is in these folders and is not the lab's, so that it stays.
    :raises RuntimeError: the lab is up, or something is being built.
    """
    if busy := _busy(cache, state):
        raise RuntimeError(f"the lab is up ({', '.join(busy)}); stop it first: make lab-down")
    chosen = list(_replaced(cache)) if old else [*_ours_in_cache(cache), *_ours_in_state(state)]
    for path in chosen:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if old:
        return []
    left = [path for folder in (cache, state) if folder.is_dir() for path in folder.iterdir()]
    for folder in (cache, state):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return sorted(left)


def _ours_in_cache(cache: Path) -> Iterator[Path]:
    for path in cache.iterdir() if cache.is_dir() else ():
        patterns = (_BUILT, _UNFINISHED, _LOCK)
        if path.name in _IN_CACHE or any(one.fullmatch(path.name) for one in patterns):
            yield path


def _ours_in_state(state: Path) -> Iterator[Path]:
    for path in state.iterdir() if state.is_dir() else ():
        if path.name in _IN_STATE:
            yield path


def _replaced(cache: Path) -> Iterator[Path]:
    """Builds of which the same name has one that was used later."""
    newest: dict[str, Path] = {}
    builds = [path for path in _ours_in_cache(cache) if path.is_dir()]
    for path in sorted(builds, key=lambda path: path.stat().st_mtime):
        if _UNFINISHED.fullmatch(path.name):
            yield path
        elif match := _BUILT.fullmatch(path.name):
            if older := newest.get(match["name"]):
                yield older
            newest[match["name"]] = path


def _busy(cache: Path, state: Path) -> list[str]:
    """What runs, is mounted there, or is being built, in words."""
    found = [record.stem for record in (state / "run").glob("*.json")]
    busy = sorted(name for name in found if processes.alive(name))
    if network.is_up():
        busy.append("its bridge")
    busy += [f"lab {number}" for number in network.others()]
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if any(line.split()[1].startswith(f"{folder}/") for folder in (cache, state)):
            busy.append(f"a mount at {line.split()[1]}")
    for lock in cache.glob(".*.lock"):
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy.append(f"{lock.name.strip('.').removesuffix('.lock')} is being built")
    return busy


def main(old: bool = False) -> int:
    """Clean, and say what that brought."""
    folder = next((path for path in (CACHE, STATE) if path.is_dir()), None)
    free = shutil.disk_usage(folder.parent).free if folder else 0
    try:
        left = clean(old=old)
    except RuntimeError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"lab: {error.filename} is root's; run this as root", file=sys.stderr)
        return 1
    for path in left:
        print(f"lab: {path} is not the lab's and stays", file=sys.stderr)
    freed = shutil.disk_usage(folder.parent).free - free if folder else 0
    print(f"lab: removed {max(freed, 0) / 1e9:.1f} GB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main("--old" in sys.argv[1:]))
